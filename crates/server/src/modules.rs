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
mod tests;
