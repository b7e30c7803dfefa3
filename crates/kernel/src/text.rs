//! Text as people type it, made safe to keep: NFC, trimmed, bounded, without control or bidi-override characters.

use unicode_normalization::UnicodeNormalization;

use crate::FieldError;

/// What a text field accepts.
#[derive(Clone, Copy, Debug)]
pub struct TextRules {
    /// Fewest code points after cleaning.
    pub min: usize,
    /// Most code points after cleaning.
    pub max: usize,
    /// Whether line breaks may stand in it.
    pub newlines: bool,
}

/// Text that has passed its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Cleans `input` and checks it against `rules`; `pointer` names the field in the error.
    ///
    /// # Errors
    /// The fault found: `too_short`, `too_long` or `forbidden_character`.
    pub fn parse(input: &str, rules: TextRules, pointer: &'static str) -> Result<Self, FieldError> {
        let composed: String = input.nfc().collect();
        let text = composed.trim();
        let length = text.chars().count();
        if length < rules.min {
            return Err(FieldError::new(pointer, "too_short", format!("At least {} characters.", rules.min)));
        }
        if length > rules.max {
            return Err(FieldError::new(pointer, "too_long", format!("At most {} characters.", rules.max)));
        }
        if text.chars().any(|c| is_forbidden(c) && !(rules.newlines && c == '\n')) {
            let detail = "Control characters and direction overrides are not allowed.";
            return Err(FieldError::new(pointer, "forbidden_character", detail));
        }
        Ok(Self(text.to_owned()))
    }

    /// The cleaned text.
    pub fn into_string(self) -> String {
        self.0
    }

    /// The cleaned text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters, and the bidi overrides and isolates that can make a text read as another.
/// ZWNJ, ZWJ and RLM/LRM stay: scripts need them.
fn is_forbidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: TextRules = TextRules { min: 1, max: 5, newlines: false };

    #[test]
    fn text_is_composed_and_trimmed() {
        assert_eq!(Text::parse("  e\u{301}a ", NAME, "/x").unwrap().as_str(), "éa");
    }

    #[test]
    fn faults_are_named() {
        let code = |input: &str, rules| Text::parse(input, rules, "/x").unwrap_err().code;
        assert_eq!(code("   ", NAME), "too_short");
        assert_eq!(code("abcdef", NAME), "too_long");
        for hostile in ["a\0b", "a\u{202E}b", "a\u{2066}b", "a\nb", "a\u{7f}b"] {
            assert_eq!(code(hostile, NAME), "forbidden_character", "{hostile:?}");
        }
        assert!(Text::parse("a\nb", TextRules { newlines: true, ..NAME }, "/x").is_ok());
        assert!(Text::parse("a\u{200D}b", NAME, "/x").is_ok());
    }
}
