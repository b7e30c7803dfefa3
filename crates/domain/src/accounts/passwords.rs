//! By which scheme and at what cost passwords are kept, counted: never a hash, never a salt.

use kith_platform::Fact;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::rows;

/// What administrators are told.
pub const FACTS: &[Fact] = &[Fact {
    name: "accounts.password_hashes",
    read: |q, _| {
        let counted = rows::count_hashes(q)?;
        Ok(json!(counted.iter().map(|(begins, accounts)| Hashes::of(begins, *accounts)).collect::<Vec<_>>()))
    },
}];

/// Memory (KiB) and passes at which Argon2id costs as much as bcrypt at cost 12 at least: the OWASP Password Storage Cheat
/// Sheet's equal settings.
const ARGON2ID: [(u32, u32); 5] = [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5)];
const BCRYPT_COST: u32 = 12;

/// Accounts whose passwords are kept alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// `argon2id`, `bcrypt`, or what else it is.
    pub scheme: String,
    /// What a guess costs: `m=19456,t=2,p=1`, or bcrypt's cost.
    pub cost: String,
    /// How many.
    pub accounts: i64,
}

impl Hashes {
    /// From what stands before the salt: `$argon2id$v=19$m=19456,t=2,p=1`, `$2b$12$`.
    fn of(begins: &str, accounts: i64) -> Self {
        let mut parts = begins.split('$').skip(1);
        let (scheme, cost) = match (parts.next(), parts.next(), parts.next()) {
            (Some("2a" | "2b" | "2y"), Some(cost), _) => ("bcrypt", cost),
            (Some(scheme), Some("v=19"), Some(cost)) => (scheme, cost),
            (Some(scheme), ..) => (scheme, ""),
            (None, ..) => ("unknown", ""),
        };
        Self { scheme: scheme.to_owned(), cost: cost.to_owned(), accounts }
    }

    /// Whether a guess costs as much as policy asks for.
    pub fn is_strong(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// ACC-06.
    #[test]
    fn a_hash_is_strong_from_bcrypt_12_and_what_costs_as_much() {
        for (begins, scheme, strong) in [
            ("$argon2id$v=19$m=19456,t=2,p=1", "argon2id", true),
            ("$argon2id$v=19$m=65536,t=3,p=4", "argon2id", true),
            ("$argon2id$v=19$m=12288,t=3,p=1", "argon2id", true),
            ("$argon2id$v=19$m=12288,t=2,p=1", "argon2id", false),
            ("$argon2id$v=19$m=19455,t=2,p=1", "argon2id", false),
            ("$argon2i$v=19$m=65536,t=3,p=4", "argon2i", false),
            ("$argon2id$v=16$m=65536,t=3,p=4", "argon2id", false),
            ("$2b$12$", "bcrypt", true),
            ("$2y$14$", "bcrypt", true),
            ("$2a$11$", "bcrypt", false),
            ("$1$salt", "1", false),
            ("unknown", "unknown", false),
            ("", "unknown", false),
        ] {
            let hashes = Hashes::of(begins, 1);
            assert_eq!((&*hashes.scheme, hashes.is_strong()), (scheme, strong), "{begins}");
        }
    }
}
