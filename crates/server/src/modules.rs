//! The list of modules. The router, the migrations, the OpenAPI document and the problem catalogue are built
//! from it.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use kith_accounts::{accounts, blocks, nicknames};
use kith_automation::{callbacks, jobs, schedules};
use kith_bonds::{bonds, spaces};
use kith_jobs::JOBS_MIGRATIONS;
use kith_platform::auth::{PERMISSIONS, Role};
use kith_platform::config::{Config, ConfigSection, reference};
use kith_platform::http::openapi;
use kith_platform::{DEVELOPMENT, Module};
use kith_readiness::{OwnBuild, RolePermissions};
use kith_store::{ModuleMigrations, STORE_MIGRATIONS};

use thiserror::Error;

use crate::demo::DEMO;

/// Modules that are served in all modes, in the order in which their tables are created.
pub static MODULES: &[&Module] = &[
    &kith_platform::MODULE,
    &accounts::MODULE,
    &blocks::MODULE,
    &bonds::MODULE,
    &nicknames::MODULE,
    &spaces::MODULE,
    &callbacks::MODULE,
    &jobs::MODULE,
    &schedules::MODULE,
];

/// Modules that are served only in development mode.
static DEVELOPMENT_MODULES: &[&Module] = &[&DEVELOPMENT, &accounts::DEVELOPMENT];

/// All modules of this build.
static ALL: LazyLock<Vec<&Module>> = LazyLock::new(|| [MODULES, DEVELOPMENT_MODULES, &[&DEMO]].concat());

/// Presets of `server.preset`, each with its modules. Every preset also includes the platform.
const PRESETS: &[(&str, &[&str])] = &[
    ("bond-mate", &["accounts", "blocks", "bonds", "nicknames", "spaces"]),
    ("hamsaya", &["accounts", "blocks", "nicknames"]),
    ("platform", &["accounts"]),
    ("chronizer", &["accounts", "callbacks", "job_queues", "schedules"]),
];

/// Error in the choice of modules to serve.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ModulesError {
    /// `server.preset` does not name a preset.
    #[error("there is no preset {name:?} (`server.preset`); expected one of: {}", preset_names())]
    UnknownPreset {
        /// Name in the setting.
        name: String,
    },
    /// `server.modules` does not name a module.
    #[error("there is no module {name:?} (`server.modules`); expected some of: {}", module_names())]
    UnknownModule {
        /// Name in the setting.
        name: String,
    },
    /// Both `server.preset` and `server.modules` are set.
    #[error("`server.preset` and `server.modules` exclude each other; set one of them")]
    PresetAndModules,
    /// A module that is served depends on a module that is not served.
    #[error("the module {module} needs the module {needed}, which is not served; add it to `server.modules`")]
    UnmetNeed {
        /// Name of the module that has the dependency.
        module: &'static str,
        /// Name of the module that is not served.
        needed: &'static str,
    },
}

fn preset_names() -> String {
    PRESETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn module_names() -> String {
    MODULES.iter().map(|module| module.name).collect::<Vec<_>>().join(", ")
}

/// Returns the modules that a server with this configuration serves.
///
/// # Errors
/// Returns [`ModulesError`] if a name is unknown, if both settings are set, or if a module that is needed is
/// not served.
pub fn served(config: &Config) -> Result<&'static [&'static Module], ModulesError> {
    let mut served = selected_modules(config)?;
    if !config.is_production() {
        let has_needs = |module: &&&Module| {
            module.depends_on.iter().all(|need| served.iter().any(|one| one.name == *need))
        };
        let for_development: Vec<_> = DEVELOPMENT_MODULES.iter().filter(has_needs).copied().collect();
        served.extend(for_development);
        if config.server.demo {
            served.push(&DEMO);
        }
    }
    for module in &served {
        let unmet = module.depends_on.iter().find(|need| served.iter().all(|one| one.name != **need));
        if let Some(needed) = unmet {
            return Err(ModulesError::UnmetNeed { module: module.name, needed });
        }
    }
    Ok(shared_list(served))
}

/// Returns a list with static lifetime. Equal lists are shared, so that a process with many servers leaks
/// each list only once.
fn shared_list(modules: Vec<&'static Module>) -> &'static [&'static Module] {
    static LISTS: Mutex<Vec<&'static [&'static Module]>> = Mutex::new(Vec::new());
    let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    let names = |list: &[&'static Module]| list.iter().map(|module| module.name).collect::<Vec<_>>();
    if let Some(known) = lists.iter().find(|list| names(list) == names(&modules)) {
        return known;
    }
    let list: &'static [&'static Module] = Vec::leak(modules);
    lists.push(list);
    list
}

/// Returns the modules that `server.preset` or `server.modules` selects, in the order of [`MODULES`].
fn selected_modules(config: &Config) -> Result<Vec<&'static Module>, ModulesError> {
    let names: Vec<&str> = match (&*config.server.preset, &config.server.modules[..]) {
        ("", []) => return Ok(MODULES.to_vec()),
        ("", names) => names.iter().map(String::as_str).collect(),
        (preset, []) => {
            let found = PRESETS.iter().find(|(name, _)| *name == preset);
            let unknown = || ModulesError::UnknownPreset { name: preset.to_owned() };
            found.map(|(_, names)| names.to_vec()).ok_or_else(unknown)?
        }
        _ => return Err(ModulesError::PresetAndModules),
    };
    if let Some(name) = names.iter().find(|name| MODULES.iter().all(|module| module.name != **name)) {
        return Err(ModulesError::UnknownModule { name: (*name).to_owned() });
    }
    let is_chosen =
        |module: &&&Module| module.name == kith_platform::MODULE.name || names.contains(&module.name);
    Ok(MODULES.iter().filter(is_chosen).copied().collect())
}

fn permissions_of(role: Role) -> RolePermissions {
    let all = PERMISSIONS.iter().map(|(name, _)| *name);
    RolePermissions { name: role.as_str(), permissions: all.filter(|name| role.has(name)).collect() }
}

/// Returns the release, settings, roles and OpenAPI document of this build. `kith verify` compares them with
/// those of a deployment.
pub fn own_build() -> OwnBuild {
    let (document, _) = openapi::document_with_operations(&ALL);
    let document = serde_json::from_str(document).expect("the document is valid JSON");
    OwnBuild {
        release: env!("KITH_BUILD").to_owned(),
        document: Arc::new(document),
        settings: reference::keys(&sections()),
        roles: Role::ALL.map(permissions_of).into(),
    }
}

/// Returns the sections of the configuration that modules define, including modules that are not served.
pub fn sections() -> Vec<ConfigSection> {
    ALL.iter().flat_map(|module| module.config).copied().collect()
}

/// Returns all migrations: those of the store, then those of the job engine, then those of the modules.
pub fn migrations() -> Vec<ModuleMigrations> {
    let own =
        MODULES.iter().map(|module| ModuleMigrations { module: module.name, migrations: module.migrations });
    [STORE_MIGRATIONS, JOBS_MIGRATIONS].into_iter().chain(own).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::fs;
    use std::path::{Path, PathBuf};

    use kith_platform::ModuleConsumer;
    use kith_platform::config::{Inputs, Mode};

    use super::*;

    /// DOC-11: `docs/READINESS.md` was generated with the rows and checks of this build.
    #[test]
    fn readiness_page_matches_rows_and_checks() {
        let page = include_str!("../../../docs/READINESS.md");
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
        let page = include_str!("../../../docs/configuration.md");
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
                    assert!(
                        declared || status.starts_with(['2', '3']),
                        "{method} {path} {status}: {response}"
                    );
                }
            }
        }
    }
}
