//! Fuzz targets for the parsers of this crate. The `fuzz` folder contains their executables, and the tests of
//! each crate run the targets on the seed files. Not part of release builds.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use unicode_normalization::is_nfc;

use crate::{Cursor, PageLimit, RequestId, Text, TextRules, Timestamp, UserId, days};

/// Fuzz target: its name and the function that checks one input. The function panics if the input violates a
/// property.
pub type Target = (&'static str, fn(&[u8]));

/// Fuzz targets of this crate.
pub const TARGETS: &[Target] = &[("text", text), ("marks", scalars)];

/// Runs each target on its seed files in `fuzz/seeds/<name>`.
///
/// # Panics
/// If an input violates a property, or if a target has no seed files.
pub fn run_on_seeds(targets: &[Target]) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    for (name, target) in targets {
        let folder =
            fs::read_dir(seeds.join(name)).unwrap_or_else(|error| panic!("seeds of {name}: {error}"));
        let files: Vec<_> = folder.map(|entry| entry.expect("an entry of a folder").path()).collect();
        assert!(!files.is_empty(), "{name} has no seeds");
        for file in files {
            println!("{}", file.display());
            target(&fs::read(&file).expect("a seed can be read"));
        }
    }
}

/// Checks the validation of text fields: accepted text is in NFC, trimmed and within its bounds. Parsing it
/// again returns the same text.
pub fn text(data: &[u8]) {
    let Ok(input) = str::from_utf8(data) else { return };
    for rules in [
        TextRules { min: 1, max: 40, newlines: false },
        TextRules { min: 0, max: 2_000, newlines: true },
        TextRules { min: 3, max: 5, newlines: true },
    ] {
        match Text::parse(input, rules, "/x") {
            Ok(text) => {
                let kept = text.as_str();
                assert!(is_nfc(kept) && kept.trim() == kept, "{kept:?}");
                assert!((rules.min..=rules.max).contains(&kept.chars().count()), "{kept:?}");
                let control = |c: char| c.is_control() && !(rules.newlines && c == '\n');
                let turning = |c: char| {
                    "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}".contains(c)
                };
                assert!(!kept.contains(control) && !kept.contains(turning), "{kept:?}");
                assert_eq!(Text::parse(kept, rules, "/x").as_ref(), Ok(&text));
            }
            Err(fault) => {
                assert_eq!(fault.pointer, "/x");
                assert!(["too_short", "too_long", "forbidden_character", "blank"].contains(&fault.code));
            }
        }
    }
}

/// Checks ids, times, cursors, page sizes and request ids. Each accepted value has exactly one textual form,
/// which parses to the same value.
pub fn scalars(data: &[u8]) {
    if let Some((number, _)) = data.split_first_chunk() {
        times(i64::from_le_bytes(*number));
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<UserId>() {
        let written = id.to_string();
        assert_eq!((written.len(), written.parse()), (36, Ok(id)));
        assert_eq!(written, written.to_lowercase());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        let written = at.to_string();
        assert_eq!(written.parse::<Timestamp>().expect("our own"), at, "{written}");
        reads_back(&at);
    }
    if let Some(id) = RequestId::accept(text) {
        assert_eq!(id.as_str(), text);
        assert!(
            (8..=64).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
        );
    }
    let cursor: Cursor =
        serde_json::from_value(text.into()).expect("any text is a cursor until its key is asked for");
    cursor_of::<(i64, UserId)>(&cursor);
    cursor_of::<(Option<String>, UserId)>(&cursor);
    cursor_of::<(Timestamp, UserId)>(&cursor);
    cursor_of::<i64>(&cursor);
}

fn times(number: i64) {
    let at = Timestamp::from_millis(number);
    let written = at.to_string();
    if written.ends_with('Z') {
        assert_eq!(written.parse::<Timestamp>().expect("our own"), at);
    }
    assert!(at + days(30) >= at && at - days(30) <= at);
    assert!((at + days(30)).since(at) <= days(30));
    if let Some(limit) = PageLimit::new(number) {
        assert!(number >= 1 && (2..=101).contains(&limit.rows()));
    }
}

fn reads_back<T: Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug>(value: &T) {
    let written = serde_json::to_string(value).expect("plain data");
    assert_eq!(&serde_json::from_str::<T>(&written).expect("our own"), value, "{written}");
}

/// Checks that a decoded cursor key can be encoded again, and that the new cursor decodes to the same key.
fn cursor_of<K: Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug>(cursor: &Cursor) {
    let Ok(key) = cursor.key::<K>() else { return };
    let ours = Cursor::at(&key);
    assert_eq!(ours.key::<K>().expect("our own"), key);
    assert!(ours.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_inputs_satisfy_properties() {
        run_on_seeds(TARGETS);
    }
}
