//! By which scheme and at what cost passwords are kept, counted: never a hash, never a salt.

use kith_platform::Fact;
use serde::Serialize;
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

/// Accounts whose passwords are kept alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ACC-06: `kith verify` judges scheme and cost.
    #[test]
    fn a_hash_is_counted_by_scheme_and_cost() {
        for (begins, scheme, cost) in [
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
            let hashes = Hashes::of(begins, 1);
            assert_eq!((&*hashes.scheme, &*hashes.cost), (scheme, cost), "{begins}");
        }
    }
}
