//! Lays the sources over each other: defaults, file, environment, flags. Later ones win; unknown keys are fatal.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, ConfigError, Origin, check, env};

pub(super) const DEFAULTS: &str = include_str!("defaults.toml");
/// Read if it is there and no other file is named.
const USUAL_FILE: &str = "kith.toml";

/// Who set which key; keys at their default are absent.
pub(super) type Origins = BTreeMap<String, Origin>;

/// The file that holds the value of a key alone, where a variable named one.
pub(super) type SecretFiles = BTreeMap<String, PathBuf>;

/// A key set on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// As typed: `--listen`.
    pub name: &'static str,
    /// `server.listen`.
    pub key: &'static str,
    /// What it is set to.
    pub value: Value,
}

/// Everything a configuration is made from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The file named with `--config`.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Vec<(OsString, OsString)>,
    /// The command line.
    pub flags: Vec<Flag>,
}

impl Inputs {
    /// The process's environment, without file or flags.
    pub fn from_env() -> Self {
        Self { env: std::env::vars_os().collect(), ..Self::default() }
    }
}

impl Default for Config {
    /// The defaults, which stand in `defaults.toml` beside this file.
    fn default() -> Self {
        Self::load(&Inputs { file: Some(PathBuf::new()), ..Inputs::default() })
            .expect("the defaults are valid")
    }
}

/// Where callbacks may go in development mode, unless the configuration says otherwise.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

impl Config {
    /// Lays the sources over each other and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`] names the key and who set it.
    pub fn load(inputs: &Inputs) -> Result<Self, ConfigError> {
        let mut layers = Layers::new();
        if let Some((path, table)) = read_file(inputs.file.as_deref())? {
            layers.lay(table, &Origin::File(path))?;
        }
        for (key, text, origin) in env::assignments(&inputs.env, &layers.values)? {
            let value = env::coerce(&key, text, layers.get(&key), &origin)?;
            layers.set(&key, value, origin)?;
        }
        for flag in &inputs.flags {
            layers.set(flag.key, flag.value.clone(), Origin::Flag(flag.name))?;
        }
        let mut config = layers.into_config()?;
        check::check(&config)?;
        if !config.is_production() && config.is_default("outbound.allowed_networks") {
            // The receiver that is being developed runs on the same machine.
            config.outbound.allowed_networks =
                LOOPBACK.iter().filter_map(|network| network.parse().ok()).collect();
        }
        Ok(Config { secret_files: secret_files(&config.origins, &inputs.env), ..config })
    }

    /// Who set `key`.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

fn secret_files(origins: &Origins, env: &[(OsString, OsString)]) -> SecretFiles {
    let file = |origin: &Origin| {
        let Origin::Env(variable) = origin else { return None };
        let (_, path) = env.iter().find(|(name, _)| name.to_str() == Some(variable))?;
        variable.ends_with(env::FILE_SUFFIX).then(|| PathBuf::from(path))
    };
    origins.iter().filter_map(|(key, origin)| Some((key.clone(), file(origin)?))).collect()
}

/// The values so far, and who set them.
pub(super) struct Layers {
    pub(super) values: Table,
    origins: Origins,
}

impl Layers {
    pub(super) fn new() -> Self {
        Self { values: DEFAULTS.parse().expect("the defaults are TOML"), origins: Origins::new() }
    }

    pub(super) fn lay(&mut self, table: Table, origin: &Origin) -> Result<(), ConfigError> {
        for (section, value) in table {
            match (self.values.get(&section), value) {
                (Some(_), Value::Table(keys)) => {
                    for (key, value) in keys {
                        self.set(&format!("{section}.{key}"), value, origin.clone())?;
                    }
                }
                (None, _) => return Err(ConfigError::UnknownKey { key: section, origin: origin.clone() }),
                (Some(_), value) => return Err(wrong_type(section, "a table", &value, origin.clone())),
            }
        }
        Ok(())
    }

    pub(super) fn set(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), ConfigError> {
        let Some(present) = self.get_mut(key) else {
            return Err(ConfigError::UnknownKey { key: key.to_owned(), origin });
        };
        if !present.same_type(&value) {
            return Err(wrong_type(key.to_owned(), type_name(present), &value, origin));
        }
        *present = value;
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let (section, name) = key.split_once('.')?;
        self.values.get(section)?.get(name)
    }

    fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        let (section, name) = key.split_once('.')?;
        self.values.get_mut(section)?.get_mut(name)
    }

    pub(super) fn into_config(self) -> Result<Config, ConfigError> {
        match serde_path_to_error::deserialize(self.values.clone()) {
            Ok(config) => Ok(Config { origins: self.origins, ..config }),
            Err(error) => {
                let path = error.path().to_string();
                // An entry of a list is set with the list.
                let key = path.split('[').next().unwrap_or_default().to_owned();
                let origin = self.origins.get(&key).cloned().unwrap_or(Origin::Default);
                let why = reason(error.inner().message(), self.get(&key));
                Err(ConfigError::Refused { key, why, origin })
            }
        }
    }
}

/// Why `value` cannot be used, in serde's words as far as they do not repeat it: it may be a secret in a wrong place.
fn reason(message: &str, value: Option<&Value>) -> String {
    let value = value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    if value.is_some_and(|value| !message.contains(&value)) {
        return format!("is not valid: {message}");
    }
    // The type's own words stand last, and hold nothing of the value.
    match message.rsplit_once("expected ") {
        Some((_, expected)) => format!("is not valid: expected {expected}"),
        None => "is not valid".to_owned(),
    }
}

/// The file that was named, or the usual one if it exists. An empty name means none at all.
fn read_file(named: Option<&Path>) -> Result<Option<(PathBuf, Table)>, ConfigError> {
    let path = named.unwrap_or(Path::new(USUAL_FILE));
    if path.as_os_str().is_empty() || (named.is_none() && !path.exists()) {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|source| {
        let named_by = if named.is_some() { Origin::Flag("--config") } else { Origin::Default };
        ConfigError::Unreadable { path: path.to_owned(), named_by, source }
    })?;
    Ok(Some((path.to_owned(), read_table(&text, path)?)))
}

/// The text of the file at `path`.
pub(super) fn read_table(text: &str, path: &Path) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1),
        why: error.message().to_owned(),
    })
}

fn wrong_type(key: String, expected: &'static str, found: &Value, origin: Origin) -> ConfigError {
    ConfigError::WrongType { key, expected, found: type_name(found), origin }
}

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

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
