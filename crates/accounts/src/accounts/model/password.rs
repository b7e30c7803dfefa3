//! Normalization and validation of passwords.

use kith_kernel::FieldError;
use unicode_normalization::UnicodeNormalization as _;

const PASSWORD_LENGTH: std::ops::RangeInclusive<usize> = 8..=256;

/// Password normalized to NFC. Its `Debug` output is `***`, so that logs cannot contain it.
#[derive(Clone)]
pub struct Password(String);

/// Passwords of at least eight characters from the top of published lists of leaked passwords, in lower case.
const COMMON_PASSWORDS: &[&str] = &[
    "password",
    "password1",
    "password12",
    "password123",
    "passw0rd",
    "p@ssword",
    "p@ssw0rd",
    "12345678",
    "123456789",
    "1234567890",
    "0123456789",
    "0987654321",
    "987654321",
    "87654321",
    "12341234",
    "11223344",
    "123123123",
    "123454321",
    "1q2w3e4r",
    "1q2w3e4r5t",
    "q1w2e3r4",
    "qwertyui",
    "qwertyuiop",
    "qwerty12",
    "qwerty123",
    "qwertz123",
    "asdfghjk",
    "asdfghjkl",
    "zxcvbnm1",
    "abcdefgh",
    "abcd1234",
    "abc12345",
    "a1b2c3d4",
    "iloveyou",
    "iloveyou1",
    "letmein1",
    "letmein123",
    "welcome1",
    "welcome123",
    "admin123",
    "administrator",
    "changeme",
    "secret123",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "superman",
    "trustno1",
    "starwars",
    "whatever",
    "computer",
    "internet",
    "michelle",
    "jennifer",
    "monkey123",
    "dragon123",
    "master123",
    "testtest",
    "test1234",
];

impl Password {
    /// Normalizes a password to NFC, so that all keyboards produce the same bytes. Does not validate it.
    pub fn normalize(input: &str) -> Self {
        Self(input.nfc().collect())
    }

    /// Normalizes and validates a new password: 8 to 256 code points, and not a common password.
    ///
    /// # Errors
    /// Returns a [`FieldError`] with the code `too_short`, `too_long` or `too_common`.
    pub fn parse_new(input: &str, pointer: &'static str) -> Result<Self, FieldError> {
        let password = Self::normalize(input);
        let length = password.0.chars().count();
        if length < *PASSWORD_LENGTH.start() {
            return Err(FieldError::new(pointer, "too_short", "Expected at least 8 characters."));
        }
        if length > *PASSWORD_LENGTH.end() {
            return Err(FieldError::new(pointer, "too_long", "Expected at most 256 characters."));
        }
        if password.is_common() {
            let detail = "This password is too common. Choose another one.";
            return Err(FieldError::new(pointer, "too_common", detail));
        }
        Ok(password)
    }

    /// Returns `true` if the password is in [`COMMON_PASSWORDS`] or repeats a single character. Ignores
    /// letter case.
    fn is_common(&self) -> bool {
        let folded = self.0.to_lowercase();
        let is_uniform = folded.chars().all(|c| folded.starts_with(c));
        is_uniform || COMMON_PASSWORDS.contains(&folded.as_str())
    }

    /// Returns the plain text. Pass it only to the hash function.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_length_is_counted_in_code_points() {
        let code =
            |input: &str| Password::parse_new(input, "/password").map(|_| ()).map_err(|fault| fault.code);
        assert_eq!(code(&"é".repeat(7)), Err("too_short"));
        assert_eq!(code(&"éa".repeat(4)), Ok(()));
        assert_eq!(code(&"éa".repeat(128)), Ok(()));
        for common in ["password", "Password", "PASSWORD123", "12345678", "aaaaaaaa", "éééééééé", "P@ssw0rd"]
        {
            assert_eq!(code(common), Err("too_common"), "{common}");
        }
        assert_eq!(code("passwords are long"), Ok(()));
        assert_eq!(code(&"é".repeat(257)), Err("too_long"));
        assert_eq!(
            Password::normalize("cafe\u{301}").into_string(),
            Password::normalize("café").into_string()
        );
    }
}
