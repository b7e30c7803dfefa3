//! Checks the strength of the stored password hashes.

use kith_readiness::{Check, Run, Shortfall};

use serde::Deserialize;

use crate::synthetic_accounts::ensure;

pub(super) const CHECKS: &[Check] = &[Check {
    row: "ACC-06",
    description: "reads the server's count of password hashes by scheme and cost, and compares each with the policy",
    remediation: "set auth.password_memory_kib and auth.password_iterations to at least their defaults; weak hashes \
           are replaced when their owners next sign in or change the password",
    runs_last: false,
    run: |run| Box::pin(check_password_hashes(run)),
}];

/// Minimum memory in KiB for each number of passes. With these settings, Argon2id costs at least as much as
/// bcrypt with cost 12. They are equivalent settings in the OWASP Password Storage Cheat Sheet.
const ARGON2ID: [(u32, u32); 5] = [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5)];
const BCRYPT_COST: u32 = 12;

/// Group of accounts whose passwords are hashed with the same parameters. Source: the fact
/// `accounts.password_hashes`.
#[derive(Clone, Debug, Deserialize)]
struct HashGroup {
    /// Hash scheme: `argon2id`, `bcrypt` or another.
    scheme: String,
    /// Cost parameters: for Argon2id a text such as `m=19456,t=2,p=1`, for bcrypt its cost.
    cost: String,
    accounts: i64,
}

impl HashGroup {
    /// Returns true if the cost reaches the required minimum.
    fn is_strong(&self) -> bool {
        match &*self.scheme {
            "bcrypt" => self.cost.parse::<u32>().is_ok_and(|cost| cost >= BCRYPT_COST),
            "argon2id" => {
                let of =
                    |name| self.cost.split(',').find_map(|part| part.strip_prefix(name)?.parse::<u32>().ok());
                let (Some(memory), Some(passes)) = (of("m="), of("t=")) else { return false };
                ARGON2ID.iter().any(|(least, times)| memory >= *least && passes >= *times)
            }
            _ => false,
        }
    }
}

async fn check_password_hashes(run: &Run) -> Result<String, Shortfall> {
    let mut facts = run.facts().await?;
    let reported = facts["modules"]["accounts.password_hashes"].take();
    let Ok(kinds) = serde_json::from_value::<Vec<HashGroup>>(reported.clone()) else {
        return Err(Shortfall::unmeasured(
            "the server does not report its password hashes",
            "deploy this build",
        ));
    };
    run.record("hashes", reported);
    let all: i64 = kinds.iter().map(|kind| kind.accounts).sum();
    ensure(all > 0, || "the server counts no passwords, although the caller has one".to_owned())?;
    let weak = kinds.iter().find(|kind| !kind.is_strong());
    let reported = |kind: &HashGroup| format!("{} of {all} by {} {}", kind.accounts, kind.scheme, kind.cost);
    ensure(weak.is_none(), || format!("below policy: {}", weak.map(reported).unwrap_or_default()))?;
    let kinds: Vec<_> = kinds.iter().map(reported).collect();
    Ok(format!("all {all} password hashes meet the policy: {}", kinds.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test of readiness row ACC-06.
    #[test]
    fn only_hashes_as_strong_as_bcrypt_12_are_accepted() {
        for (scheme, cost, strong) in [
            ("argon2id", "m=19456,t=2,p=1", true),
            ("argon2id", "m=65536,t=3,p=4", true),
            ("argon2id", "m=12288,t=3,p=1", true),
            ("argon2id", "m=12288,t=2,p=1", false),
            ("argon2id", "m=19455,t=2,p=1", false),
            ("argon2id", "", false),
            ("argon2i", "m=65536,t=3,p=4", false),
            ("bcrypt", "12", true),
            ("bcrypt", "14", true),
            ("bcrypt", "11", false),
            ("1", "", false),
            ("unknown", "", false),
        ] {
            let hashes = HashGroup { scheme: scheme.to_owned(), cost: cost.to_owned(), accounts: 1 };
            assert_eq!(hashes.is_strong(), strong, "{scheme} {cost}");
        }
    }
}
