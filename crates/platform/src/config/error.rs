//! What can be wrong with a configuration. No error shows a value, since any might be a secret.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A command line flag.
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

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file that was named cannot be read.
    #[error("cannot read {path} (named by {named_by}): {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What named it.
        named_by: Origin,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML at line {line}: {why}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The parser's words, without the text.
        why: String,
    },
    /// There is no such key.
    #[error("there is no configuration key `{key}` (set by {origin})")]
    UnknownKey {
        /// `section.key`.
        key: String,
        /// Who set it.
        origin: Origin,
    },
    /// The value is of another type.
    #[error("`{key}` must be {expected}, but {origin} gives {found}")]
    WrongType {
        /// `section.key`.
        key: String,
        /// `an integer`.
        expected: &'static str,
        /// `a string`.
        found: &'static str,
        /// Who set it.
        origin: Origin,
    },
    /// The value is of the right type, and impossible or not allowed in this mode.
    #[error("`{key}` {why} (set by {origin})")]
    Refused {
        /// `section.key`.
        key: String,
        /// `must be at least 1`.
        why: String,
        /// Who set it.
        origin: Origin,
    },
    /// Production mode does not start without it.
    #[error("`{key}` must be set in production mode, by {variables}; `kith secrets generate` makes one")]
    Missing {
        /// `section.key`.
        key: &'static str,
        /// The variables that set it.
        variables: String,
    },
    /// Two variables set the same key.
    #[error("{first} and {second} are both set: keep one")]
    SetTwice {
        /// One variable.
        first: String,
        /// The other.
        second: String,
    },
    /// An environment variable is not UTF-8.
    #[error("environment variable {variable} is not valid UTF-8")]
    NotText {
        /// The variable.
        variable: String,
    },
}
