//! Tests of the list of modules: names, settings, consumers, problems and generated pages.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use kith_platform::ModuleConsumer;
use kith_platform::config::{Inputs, Mode};

use super::*;

/// DOC-11: `docs/READINESS.md` was generated with the rows and checks of this build.
#[test]
fn readiness_page_matches_rows_and_checks() {
    let page = include_str!("../../../../docs/READINESS.md");
    let plan = kith_readiness::Plan {
        catalogue: kith_readiness::Catalogue::built_in(),
        checks: kith_verify::checks(),
        artefacts: kith_readiness::Artefacts::default(),
        declared: kith_readiness::Declared::default(),
        only: Vec::new(),
        gate: kith_readiness::Gate::Beta,
    };
    let line = format!("* Checks: {}", plan.fingerprint());
    assert!(
        page.lines().any(|own| own == line),
        "docs/READINESS.md was generated with other rows or checks ({line}): run `kith verify --format \
         markdown > docs/READINESS.md` against the demo"
    );
}

fn all() -> &'static [&'static Module] {
    &ALL
}

fn names_served(change: impl FnOnce(&mut Config)) -> Result<Vec<&'static str>, ModulesError> {
    let mut config = Config::default();
    change(&mut config);
    Ok(served(&config)?.iter().map(|module| module.name).collect())
}

#[test]
fn development_modules_are_absent_in_production() {
    let names = |mode, demo| {
        let names = names_served(|config| (config.server.mode, config.server.demo) = (mode, demo));
        names.unwrap()[MODULES.len()..].to_vec()
    };
    assert_eq!(names(Mode::Development, true), ["development", "accounts-development", "demo"]);
    assert_eq!(names(Mode::Development, false), ["development", "accounts-development"]);
    assert_eq!(names(Mode::Production, true), [""; 0]);
}

#[test]
fn every_preset_can_be_served() {
    for (preset, names) in PRESETS {
        let served = names_served(|config| {
            config.server.mode = Mode::Production;
            config.server.preset = (*preset).to_owned();
        });
        let mut expected = vec!["platform"];
        expected.extend(MODULES.iter().map(|module| module.name).filter(|name| names.contains(name)));
        assert_eq!(served.unwrap(), expected, "{preset}");
    }
}

#[test]
fn unmet_needs_and_unknown_modules_are_reported() {
    let modules = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        names_served(|config| config.server.modules = names)
    };
    let error = modules(&["accounts", "blocks", "spaces"]).unwrap_err();
    assert_eq!(error, ModulesError::UnmetNeed { module: "spaces", needed: "bonds" });
    let error = modules(&["accounts", "cats"]).unwrap_err().to_string();
    assert!(error.contains("\"cats\"") && error.contains("accounts, blocks, bonds"), "{error}");
    let error = names_served(|config| config.server.preset = "cats".to_owned()).unwrap_err().to_string();
    assert!(error.contains("bond-mate, hamsaya, platform, chronizer"), "{error}");
    let both = names_served(|config| {
        config.server.preset = "platform".to_owned();
        config.server.modules = vec!["accounts".to_owned()];
    });
    assert_eq!(both.unwrap_err(), ModulesError::PresetAndModules);
    let demo = names_served(|config| {
        config.server.preset = "chronizer".to_owned();
        config.server.demo = true;
    });
    assert!(matches!(demo, Err(ModulesError::UnmetNeed { module: "demo", .. })), "{demo:?}");
}

#[test]
fn modules_have_distinct_names_and_problem_codes() {
    let mut names = HashSet::from([STORE_MIGRATIONS.module, JOBS_MIGRATIONS.module]);
    for module in all() {
        assert!(names.insert(module.name), "two modules have the name {}", module.name);
    }
    let mut problems = HashMap::new();
    for problem in all().iter().flat_map(|module| module.problems) {
        assert_eq!(
            *problems.entry(problem.code).or_insert(problem),
            problem,
            "{} is declared twice with different content",
            problem.code
        );
    }
}

#[test]
fn settings_of_modules_have_unique_names_and_valid_defaults() {
    let config = Config::load(&Inputs { file: Some("".into()), ..Inputs::default() }, &sections());
    let shown = config.unwrap().settings();
    let platform = Config::default().settings();
    let mut names: HashSet<_> = platform.as_object().unwrap().keys().map(String::as_str).collect();
    for section in sections() {
        assert!(names.insert(section.name), "two sections have the name {}", section.name);
        assert!(shown[section.name].is_object(), "{shown}");
    }
    assert!(names.contains("spaces"), "{names:?}");
}

/// Returns the non-test code of the platform without comments, and its default settings, by file.
fn platform_sources() -> Vec<(PathBuf, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../platform/src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if [".rs", ".toml"].iter().any(|end| name.ends_with(end))
                && !["tests.rs", "testing.rs", "fuzzing.rs"].iter().any(|end| name.ends_with(end))
            {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap().lines();
                let code = code.filter(|line| !line.trim_start().starts_with(['#', '/']));
                sources.push((path, code.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    sources
}

#[test]
fn platform_names_no_setting_path_or_tag_of_a_feature() {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let settings = |all: &[ConfigSection]| -> HashSet<String> {
        reference::keys(all).iter().map(|key| key.split_once('.').unwrap().1.to_owned()).collect()
    };
    let settings: HashSet<_> = settings(&sections()).difference(&settings(&[])).cloned().collect();
    let own = openapi::document(&[&kith_platform::MODULE, &DEVELOPMENT]);
    let document = openapi::document(all());
    let paths = document.paths.paths.keys().filter(|path| !own.paths.paths.contains_key(*path));
    let quoted: Vec<_> = paths.map(|path| format!("\"{path}\"")).chain(["\"Demo\"".to_owned()]).collect();
    assert!(settings.contains("lists_per_minute") && quoted.len() > 50, "{settings:?} {quoted:?}");
    let sources = platform_sources();
    assert!(sources.len() > 50, "{}", sources.len());
    for (path, code) in sources {
        // The keys are words such as `max_bytes`, which other code of the platform may use as well.
        let is_config = path.parent().is_some_and(|folder| folder.ends_with("config"));
        let named = code.split(|c| !is_word(c)).find(|word| is_config && settings.contains(*word));
        assert_eq!(named, None, "{} names a setting of a feature", path.display());
        let named = quoted.iter().find(|name| code.contains(*name));
        assert_eq!(named, None, "{} names a path or tag of a feature", path.display());
    }
}

#[test]
fn configuration_page_matches_generated_reference() {
    let page = include_str!("../../../../docs/configuration.md");
    assert!(
        page == reference::markdown(&sections()),
        "run `cargo run -p kith -- config reference --format markdown > docs/configuration.md`"
    );
    for report in Config::default().secret_reports() {
        assert!(page.contains(&format!("### `{}`", report.key)), "{}", report.key);
    }
}

/// Returns the consumers that break a rule. The name of a consumer must begin with the name of its
/// module. A durable consumer must not handle events that its own module emits, because it could then
/// cause events endlessly.
fn faulty_consumers(modules: &[&'static Module]) -> Vec<&'static str> {
    let mut faulty = Vec::new();
    for module in modules {
        for consumer in module.consumers {
            let rest = consumer.name.strip_prefix(module.name).and_then(|rest| rest.strip_prefix('.'));
            let is_named = rest.is_some_and(|rest| !rest.is_empty());
            let handles = |kind: &&str| {
                consumer.kinds.iter().any(|pattern| kith_consumers::kind_matches(pattern, kind))
            };
            if !is_named || consumer.is_durable() && module.events.iter().any(handles) {
                faulty.push(consumer.name);
            }
        }
    }
    faulty
}

#[test]
fn consumers_are_named_after_their_module_and_do_not_handle_its_events() {
    static MADE: Module = Module {
        events: &["thing.done"],
        consumers: &[
            ModuleConsumer::durable("things.count", &["bond.*"], |_, _, _| Ok(())),
            ModuleConsumer::durable("others.count", &["bond.*"], |_, _, _| Ok(())),
            ModuleConsumer::durable("things", &["bond.*"], |_, _, _| Ok(())),
            ModuleConsumer::durable("things.repeat", &["thing.*"], |_, _, _| Ok(())),
            ModuleConsumer::every_node("things.forget", &["*"], |_, _| Box::pin(async { Ok(()) })),
        ],
        ..Module::named("things")
    };
    assert_eq!(faulty_consumers(&[&MADE]), ["others.count", "things", "things.repeat"]);
    assert_eq!(faulty_consumers(all()), [""; 0]);
}

#[test]
fn consumers_have_unique_names_and_handle_emitted_kinds() {
    let kinds: Vec<_> = all().iter().flat_map(|module| module.events).collect();
    let mut names = HashSet::new();
    for consumer in all().iter().flat_map(|module| module.consumers) {
        assert!(names.insert(consumer.name), "two consumers have the name {}", consumer.name);
        for pattern in consumer.kinds {
            let is_emitted = kinds.iter().any(|kind| kith_consumers::kind_matches(pattern, kind));
            assert!(is_emitted, "{}: no module emits {pattern}", consumer.name);
        }
    }
    assert!(names.contains("accounts.access"), "{names:?}");
}

#[test]
fn schema_names_are_unique() {
    let mut events = HashSet::new();
    let mut schemas = HashMap::new();
    for module in all() {
        for kind in module.events {
            assert!(events.insert(kind), "{}: another module also emits {kind}", module.name);
        }
        let components = (module.routes)().into_openapi().components.unwrap_or_default();
        for (name, schema) in components.schemas {
            // Two modules may use the same schema name only for the same schema.
            let json = serde_json::to_value(schema).unwrap();
            let known = schemas.entry(name.clone()).or_insert_with(|| json.clone());
            assert_eq!(*known, json, "{}: another module has a different schema {name}", module.name);
        }
    }
    assert!(schemas.len() > 10 && events.len() > 3, "{schemas:?} {events:?}");
}

#[test]
fn operations_have_unique_ids_and_declare_success_and_errors() {
    let document = openapi::document(all());
    let mut names = HashSet::new();
    for (path, method, operation) in openapi::operations(&document) {
        let name = operation.operation_id.clone().unwrap_or_default();
        assert!(!name.is_empty() && names.insert(name.clone()), "{method} {path}: operationId {name:?}");
        let statuses: Vec<_> = operation.responses.responses.keys().map(String::as_str).collect();
        assert!(
            statuses.iter().any(|status| status.starts_with(['2', '3'])),
            "{method} {path}: {statuses:?}"
        );
        assert!(statuses.contains(&"500") && statuses.contains(&"503"), "{method} {path}: {statuses:?}");
    }
}

#[test]
fn problem_responses_are_declared_as_problem_json() {
    let json: serde_json::Value =
        serde_json::from_slice(&openapi::to_json(&openapi::document(all()))).unwrap();
    for (path, item) in json["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let kinds = ["application/problem+json", "application/health+json"];
                let declared = kinds.iter().any(|kind| !response["content"][kind].is_null());
                assert!(declared || status.starts_with(['2', '3']), "{method} {path} {status}: {response}");
            }
        }
    }
}
