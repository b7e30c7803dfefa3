//! Violations that the validation of a value reports.

use std::borrow::Cow;

/// Violation of a schema by one part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON Pointer of the part within the validated value.
    pub pointer: String,
    /// Kind of violation.
    pub kind: ViolationKind,
    /// Sentence for people. It contains no part of the value.
    pub detail: Cow<'static, str>,
}

/// Kind of a [`Violation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViolationKind {
    /// The object lacks this required field.
    MissingField(String),
    /// The field is not allowed.
    UnknownField,
    /// The value has another JSON type.
    WrongType,
    /// The number is too large or too small.
    OutOfRange,
    /// The text has too few characters.
    TooShort,
    /// The text has too many characters.
    TooLong,
    /// The array has too few items.
    TooFew,
    /// The array has too many items.
    TooMany,
    /// The value does not match what a combination of schemas requires, such as `oneOf`.
    Combination,
    /// Any other violation.
    Other,
}
