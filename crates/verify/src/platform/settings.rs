//! Checks of settings: all are reported, none is unset, and the running values are those in the
//! configuration.

use std::collections::BTreeSet;

use kith_readiness::{Check, Run, Shortfall};
use serde_json::{Map, Value};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "CFG-01",
        description: "compares the keys of the running configuration with those of the reference",
        remediation: "run `kith verify` of the deployed build; if you did, the reference differs from the \
               configuration of this build",
        runs_last: false,
        run: |run| Box::pin(check_settings_documented(run)),
    },
    Check {
        row: "CFG-02",
        description: "reads the mode of the server, and checks for settings that production mode rejects",
        remediation: "set server.mode to \"production\" (KITH__SERVER__MODE); the start then reports the settings \
               to change",
        runs_last: false,
        run: |run| Box::pin(production(run)),
    },
    Check {
        row: "CFG-03",
        description: "compares the set variables with the required ones",
        remediation: "set the missing variables; `kith secrets check` lists all secrets",
        runs_last: false,
        run: |run| Box::pin(complete(run)),
    },
    Check {
        row: "CFG-05",
        description: "compares the digest of the configuration on this machine with that of the running server",
        remediation: "restart the server with the intended configuration, or commit the configuration that it runs \
               with",
        runs_last: false,
        run: |run| Box::pin(check_configuration_drift(run)),
    },
    Check {
        row: "DRV-15",
        description: "lists the effective settings of cookies, CORS, limits, addresses and headers, with secrets \
               masked",
        remediation: "look at the named sections of the settings",
        runs_last: false,
        run: |run| Box::pin(shown(run)),
    },
];

/// Values that are shown instead of a secret: the first if it is set, the second if it is not.
const MASKS: [&str; 2] = ["***", ""];
const SECRETS: [&str; 5] = [
    "/auth/jwt_secret",
    "/auth/jwt_refresh_secret",
    "/database/url",
    "/database/migrate_url",
    "/database/password",
];

async fn settings(run: &Run) -> Result<Value, Shortfall> {
    let settings = run.facts().await?["configuration"]["settings"].clone();
    if settings.is_object() {
        Ok(settings)
    } else {
        Err(Shortfall::fails("the server does not report its settings"))
    }
}

async fn check_settings_documented(run: &Run) -> Result<String, Shortfall> {
    let settings = settings(run).await?;
    let sections = settings.as_object().into_iter().flatten();
    let running: BTreeSet<_> = sections
        .flat_map(|(section, keys)| {
            keys.as_object().into_iter().flat_map(Map::keys).map(move |key| format!("{section}.{key}"))
        })
        .collect();
    let Some(own) = &run.deployment().target().own_build else {
        return Err(Shortfall::unmeasured(
            "the reference to compare with is not available",
            "run `kith verify` of the deployed build",
        ));
    };
    let known: BTreeSet<_> = own.settings.iter().cloned().collect();
    run.record("keys", running.len());
    if let Some(undocumented) = running.difference(&known).next() {
        return Err(Shortfall::fails(format!("the key {undocumented} is missing from the reference")));
    }
    if let Some(absent) = known.difference(&running).next() {
        return Err(Shortfall::fails(format!(
            "the key {absent} is in the reference, but the server does not have it"
        )));
    }
    Ok(format!("all {} keys match the reference", running.len()))
}

async fn production(run: &Run) -> Result<String, Shortfall> {
    let settings = settings(run).await?;
    let mode = settings["server"]["mode"].as_str().unwrap_or_default().to_owned();
    run.record("mode", mode.clone());
    if mode != "production" {
        return Err(Shortfall::fails(format!(
            "the server runs in {mode} mode, which validates its environment less strictly"
        )));
    }
    for (pointer, unsafe_value) in [
        ("/server/disable_limits", Value::Bool(true)),
        ("/server/demo", Value::Bool(true)),
        ("/database/synchronous", "off".into()),
    ] {
        if settings.pointer(pointer) == Some(&unsafe_value) {
            return Err(Shortfall::fails(format!(
                "{pointer} is {unsafe_value}, which production mode rejects"
            )));
        }
    }
    let origins = settings["server"]["cors_origins"].as_array().into_iter().flatten();
    if let Some(plain) = origins.filter_map(Value::as_str).find(|origin| origin.starts_with("http://")) {
        return Err(Shortfall::fails(format!("the unencrypted origins {plain} are allowed")));
    }
    Ok("the server runs in production mode, without settings that this mode rejects".to_owned())
}

async fn complete(run: &Run) -> Result<String, Shortfall> {
    let facts = run.facts().await?;
    let secrets: Vec<_> = facts["secrets"].as_array().into_iter().flatten().collect();
    let required: Vec<_> = secrets.iter().filter(|secret| secret["required"] == true).collect();
    if required.is_empty() {
        return Err(Shortfall::fails("the server does not report its required settings"));
    }
    let missing: Vec<_> = required.iter().filter(|secret| secret["length"] == "not set").collect();
    let names = |of: &[&&&Value]| {
        let names: Vec<_> = of.iter().filter_map(|secret| secret["key"].as_str()).collect();
        names.join(", ")
    };
    let settings = facts["configuration"]["settings"].as_object().map_or(0, Map::len);
    run.record("required", required.len());
    if !missing.is_empty() {
        return Err(Shortfall::fails(format!("required but not set: {}", names(&missing))));
    }
    if settings == 0 {
        return Err(Shortfall::fails("the server does not report its settings"));
    }
    let all: Vec<_> = required.iter().collect();
    Ok(format!("all {} required settings are set: {}", required.len(), names(&all)))
}

async fn check_configuration_drift(run: &Run) -> Result<String, Shortfall> {
    let Some(rendered) = run.deployment().target().configuration.clone() else {
        return Err(Shortfall::unmeasured(
            "no configuration to compare with was given",
            "run it on the server's machine, with the same environment and --config FILE as `kith serve`",
        ));
    };
    let running = run.facts().await?["configuration"]["digest"].as_str().unwrap_or_default().to_owned();
    run.record("running", running.clone());
    run.record("rendered", rendered.clone());
    if running == rendered {
        Ok(format!("the running configuration equals the one given here: {running}"))
    } else {
        Err(Shortfall::fails(format!(
            "the running configuration is {running}, but the configuration given here is {rendered}"
        )))
    }
}

async fn shown(run: &Run) -> Result<String, Shortfall> {
    let settings = settings(run).await?;
    for pointer in SECRETS {
        let shown = settings.pointer(pointer).and_then(Value::as_str);
        if !shown.is_some_and(|shown| MASKS.contains(&shown)) {
            return Err(Shortfall::fails(format!("{pointer} is not masked")));
        }
    }
    for section in ["server", "limits", "auth"] {
        let keys = settings[section].as_object().filter(|keys| !keys.is_empty());
        let keys = keys.ok_or_else(|| Shortfall::fails(format!("section {section} is missing")))?;
        run.record(section, Value::Object(keys.clone()));
    }
    // Kith sets no cookies, because tokens are sent in headers and bodies.
    let health = run.anonymous().get("/api/health").await?.expect(200)?;
    let headers: Map<_, _> = health
        .headers
        .iter()
        .filter(|(name, _)| {
            !["date", "x-request-id", "server-timing", "content-length"].contains(&name.as_str())
        })
        .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap_or_default())))
        .collect();
    let cookies = health.headers.get_all("set-cookie").iter().count();
    run.record("headers", Value::Object(headers));
    run.record("cookies", cookies);
    let limits = settings["limits"].as_object().map_or(0, Map::len);
    let origins = settings["server"]["cors_origins"].as_array().map_or(0, Vec::len);
    Ok(format!(
        "{limits} limits, {origins} CORS origins and {cookies} cookies are listed; {} secrets are masked",
        SECRETS.len()
    ))
}
