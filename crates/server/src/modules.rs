//! The one list of modules. It feeds the router, the migrator, the OpenAPI document and the catalogue of problems.

use std::sync::{Arc, LazyLock};

use kith_accounts::{accounts, blocks, nicknames};
use kith_automation::{callbacks, jobs, schedules};
use kith_bonds::{bonds, spaces};
use kith_jobs::JOBS_MIGRATIONS;
use kith_platform::auth::{PERMISSIONS, Role};
use kith_platform::config::{Config, reference};
use kith_platform::http::openapi;
use kith_platform::{DEVELOPMENT, Module};
use kith_readiness::{OwnBuild, RolePermissions};
use kith_store::{ModuleMigrations, STORE_MIGRATIONS};

use crate::demo::DEMO;

/// Every module that serves people, in the order in which their tables are made.
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

/// The same, and what only development mode has.
static IN_DEVELOPMENT: LazyLock<Vec<&Module>> =
    LazyLock::new(|| [MODULES, &[&DEVELOPMENT, &accounts::DEVELOPMENT]].concat());

/// The same, and the demo.
static IN_DEMO: LazyLock<Vec<&Module>> = LazyLock::new(|| [&**IN_DEVELOPMENT, &[&DEMO]].concat());

/// The modules that a server with this configuration serves.
pub fn served(config: &Config) -> &'static [&'static Module] {
    match (config.is_production(), config.server.demo) {
        (true, _) => MODULES,
        (false, false) => &IN_DEVELOPMENT,
        (false, true) => &IN_DEMO,
    }
}

fn permissions_of(role: Role) -> RolePermissions {
    let all = PERMISSIONS.iter().map(|(name, _)| *name);
    RolePermissions { name: role.as_str(), permissions: all.filter(|name| role.has(name)).collect() }
}

/// What this build calls itself, what it can be set to, and the OpenAPI document of everything that it can serve.
pub fn own_build() -> OwnBuild {
    let document = openapi::to_json(&openapi::document(&IN_DEMO));
    let document = serde_json::from_slice(&document).expect("the document is JSON");
    OwnBuild {
        release: env!("KITH_BUILD").to_owned(),
        document: Arc::new(document),
        settings: reference::keys(),
        roles: Role::ALL.map(permissions_of).into(),
    }
}

/// Every migration: the store's own, the job engine's, then the modules'.
pub fn migrations() -> Vec<ModuleMigrations> {
    let own =
        MODULES.iter().map(|module| ModuleMigrations { module: module.name, migrations: module.migrations });
    [STORE_MIGRATIONS, JOBS_MIGRATIONS].into_iter().chain(own).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use kith_platform::config::Mode;

    use super::*;

    /// DOC-11: `docs/READINESS.md` is a run of the checks that this build has.
    #[test]
    fn readiness_page_is_of_the_present_rows_and_checks() {
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
            "docs/READINESS.md was made with other rows or checks ({line}): run `kith verify --format markdown > \
             docs/READINESS.md` against the demo"
        );
    }

    fn all() -> &'static [&'static Module] {
        let mut config = Config::default();
        config.server.demo = true;
        served(&config)
    }

    #[test]
    fn only_development_mode_serves_what_is_for_development() {
        let names = |mode, demo| {
            let mut config = Config::default();
            (config.server.mode, config.server.demo) = (mode, demo);
            served(&config)[MODULES.len()..].iter().map(|module| module.name).collect::<Vec<_>>()
        };
        assert_eq!(names(Mode::Development, true), ["development", "accounts-development", "demo"]);
        assert_eq!(names(Mode::Development, false), ["development", "accounts-development"]);
        assert_eq!(names(Mode::Production, true), [""; 0]);
    }

    #[test]
    fn modules_do_not_step_on_each_other() {
        let mut names = HashSet::from([STORE_MIGRATIONS.module, JOBS_MIGRATIONS.module]);
        for module in all() {
            assert!(names.insert(module.name), "two modules are called {}", module.name);
        }
        let mut problems = HashMap::new();
        for problem in all().iter().flat_map(|module| module.problems) {
            assert_eq!(
                *problems.entry(problem.code).or_insert(problem),
                problem,
                "{} means two things",
                problem.code
            );
        }
    }

    #[test]
    fn consumers_have_unique_names_and_handle_kinds_that_are_emitted() {
        let kinds: Vec<_> = all().iter().flat_map(|module| module.events).collect();
        let mut names = HashSet::new();
        for consumer in all().iter().flat_map(|module| module.consumers) {
            assert!(names.insert(consumer.name), "two consumers are called {}", consumer.name);
            for pattern in consumer.kinds {
                let is_emitted = kinds.iter().any(|kind| kith_consumers::kind_matches(pattern, kind));
                assert!(is_emitted, "{}: no module emits {pattern}", consumer.name);
            }
        }
        assert!(names.contains("accounts.access"), "{names:?}");
    }

    #[test]
    fn no_name_means_two_things() {
        let mut events = HashSet::new();
        let mut schemas = HashMap::new();
        for module in all() {
            for kind in module.events {
                assert!(events.insert(kind), "{}: another module emits {kind} too", module.name);
            }
            let components = (module.routes)().into_openapi().components.unwrap_or_default();
            for (name, schema) in components.schemas {
                // A module may show what another hands out, as long as it is the same.
                let json = serde_json::to_value(schema).unwrap();
                let known = schemas.entry(name.clone()).or_insert_with(|| json.clone());
                assert_eq!(*known, json, "{}: another module calls something else {name}", module.name);
            }
        }
        assert!(schemas.len() > 10 && events.len() > 3, "{schemas:?} {events:?}");
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_a_success_and_declared_problems() {
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
    fn every_problem_answer_is_declared_as_problem_json() {
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
