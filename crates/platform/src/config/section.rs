//! Sections of the configuration that belong to modules.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Settings of a module, which are one section of the configuration. The type must have a field for each key,
/// and `#[serde(deny_unknown_fields)]`. Secrets must have the type [`Secret`](super::Secret), so that they
/// are masked when settings are shown.
pub trait Settings: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name of the section, such as `spaces`.
    const SECTION: &'static str;
    /// Section as TOML: its header and each key with its default. The comment before a key is its description
    /// in the reference.
    const DEFAULTS: &'static str;

    /// Rejects values with which the server cannot work.
    ///
    /// # Errors
    /// Returns a [`SettingFault`], which names the key.
    fn check(&self) -> Result<(), SettingFault> {
        Ok(())
    }
}

/// Reason why the value of a key is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingFault {
    /// Name of the key within its section.
    pub key: &'static str,
    /// Reason, as a phrase that follows the key, such as `must be at least 1`.
    pub why: String,
}

/// Rejects numbers below 1.
///
/// # Errors
/// Returns a [`SettingFault`] that names the first such number.
pub fn at_least_one(numbers: &[(&'static str, u32)]) -> Result<(), SettingFault> {
    match numbers.iter().find(|(_, number)| *number < 1) {
        Some((key, _)) => Err(SettingFault { key, why: "must be at least 1".to_owned() }),
        None => Ok(()),
    }
}

/// Description of a module's section, for loading it. Listed in [`Module::config`](crate::Module::config).
#[derive(Clone, Copy, Debug)]
pub struct ConfigSection {
    /// Name of the section.
    pub name: &'static str,
    /// Defaults as TOML.
    pub defaults: &'static str,
    pub(super) read: fn(Value) -> Result<Arc<dyn SectionValue>, ReadFault>,
}

/// Reason why a section cannot be read.
pub(super) enum ReadFault {
    /// The value of a key does not have the required type.
    Invalid { path: String, message: String },
    /// The value of a key was rejected by [`Settings::check`].
    Rejected(SettingFault),
}

impl ConfigSection {
    /// Returns the section with the settings `S`.
    pub const fn of<S: Settings>() -> Self {
        Self { name: S::SECTION, defaults: S::DEFAULTS, read: read::<S> }
    }

    /// Returns the keys of the section with their defaults.
    pub(super) fn values(&self) -> Table {
        let table: Table = self.defaults.parse().expect("the defaults of a section are TOML");
        match table.into_iter().next() {
            Some((name, Value::Table(keys))) if name == self.name => keys,
            _ => panic!("the defaults of section {} must begin with its header", self.name),
        }
    }
}

fn read<S: Settings>(keys: Value) -> Result<Arc<dyn SectionValue>, ReadFault> {
    let settings: S = serde_path_to_error::deserialize(keys).map_err(|error| ReadFault::Invalid {
        path: error.path().to_string(),
        message: error.inner().message().to_owned(),
    })?;
    settings.check().map_err(ReadFault::Rejected)?;
    Ok(Arc::new(settings))
}

/// Settings of any module.
pub(super) trait SectionValue: Any + Debug + Send + Sync {
    fn to_json(&self) -> serde_json::Value;
}

impl<S: Settings> SectionValue for S {
    fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Settings of the modules, by name of the section.
#[derive(Clone, Debug, Default)]
pub(super) struct Sections(BTreeMap<&'static str, Arc<dyn SectionValue>>);

impl Sections {
    pub(super) fn insert(&mut self, name: &'static str, value: Arc<dyn SectionValue>) {
        self.0.insert(name, value);
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the settings `S`, or their defaults if they were not loaded.
    pub(super) fn get<S: Settings>(&self) -> Arc<S> {
        let loaded = self.0.get(S::SECTION).and_then(|value| {
            let value: Arc<dyn Any + Send + Sync> = Arc::clone(value) as _;
            value.downcast().ok()
        });
        loaded.unwrap_or_else(|| Arc::new(defaults()))
    }

    pub(super) fn to_json(&self) -> impl Iterator<Item = (String, serde_json::Value)> {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), value.to_json()))
    }
}

fn defaults<S: Settings>() -> S {
    let keys = ConfigSection::of::<S>().values();
    Value::Table(keys).try_into().expect("the defaults of a section are valid")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::{Config, Inputs, Secret, reference};
    use super::*;

    #[derive(Clone, Debug, Deserialize, Serialize)]
    #[serde(deny_unknown_fields)]
    struct Greetings {
        max_words: u32,
        token: Secret,
    }

    impl Settings for Greetings {
        const SECTION: &'static str = "greetings";
        const DEFAULTS: &'static str =
            "[greetings]\n# Maximum number of words.\nmax_words = 3\n# Token.\ntoken = \"\"\n";

        fn check(&self) -> Result<(), SettingFault> {
            at_least_one(&[("max_words", self.max_words)])
        }
    }

    const SECTIONS: &[ConfigSection] = &[ConfigSection::of::<Greetings>()];

    fn load(env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let inputs = Inputs { file: Some("".into()), env, ..Inputs::default() };
        Config::load(&inputs, SECTIONS).map_err(|error| error.to_string())
    }

    #[test]
    fn module_section_is_loaded_like_platform_sections() {
        let config = load(&[("KITH__GREETINGS__MAX_WORDS", "5"), ("KITH__GREETINGS__TOKEN", "hunter2")]);
        let config = config.unwrap();
        let greetings = config.section::<Greetings>();
        assert_eq!((greetings.max_words, greetings.token.expose()), (5, "hunter2"));
        assert_eq!(load(&[]).unwrap().section::<Greetings>().max_words, 3);
        assert!(
            !config.is_default("greetings.max_words") && load(&[]).unwrap().is_default("greetings.token")
        );
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.settings()["greetings"], serde_json::json!({ "max_words": 5, "token": "***" }));
        assert_ne!(config.digest(), load(&[]).unwrap().digest());
        assert!(reference::keys(SECTIONS).contains(&"greetings.max_words".to_owned()));
        let page = reference::markdown(SECTIONS);
        let entry = "### `greetings.max_words`\n\nMaximum number of words.\n\n* an integer; default `3`\n* \
                     `KITH__GREETINGS__MAX_WORDS`";
        assert!(page.contains(entry), "{page}");
    }

    #[test]
    fn section_errors_name_key_and_source_but_not_value() {
        for (name, value, words) in [
            ("KITH__GREETINGS__MAX_WORDS", "0", "`greetings.max_words` must be at least 1 (set by"),
            ("KITH__GREETINGS__MAX_WORDS", "-4711", "`greetings.max_words` is not valid"),
            ("KITH__GREETINGS__MAX_WORDS", "few", "`greetings.max_words` must be an integer, but"),
            ("KITH__GREETINGS__WORDS", "1", "unknown configuration key `greetings.words`"),
        ] {
            let error = load(&[(name, value)]).unwrap_err();
            assert!(error.contains(words) && error.contains(name), "{error}");
            assert!(!error.contains("4711"), "{error}");
        }
    }

    #[test]
    fn settings_can_be_changed_and_have_defaults_if_not_loaded() {
        let mut config = Config::default();
        assert_eq!(config.section::<Greetings>().max_words, 3);
        config.change_section::<Greetings>(|greetings| greetings.max_words = 7);
        assert_eq!(config.section::<Greetings>().max_words, 7);
        config.add_defaults(SECTIONS);
        assert_eq!(config.section::<Greetings>().max_words, 7);
    }
}
