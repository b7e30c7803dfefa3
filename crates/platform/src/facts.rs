//! Facts about the server for administrators: build, configuration, secrets, database schema and counts of
//! the modules.
//!
//! Facts contain neither secrets nor personal data.

use axum::extract::State;
use kith_jobs::JOBS_MIGRATIONS;
use kith_kernel::{Clock as _, Ctx, SystemClock};
use kith_store::{Error, ModuleMigrations, Query, STORE_MIGRATIONS};
use serde_json::{Map, Value, json};
use utoipa_axum::routes;

use crate::audit::head::{HeadError, HeadOutcome};
use crate::auth::{Allowed, ReadFacts, api_keys, signing_key_ages};
use crate::jobs::MAINTENANCE_FACT;
use crate::telemetry::machine;
use crate::{ApiResult, App, Fact, Json, Routes, observed_time, purge, store_problem};

/// Number of links of the audit chain that one request recomputes, newest first. `kith audit verify`
/// recomputes all links.
const MAX_RECOMPUTED_LINKS: i64 = 20_000;

/// Facts of the platform: event positions, stored API keys, maintenance, observed time and purges.
pub(crate) const PLATFORM_FACTS: &[Fact] = &[
    Fact { name: "events.positions", read: |q, _| Ok(json!(q.positions()?)) },
    api_keys::STORED_KEYS_FACT,
    MAINTENANCE_FACT,
    observed_time::FACT,
    purge::FACT,
];

pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(get_facts))
}

/// Get the server's facts
///
/// Returns facts about the node that handles the request: its build, its settings with secrets masked, the
/// state of its database, and the counts of its modules. `kith verify` and operators use them. Requires the
/// permission `facts.read`.
#[utoipa::path(
    get, path = "/api/v1/admin/facts", security(("bearer" = ["facts.read"])),
    responses((status = 200, description = "Facts about the node, grouped by subject.", body = Value))
)]
async fn get_facts(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadFacts>,
) -> ApiResult<Json<Value>> {
    gather(&app, &caller.ctx).await.map(Json).map_err(|error| store_problem(error).into())
}

async fn gather(app: &App, ctx: &Ctx) -> Result<Value, Error> {
    let config = &app.config;
    let mut database = app.db.facts(migrations(app)).await?;
    let migrations = database.as_object_mut().and_then(|facts| facts.remove("migrations"));
    let starts = app.db.read(crate::starts::recent(ctx.now)).await?;
    let mut modules = module_facts(app, ctx).await?;
    modules.insert("audit.chain".to_owned(), audit_chain(app).await?);
    Ok(json!({
        "build": { "release": app.build, "started_at": app.started },
        "process": { "id": std::process::id(), "machine": machine(), "starts": starts },
        "clock": { "machine": SystemClock.now().as_millis(), "kith": app.sources.clock.now().as_millis() },
        "configuration": { "digest": config.digest(), "settings": config.settings() },
        "secrets": secrets(app),
        "token_secrets_differ": config.token_secrets_differ(),
        "signing_keys": app.db.read(signing_key_ages).await?,
        "database": database,
        "migrations": migrations,
        "modules": modules,
    }))
}

/// Recomputes the newest links of the audit chain. Also compares the chain with the head that is stored on
/// this node.
async fn audit_chain(app: &App) -> Result<Value, Error> {
    let mut chain = json!(app.db.audit_tail(MAX_RECOMPUTED_LINKS).await?);
    if let Err(HeadError::Store(error)) = app.audit_head.compare_and_remember(&app.db).await {
        return Err(error);
    }
    let (outcome, head_fault) = match app.audit_head.outcome() {
        HeadOutcome::Unknown => ("unknown", None),
        HeadOutcome::Contained => ("contained", None),
        HeadOutcome::Missing(fault) => ("missing", Some(fault)),
        HeadOutcome::Unreadable(error) => ("unreadable", Some(error)),
    };
    chain["remembered_head"] = json!({ "outcome": outcome, "fault": head_fault });
    Ok(chain)
}

/// Describes each secret without revealing it.
fn secrets(app: &App) -> Vec<Value> {
    let to_json = |report: crate::config::SecretReport| {
        json!({
            "key": report.key,
            "required": report.required,
            "length": report.length,
            "entropy": report.entropy,
            "well_known": report.well_known,
            "made_for_development": report.made_for_development,
            "unchanged_since": report.unchanged_since,
            "origin": report.origin.to_string(),
        })
    };
    app.config.secret_reports().into_iter().map(to_json).collect()
}

/// Returns the migrations of this build.
fn migrations(app: &App) -> Vec<ModuleMigrations> {
    let own = app
        .modules
        .iter()
        .map(|module| ModuleMigrations { module: module.name, migrations: module.migrations });
    [STORE_MIGRATIONS, JOBS_MIGRATIONS].into_iter().chain(own).collect()
}

async fn module_facts(app: &App, ctx: &Ctx) -> Result<Map<String, Value>, Error> {
    let facts: Vec<Fact> = app.modules.iter().flat_map(|module| module.facts).copied().collect();
    let ctx = ctx.refreshed();
    // These queries count the rows of whole tables, so they use the database connections for long reads.
    app.db.export(move |q| read(q, &facts, &ctx)).await
}

fn read(q: &Query<'_>, facts: &[Fact], ctx: &Ctx) -> Result<Map<String, Value>, Error> {
    facts.iter().map(|fact| Ok((fact.name.to_owned(), (fact.read)(q, ctx)?))).collect()
}
