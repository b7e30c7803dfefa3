//! Reports the schemes and costs of the stored password hashes to administrators, without hashes and salts.

use kith_platform::Fact;
use serde::Serialize;
use serde_json::json;

use super::rows;

/// Facts that this module reports to administrators.
pub const FACTS: &[Fact] = &[Fact {
    name: "accounts.password_hashes",
    read: |q, _| {
        let counted = rows::count_hashes(q)?;
        Ok(json!(
            counted
                .iter()
                .map(|(prefix, accounts)| PasswordHashCount::parse(prefix, *accounts))
                .collect::<Vec<_>>()
        ))
    },
}];

/// Number of accounts whose password hashes have the same scheme and cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PasswordHashCount {
    /// Scheme, such as `argon2id` or `bcrypt`; `unknown` if not recognized.
    pub scheme: String,
    /// Cost parameters: `m=19456,t=2,p=1`, or the cost of bcrypt; empty if not recognized.
    pub cost: String,
    /// Number of accounts.
    pub accounts: i64,
}

impl PasswordHashCount {
    /// Parses the beginning of a hash, up to its salt: `$argon2id$v=19$m=19456,t=2,p=1` or `$2b$12$`.
    fn parse(prefix: &str, accounts: i64) -> Self {
        let mut parts = prefix.split('$').skip(1);
        let (scheme, cost) = match (parts.next(), parts.next(), parts.next()) {
            (Some("2a" | "2b" | "2y"), Some(cost), _) => ("bcrypt", cost),
            (Some(scheme), Some("v=19"), Some(cost)) => (scheme, cost),
            (Some(scheme), ..) => (scheme, ""),
            (None, ..) => ("unknown", ""),
        };
        Self { scheme: scheme.to_owned(), cost: cost.to_owned(), accounts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check ACC-06 of `kith verify` depends on these names of schemes and costs.
    #[test]
    fn password_hash_is_counted_by_scheme_and_cost() {
        for (prefix, scheme, cost) in [
            ("$argon2id$v=19$m=19456,t=2,p=1", "argon2id", "m=19456,t=2,p=1"),
            ("$argon2i$v=19$m=65536,t=3,p=4", "argon2i", "m=65536,t=3,p=4"),
            ("$argon2id$v=16$m=65536,t=3,p=4", "argon2id", ""),
            ("$2b$12$", "bcrypt", "12"),
            ("$2y$14$", "bcrypt", "14"),
            ("$2a$11$", "bcrypt", "11"),
            ("$1$salt", "1", ""),
            ("unknown", "unknown", ""),
            ("", "unknown", ""),
        ] {
            let hashes = PasswordHashCount::parse(prefix, 1);
            assert_eq!((&*hashes.scheme, &*hashes.cost), (scheme, cost), "{prefix}");
        }
    }
}
