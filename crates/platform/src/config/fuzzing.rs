//! Fuzz target for configurations. See `crate::fuzzing`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;

use http::HeaderValue;
use toml::Value;

use super::load::{Layers, read_table};
use super::{AllowedNetwork, Config, ConfigError, ConfigSection, Network, Origin, WebOrigin, check, env};
use crate::telemetry::log::parse_level;

/// Character that occurs in no message. A message that contains it has repeated an input value.
const MARK: char = '§';
/// Text that separates the configuration file from the environment variables in an input.
const SEPARATOR: &str = "\n---\n";

/// Runs [`config_of`] with the settings of the platform only.
pub fn config(data: &[u8]) {
    config_of(data, &[]);
}

/// Loads a configuration file and environment variables from one input. The variables follow the line `---`,
/// one per line. Checks that no error contains a value.
pub fn config_of(data: &[u8], sections: &[ConfigSection]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (file, variables) = text.split_once(SEPARATOR).unwrap_or((text, ""));
    // Variables with the suffix `_FILE` are skipped, because they would read arbitrary files.
    let own = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| !name.ends_with("_FILE"));
    let variables: Vec<(OsString, OsString)> = own.map(|(name, value)| (name.into(), value.into())).collect();
    let secrets = marked(file, &variables);
    if let Err(error) = load(file, &variables, sections) {
        let message = error.to_string();
        assert!(!secrets.iter().any(|secret| message.contains(secret)), "{message}");
    }
    for line in text.lines() {
        entries(line);
    }
}

fn load(
    file: &str,
    variables: &[(OsString, OsString)],
    sections: &[ConfigSection],
) -> Result<Config, ConfigError> {
    let path = Path::new("kith.toml");
    let mut layers = Layers::new(sections);
    layers.merge(read_table(file, path)?, &Origin::File(path.to_owned()))?;
    for (key, text, origin) in env::assignments(variables, &layers.values)? {
        let value = env::coerce(&key, text, layers.get(&key), &origin)?;
        layers.set(&key, value, origin)?;
    }
    let config = layers.into_config()?;
    check::check(&config)?;
    Ok(config)
}

/// Returns the values of the input that contain the mark. No error may contain them.
fn marked(file: &str, variables: &[(OsString, OsString)]) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(table) = file.parse() {
        collect(&Value::Table(table), &mut found);
    }
    found.extend(variables.iter().filter_map(|(_, value)| value.to_str()).map(str::to_owned));
    found.retain(|value| value.contains(MARK));
    // Errors may contain the names of variables.
    found.retain(|value| !variables.iter().any(|(name, _)| name.to_string_lossy().contains(value.as_str())));
    found
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Table(table) if !table.keys().any(|key| key.contains(MARK)) => {
            table.values().for_each(|value| collect(value, found));
        }
        _ => {}
    }
}

/// Parses the text as an entry of each kind of list, and as a log level.
fn entries(text: &str) {
    if let Ok(origin) = WebOrigin::try_from(text.to_owned()) {
        assert_eq!(origin.as_str(), text);
        assert!(
            HeaderValue::from_str(text).is_ok() && text == text.to_ascii_lowercase() && text.contains("://")
        );
        assert!(!text.ends_with('/') && !text.contains(['*', ' ', '@', '?', '#']));
    }
    if let Ok(network) = text.parse::<Network>() {
        let address = text.split('/').next().unwrap_or_default();
        let address: IpAddr = address.parse().expect("a network begins with an address");
        // A network of IPv4-mapped IPv6 addresses contains no address, because such addresses are converted
        // to IPv4.
        assert!(network.contains(address) || address != address.to_canonical());
    }
    if let Ok(allowed) = text.parse::<AllowedNetwork>() {
        let written = serde_json::to_value(allowed).expect("valid UTF-8");
        assert_eq!(written.as_str().map(str::parse), Some(Ok(allowed)));
    }
    if let Ok(level) = parse_level(text) {
        let written = level.to_string();
        assert_eq!(parse_level(&written).map(|again| again.to_string()).ok(), Some(written));
    }
}
