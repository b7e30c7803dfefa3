//! Errors of a configuration. They never contain values, because any value may be a secret.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;
use toml::Value;

use super::Config;

/// Source of a setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built-in default.
    Default,
    /// Configuration file.
    File(PathBuf),
    /// Environment variable.
    Env(String),
    /// Command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Error of a configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path} (named by {named_by}): {source}")]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Setting, flag or default that named the file.
        named_by: Origin,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is not valid TOML.
    #[error("{path} is not valid TOML at line {line}: {why}")]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Line number, starting at 1.
        line: usize,
        /// Message of the parser. It contains no text of the file.
        why: String,
    },
    /// The key does not exist.
    #[error("unknown configuration key `{key}` (set by {origin})")]
    UnknownKey {
        /// Key, as `section.key`.
        key: String,
        /// Source that set the key.
        origin: Origin,
    },
    /// The value has the wrong type.
    #[error("`{key}` must be {expected}, but {origin} sets it to {found}")]
    WrongType {
        /// Key, as `section.key`.
        key: String,
        /// Expected type, such as `an integer`.
        expected: &'static str,
        /// Type of the value, such as `a string`.
        found: &'static str,
        /// Source of the value.
        origin: Origin,
    },
    /// The value is invalid, or not allowed in this mode.
    #[error("`{key}` {why} (set by {origin})")]
    Rejected {
        /// Key, as `section.key`.
        key: String,
        /// Reason, as a phrase that follows the key: `must be at least 1`.
        why: String,
        /// Source of the value.
        origin: Origin,
    },
    /// A key that production mode requires is not set.
    #[error("`{key}` must be set in production mode, by {variables}; `kith secrets generate` creates one")]
    Missing {
        /// Key, as `section.key`.
        key: &'static str,
        /// Environment variables that set the key.
        variables: String,
    },
    /// Two variables set the same key.
    #[error("{first} and {second} set the same key: remove one of them")]
    SetTwice {
        /// First variable.
        first: String,
        /// Second variable.
        second: String,
    },
    /// An environment variable is not valid UTF-8.
    #[error("environment variable {variable} is not valid UTF-8")]
    NotText {
        /// Name of the variable.
        variable: String,
    },
}

/// Returns [`ConfigError::Rejected`] for the value of `key` if `bad` is true.
pub(super) fn reject_if(config: &Config, bad: bool, key: &str, why: &str) -> Result<(), ConfigError> {
    if bad {
        return Err(ConfigError::Rejected {
            key: key.to_owned(),
            why: why.to_owned(),
            origin: config.origin(key),
        });
    }
    Ok(())
}

/// Returns the name of a value's type, for errors and for the configuration reference.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a float",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}
