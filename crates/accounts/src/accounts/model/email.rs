//! E-mail addresses: validation and comparison keys.

use email_address::{EmailAddress, Options};
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use kith_kernel::{FieldError, Text, TextRules};
use unicode_normalization::UnicodeNormalization as _;

const EMAIL: TextRules = TextRules { min: 3, max: 254, newlines: false };

/// E-mail address that is valid for registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// Address as typed, normalized to NFC and trimmed.
    pub address: String,
    /// Comparison key: two addresses with the same key are the same mailbox.
    pub key: String,
}

impl Email {
    /// Parses and normalizes an address. `pointer` is the JSON Pointer of the field, for the error.
    ///
    /// # Errors
    /// Returns a [`FieldError`] with the code `not_an_email`, or an error of [`Text::parse`].
    pub fn parse(input: &str, pointer: &'static str) -> Result<Self, FieldError> {
        let address = Text::parse(input, EMAIL, pointer)?.into_string();
        let options = Options::default().with_required_tld().without_display_text().without_domain_literal();
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        // Rejects a quoted local part: `"ada"@example.org` and `ada@example.org` are the same mailbox (RFC
        // 5321, 4.1.2).
        let is_quoted = address.starts_with('"');
        if is_quoted
            || EmailAddress::parse_with_options(&address, options).is_err()
            || ascii_domain(domain).is_none()
        {
            return Err(FieldError::new(
                pointer,
                "not_an_email",
                "Expected an e-mail address such as name@example.org.",
            ));
        }
        let key = Self::comparison_key(&address);
        Ok(Self { address, key })
    }

    /// Returns the comparison key of any text, even if it is not a valid address. The key is in NFC and
    /// lower case. The domain is in its ASCII form (UTS #46), so that an internationalized domain and its
    /// ASCII form have the same key. All texts longer than 1,024 bytes share one key that no address has,
    /// because normalizing them could take seconds.
    pub fn comparison_key(input: &str) -> String {
        if input.trim().len() > MAX_ADDRESS_BYTES {
            return OVERSIZED_KEY.to_owned();
        }
        let fold = |text: &str| text.nfc().flat_map(char::to_lowercase).nfc().collect::<String>();
        let input = input.trim();
        match input.rsplit_once('@').and_then(|(local, domain)| Some((local, ascii_domain(domain)?))) {
            Some((local, domain)) => format!("{}@{domain}", fold(local)),
            None => fold(input),
        }
    }
}

/// Maximum length of an address of 254 characters in bytes of UTF-8, rounded up.
const MAX_ADDRESS_BYTES: usize = 1_024;
/// Key of all texts longer than [`MAX_ADDRESS_BYTES`].
const OVERSIZED_KEY: &str = "too long";

/// Converts a domain to its ASCII form in lower case (UTS #46). `None` if it is not a valid domain.
fn ascii_domain(domain: &str) -> Option<String> {
    let (hyphens, length) = (Hyphens::CheckFirstLast, DnsLength::Verify);
    let ascii = Uts46::new().to_ascii(domain.as_bytes(), AsciiDenyList::STD3, hyphens, length);
    ascii.ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn email_key_ignores_case_and_unicode_composition() {
        let key = |input| Email::parse(input, "/email").unwrap().key;
        assert_eq!(key(" Ada@Example.ORG "), "ada@example.org");
        assert_eq!(key("e\u{301}va@example.org"), key("ÉVA@example.org"));
        assert_eq!(Email::comparison_key("\tADA@example.org"), "ada@example.org");
        let long = format!("a@{}", "\u{4e00}.".repeat(100_000));
        assert_eq!(
            [Email::comparison_key(&long), Email::comparison_key(OVERSIZED_KEY)],
            [OVERSIZED_KEY, OVERSIZED_KEY]
        );
        assert!(Email::parse(OVERSIZED_KEY, "/email").is_err());
    }

    #[test]
    fn email_key_uses_ascii_form_of_domain() {
        let key = |input| Email::parse(input, "/email").unwrap().key;
        for spelling in [
            "ada@bücher.example",
            "ADA@BÜCHER.example",
            "ada@bu\u{308}cher.example",
            "ada@xn--bcher-kva.example",
        ] {
            assert_eq!(key(spelling), "ada@xn--bcher-kva.example", "{spelling}");
            assert_eq!(Email::comparison_key(spelling), key(spelling));
            assert_eq!(Email::comparison_key(&key(spelling)), key(spelling));
        }
        assert_eq!(key("ada@ｅｘａｍｐｌｅ.org"), "ada@example.org");
        assert_eq!(key("ÉVA@straße.example"), "éva@xn--strae-oqa.example");
        // The stored address keeps the domain as typed; only the key contains the ASCII form.
        assert_eq!(Email::parse("Ada@Bücher.example", "/email").unwrap().address, "Ada@Bücher.example");
        for text in ["", "@", "a@", "x@y＠z.org", "a@xn--a", "purged:1@2", "a@b@bücher.example"] {
            assert_eq!(
                Email::comparison_key(&Email::comparison_key(text)),
                Email::comparison_key(text),
                "{text}"
            );
        }
    }

    #[test]
    fn invalid_email_is_rejected() {
        for hostile in [
            "ada",
            "ada@",
            "@example.org",
            "ada@localhost",
            "a b@example.org",
            "\"ada\"@example.org",
            "\"a b\"@example.org",
            "Ada <ada@example.org>",
            "ada@xn--a.org",
            "ada@-a.org",
        ] {
            assert_eq!(Email::parse(hostile, "/email").unwrap_err().code, "not_an_email", "{hostile:?}");
        }
        let long = format!("{}@example.org", "a".repeat(243));
        assert_eq!(Email::parse(&long, "/email").unwrap_err().code, "too_long");
        assert_eq!(Email::parse("ada@example.org\0", "/email").unwrap_err().code, "forbidden_character");
    }
}
