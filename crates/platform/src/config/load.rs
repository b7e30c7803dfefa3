//! Loads a configuration. Precedence, lowest to highest: defaults, file, environment variables, flags.
//! Unknown keys are errors.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::error::type_name;
use super::section::{ConfigSection, ReadFault, Sections};
use super::{Config, ConfigError, Origin, check, env};

pub(super) const DEFAULTS: &str = include_str!("defaults.toml");
/// File that is read if it exists and `--config` is not given.
const DEFAULT_FILE: &str = "kith.toml";

/// Source of each key that is set. Keys that have their default value are absent.
pub(super) type Origins = BTreeMap<String, Origin>;

/// Files that contain the values of keys, for keys that are set by a variable with the suffix `_FILE`.
pub(super) type SecretFiles = BTreeMap<String, PathBuf>;

/// Key that is set by a command-line flag.
#[derive(Clone, Debug)]
pub struct Flag {
    /// Name of the flag, such as `--listen`.
    pub name: &'static str,
    /// Key that the flag sets, such as `server.listen`.
    pub key: &'static str,
    /// Value.
    pub value: Value,
}

/// Sources of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// File given with `--config`. If `None`, `kith.toml` is read if it exists. If empty, no file is read.
    pub file: Option<PathBuf>,
    /// Environment variables.
    pub env: Vec<(OsString, OsString)>,
    /// Command-line flags.
    pub flags: Vec<Flag>,
}

impl Inputs {
    /// Returns inputs with the environment variables of the process, without a file or flags.
    pub fn from_env() -> Self {
        Self { env: std::env::vars_os().collect(), ..Self::default() }
    }
}

impl Default for Config {
    /// Returns the defaults of the platform, which are in `defaults.toml` in this folder.
    fn default() -> Self {
        Self::load(&Inputs { file: Some(PathBuf::new()), ..Inputs::default() }, &[])
            .expect("the defaults are valid")
    }
}

/// Default of `outbound.allowed_networks` in development mode.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

impl Config {
    /// Merges the sources and checks the result. `sections` are the sections of all installed modules,
    /// including modules that are not served.
    ///
    /// # Errors
    /// Returns a [`ConfigError`], which names the key and the source of the value.
    pub fn load(inputs: &Inputs, sections: &[ConfigSection]) -> Result<Self, ConfigError> {
        let mut layers = Layers::new(sections);
        if let Some((path, table)) = read_file(inputs.file.as_deref())? {
            layers.merge(table, &Origin::File(path))?;
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
            // During development, the receiver of callbacks usually runs on the same machine.
            config.outbound.allowed_networks =
                LOOPBACK.iter().filter_map(|network| network.parse().ok()).collect();
        }
        Ok(Config { secret_files: secret_files(&config.origins, &inputs.env), ..config })
    }

    /// Adds the default settings of sections that are not loaded yet.
    pub(crate) fn add_defaults(&mut self, sections: &[ConfigSection]) {
        for section in sections.iter().filter(|section| !self.sections.has(section.name)).collect::<Vec<_>>()
        {
            if let Ok(value) = (section.read)(Value::Table(section.values())) {
                self.sections.insert(section.name, value);
            }
        }
    }

    /// Returns the source of `key`.
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

/// Merged values and their sources.
pub(super) struct Layers<'s> {
    pub(super) values: Table,
    sections: &'s [ConfigSection],
    origins: Origins,
}

impl<'s> Layers<'s> {
    pub(super) fn new(sections: &'s [ConfigSection]) -> Self {
        Self { values: defaults(sections), sections, origins: Origins::new() }
    }

    pub(super) fn merge(&mut self, table: Table, origin: &Origin) -> Result<(), ConfigError> {
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
        let mut sections = Sections::default();
        for section in self.sections {
            let keys = self.values.get(section.name).cloned().unwrap_or(Value::Table(Table::new()));
            let value = (section.read)(keys).map_err(|fault| self.section_error(section.name, fault))?;
            sections.insert(section.name, value);
        }
        let mut own = self.values.clone();
        own.retain(|name, _| !sections.has(name));
        match serde_path_to_error::deserialize(own) {
            Ok(config) => Ok(Config { origins: self.origins, sections, ..config }),
            Err(error) => Err(self.invalid(&error.path().to_string(), error.inner().message())),
        }
    }

    fn section_error(&self, section: &str, fault: ReadFault) -> ConfigError {
        match fault {
            ReadFault::Invalid { path, message } => self.invalid(&format!("{section}.{path}"), &message),
            ReadFault::Rejected(fault) => self.refused(format!("{section}.{}", fault.key), fault.why),
        }
    }

    /// Returns the error for the value at `path`, which does not have the required type. `message` is serde's
    /// message.
    fn invalid(&self, path: &str, message: &str) -> ConfigError {
        // All entries of a list have the same source as the list.
        let key = path.split('[').next().unwrap_or_default().to_owned();
        let why = reason(message, self.get(&key));
        self.refused(key, why)
    }

    fn refused(&self, key: String, why: String) -> ConfigError {
        let origin = self.origins.get(&key).cloned().unwrap_or(Origin::Default);
        ConfigError::Rejected { key, why, origin }
    }
}

/// Returns every key of the platform and of `sections` with its default.
pub(super) fn defaults(sections: &[ConfigSection]) -> Table {
    let mut values: Table = DEFAULTS.parse().expect("the defaults are TOML");
    values.extend(sections.iter().map(|section| (section.name.to_owned(), Value::Table(section.values()))));
    values
}

/// Returns the reason for rejecting `value`, made from serde's message. The value is removed, because it may
/// be a secret.
fn reason(message: &str, value: Option<&Value>) -> String {
    let value = value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    if value.is_some_and(|value| !message.contains(&value)) {
        return format!("is not valid: {message}");
    }
    // The description of the expected type is at the end of the message, and does not contain the value.
    match message.rsplit_once("expected ") {
        Some((_, expected)) => format!("is not valid: expected {expected}"),
        None => "is not valid".to_owned(),
    }
}

/// Reads the file `named`, or `kith.toml` if it exists and `named` is `None`. If the path is empty, reads no
/// file.
fn read_file(named: Option<&Path>) -> Result<Option<(PathBuf, Table)>, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    if path.as_os_str().is_empty() || (named.is_none() && !path.exists()) {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|source| {
        let named_by = if named.is_some() { Origin::Flag("--config") } else { Origin::Default };
        ConfigError::Unreadable { path: path.to_owned(), named_by, source }
    })?;
    Ok(Some((path.to_owned(), read_table(&text, path)?)))
}

/// Parses the text of the file at `path`.
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

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
