//! Reads settings from environment variables: `KITH__SECTION__KEY`, and shorter aliases for secrets. With the
//! suffix `_FILE`, the variable names a file that contains the value. Other variables are ignored.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use toml::{Table, Value};

use super::error::type_name;
use super::{ConfigError, Origin};

const PREFIX: &str = "KITH__";
pub(super) const FILE_SUFFIX: &str = "_FILE";

/// Aliases of secrets, and the keys that they set.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("JWT_SECRET", "auth.jwt_secret"),
    ("JWT_REFRESH_SECRET", "auth.jwt_refresh_secret"),
    ("JWT_SECRET_PREVIOUS", "auth.jwt_secret_previous"),
    ("JWT_REFRESH_SECRET_PREVIOUS", "auth.jwt_refresh_secret_previous"),
    ("DATABASE_PASSWORD", "database.password"),
];

/// Returns the variables that set `key`, the alias first. Each variable also exists with the suffix `_FILE`.
pub(super) fn names_of(key: &str) -> Vec<String> {
    let alias = ALIASES.iter().find(|(_, of)| *of == key).map(|(name, _)| (*name).to_owned());
    let own = format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"));
    alias.into_iter().chain([own]).collect()
}

/// Returns the settings in the environment, each as key, text and variable.
pub(super) fn assignments(
    env: &[(OsString, OsString)],
    known: &Table,
) -> Result<Vec<(String, String, Origin)>, ConfigError> {
    let mut found: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (name, value) in env {
        let Some(name) = own_name(name)? else { continue };
        let origin = Origin::Env(name.clone());
        let value = text(value, &name)?;
        let (key, value) = match key_of(&name, known) {
            Some(key) => (key, value),
            None => match name.strip_suffix(FILE_SUFFIX).and_then(|base| key_of(base, known)) {
                Some(key) => (key, read_value(PathBuf::from(value), &origin)?),
                None => return Err(unknown(&name)),
            },
        };
        if let Some((_, other)) = found.insert(key, (value, name.clone())) {
            let (first, second) = if other < name { (other, name) } else { (name, other) };
            return Err(ConfigError::SetTwice { first, second });
        }
    }
    Ok(found.into_iter().map(|(key, (value, name))| (key, value, Origin::Env(name))).collect())
}

/// Converts the text of a variable to the type of `like`.
pub(super) fn coerce(
    key: &str,
    text: String,
    like: Option<&Value>,
    origin: &Origin,
) -> Result<Value, ConfigError> {
    let value = match like {
        Some(Value::Integer(_)) => text.parse().ok().map(Value::Integer),
        Some(Value::Float(_)) => text.parse().ok().map(Value::Float),
        Some(Value::Boolean(_)) => text.parse().ok().map(Value::Boolean),
        Some(Value::Array(_)) => Some(Value::Array(entries(&text))),
        _ => Some(Value::String(text)),
    };
    value.ok_or_else(|| ConfigError::WrongType {
        key: key.to_owned(),
        expected: like.map_or("a string", type_name),
        found: "something else",
        origin: origin.clone(),
    })
}

/// Splits a text at its commas into the entries of a list.
fn entries(text: &str) -> Vec<Value> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(Value::from).collect()
}

fn own_name(name: &OsStr) -> Result<Option<String>, ConfigError> {
    let lossy = name.to_string_lossy();
    let alias = lossy.strip_suffix(FILE_SUFFIX).unwrap_or(&lossy);
    let is_own = lossy.starts_with(PREFIX) || ALIASES.iter().any(|(name, _)| *name == alias);
    match (is_own, name.to_str()) {
        (false, _) => Ok(None),
        (true, Some(name)) => Ok(Some(name.to_owned())),
        (true, None) => Err(ConfigError::NotText { variable: lossy.into_owned() }),
    }
}

fn text(value: &OsStr, name: &str) -> Result<String, ConfigError> {
    let not_text = || ConfigError::NotText { variable: name.to_owned() };
    value.to_str().map(str::to_owned).ok_or_else(not_text)
}

/// Returns the key that a variable sets: `KITH__SERVER__MAX_BODY_BYTES` sets `server.max_body_bytes`. Returns
/// `None` if there is no such key.
fn key_of(name: &str, known: &Table) -> Option<String> {
    if let Some((_, key)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some((*key).to_owned());
    }
    let (section, key) = name.strip_prefix(PREFIX)?.split_once("__")?;
    let (section, key) = (lower(section)?, lower(key)?);
    known.get(&section)?.get(&key)?;
    Some(format!("{section}.{key}"))
}

/// Converts `part` to lower case. Returns `None` if it contains a lower-case letter, because variable names
/// must be in upper case.
fn lower(part: &str) -> Option<String> {
    part.bytes().all(|b| !b.is_ascii_lowercase()).then(|| part.to_ascii_lowercase())
}

fn read_value(path: PathBuf, named_by: &Origin) -> Result<String, ConfigError> {
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            Ok(text.strip_suffix('\n').map_or(&*text, |t| t.strip_suffix('\r').unwrap_or(t)).to_owned())
        }
        Err(source) => Err(ConfigError::Unreadable { path, named_by: named_by.clone(), source }),
    }
}

fn unknown(name: &str) -> ConfigError {
    let key = name.trim_start_matches(PREFIX).replace("__", ".").to_ascii_lowercase();
    ConfigError::UnknownKey { key, origin: Origin::Env(name.to_owned()) }
}
