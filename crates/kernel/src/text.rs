//! Validation of text entered by people. Valid text is in NFC, trimmed and bounded in length. It has at least
//! one visible character, and no control or bidi-override characters.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup, WhiteSpace};
use icu_properties::{CodePointMapData, CodePointSetData};
use unicode_normalization::UnicodeNormalization;

use crate::FieldError;

/// Constraints of a text field.
#[derive(Clone, Copy, Debug)]
pub struct TextRules {
    /// Minimum number of code points after normalization and trimming.
    pub min: usize,
    /// Maximum number of code points after normalization and trimming.
    pub max: usize,
    /// Allows line breaks.
    pub newlines: bool,
}

/// Text that satisfies its [`TextRules`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Normalizes and trims `input` and checks it against `rules`. `pointer` is the JSON Pointer of the
    /// field, for the error.
    ///
    /// # Errors
    /// Returns a [`FieldError`] with the code `too_short`, `too_long`, `forbidden_character` or `blank`.
    pub fn parse(input: &str, rules: TextRules, pointer: &'static str) -> Result<Self, FieldError> {
        let composed: String = input.nfc().collect();
        // Convert CRLF and CR line endings to LF.
        let composed =
            if rules.newlines { composed.replace("\r\n", "\n").replace('\r', "\n") } else { composed };
        let text = composed.trim();
        let length = text.chars().count();
        if length < rules.min {
            return Err(FieldError::new(
                pointer,
                "too_short",
                format!("Must have at least {} characters.", rules.min),
            ));
        }
        if length > rules.max {
            return Err(FieldError::new(
                pointer,
                "too_long",
                format!("Must have at most {} characters.", rules.max),
            ));
        }
        if text.chars().any(|c| is_forbidden(c) && !(rules.newlines && c == '\n')) {
            let detail = "Control characters and direction overrides are not allowed.";
            return Err(FieldError::new(pointer, "forbidden_character", detail));
        }
        if !text.is_empty() && !text.chars().any(is_visible) {
            return Err(FieldError::new(pointer, "blank", "Must have at least one visible character."));
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the normalized text.
    pub fn into_string(self) -> String {
        self.0
    }

    /// Returns the normalized text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns true for control characters, and for bidi overrides and isolates, which can make a text look like
/// another text. ZWNJ, ZWJ, RLM and LRM are allowed, because some scripts need them.
fn is_forbidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Characters that are invisible although no Unicode property marks them as invisible: BRAILLE PATTERN BLANK,
/// KHITAN SMALL SCRIPT FILLER, MUSICAL SYMBOL NULL NOTHEAD.
const BLANKS: [char; 3] = ['\u{2800}', '\u{16FE4}', '\u{1D159}'];

/// Returns true if the character is visible by itself. Returns false for spaces, format characters and
/// default-ignorable characters, such as ZERO WIDTH SPACE or HANGUL FILLER.
fn is_visible(c: char) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    !(CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
        || CodePointSetData::new::<WhiteSpace>().contains(c)
        || GeneralCategoryGroup::Separator.contains(category)
        || matches!(category, GeneralCategory::Format | GeneralCategory::Control)
        || BLANKS.contains(&c))
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
    fn each_invalid_text_has_its_error_code() {
        let code = |input: &str, rules| Text::parse(input, rules, "/x").unwrap_err().code;
        assert_eq!(code("   ", NAME), "too_short");
        assert_eq!(code("abcdef", NAME), "too_long");
        for hostile in ["a\0b", "a\u{202E}b", "a\u{2066}b", "a\nb", "a\u{7f}b"] {
            assert_eq!(code(hostile, NAME), "forbidden_character", "{hostile:?}");
        }
        assert!(Text::parse("a\nb", TextRules { newlines: true, ..NAME }, "/x").is_ok());
        assert!(Text::parse("a\u{200D}b", NAME, "/x").is_ok());
        let lines = TextRules { newlines: true, ..NAME };
        assert_eq!(Text::parse("a\r\nb\rc", lines, "/x").unwrap().as_str(), "a\nb\nc");
        assert_eq!(code("a\r\nb", NAME), "forbidden_character");
    }

    #[test]
    fn invisible_text_is_rejected_as_blank() {
        let code =
            |input: &str, min| Text::parse(input, TextRules { min, max: 40, newlines: true }, "/x").err();
        for invisible in [
            "\u{200B}",
            "\u{200C}\u{200D}",
            "\u{2060}",
            "\u{FEFF}",
            "\u{00AD}",
            "\u{034F}",
            "\u{061C}",
            "\u{115F}",
            "\u{1160}",
            "\u{17B4}",
            "\u{180E}",
            "\u{2800}",
            "\u{3164}",
            "\u{FFA0}",
            "\u{FE0F}",
            "\u{E0001}\u{E0041}",
            "\u{200B} \u{200B}",
            "\u{2800}\n\u{2800}",
            "\u{16FE4}",
            "\u{1D159}",
        ] {
            for min in [0, 1] {
                assert_eq!(code(invisible, min).map(|fault| fault.code), Some("blank"), "{invisible:?}");
            }
        }
        assert_eq!(code("", 0), None, "an empty text is valid if the minimum is 0");
        // Letters of any script, marks and emoji are visible. Joiners inside words are preserved.
        for visible in
            ["\u{200B}a", "نامه\u{200C}ای", "क्\u{200D}ष", "👩\u{200D}🚀", "가", "ᄀ\u{1160}", "⠁", "-"]
        {
            assert_eq!(code(visible, 1), None, "{visible:?}");
        }
    }
}
