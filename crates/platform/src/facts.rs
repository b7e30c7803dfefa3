//! What the server says of itself to administrators: build, configuration, secrets, schema, and what modules count.
//!
//! Never a secret, never anything personal.

use axum::extract::State;
use kith_kernel::Ctx;
use kith_store::{Error, MigrationState, Query};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use utoipa_axum::routes;

use crate::auth::{Allowed, ReadFacts};
use crate::{ApiResult, App, Fact, Json, Routes, store_problem};

/// Links of the audit chain that are recomputed for the asking; `kith audit verify` recomputes all.
const LINKS_RECOMPUTED: i64 = 20_000;

/// What the store tells of the trace that changes leave.
pub(crate) const OF_THE_STORE: &[Fact] = &[
    Fact { name: "audit.chain", read: |q, _| Ok(json!(q.audit_tail(LINKS_RECOMPUTED)?)) },
    Fact { name: "events.positions", read: |q, _| Ok(json!(q.positions()?)) },
];

pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(get_facts))
}

/// What the server that answers says of itself: its build, its settings with secrets masked, how its database is set up,
/// and what its modules count. For `kith verify` and for operators.
#[utoipa::path(
    get, path = "/api/v1/admin/facts", security(("bearer" = ["facts.read"])),
    responses((status = 200, description = "By subject", body = Value))
)]
async fn get_facts(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<ReadFacts>,
) -> ApiResult<Json<Value>> {
    gather(&app, &caller.ctx).await.map(Json).map_err(|error| store_problem(error).into())
}

async fn gather(app: &App, ctx: &Ctx) -> Result<Value, Error> {
    let settings = serde_json::to_value(&app.config).unwrap_or_default();
    let digest = Sha256::digest(settings.to_string());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({
        "build": { "release": app.build, "started_at": app.started },
        "configuration": { "digest": format!("sha256:{digest}"), "settings": settings },
        "secrets": secrets(app),
        "migrations": migrations(app).await?,
        "modules": of_modules(app, ctx).await?,
    }))
}

/// Of each secret what may be told.
fn secrets(app: &App) -> Vec<Value> {
    let told = |report: crate::config::SecretReport| {
        json!({
            "key": report.key,
            "length": report.length,
            "well_known": report.well_known,
            "origin": report.origin.to_string(),
        })
    };
    app.config.secret_reports().into_iter().map(told).collect()
}

async fn migrations(app: &App) -> Result<Vec<Value>, Error> {
    let state = |state| match state {
        MigrationState::Applied { .. } => "applied",
        MigrationState::Pending => "pending",
        MigrationState::Unknown => "unknown",
        MigrationState::Changed => "changed",
    };
    let all = app.migrations().await?;
    Ok(all.into_iter().map(|one| json!({ "name": one.name, "state": state(one.state) })).collect())
}

async fn of_modules(app: &App, ctx: &Ctx) -> Result<Map<String, Value>, Error> {
    let facts: Vec<Fact> = app.modules.iter().flat_map(|module| module.facts).copied().collect();
    let ctx = ctx.renewed();
    // They count whole tables: on the lane for what takes longer.
    app.db.export(move |q| read(q, &facts, &ctx)).await
}

fn read(q: &Query<'_>, facts: &[Fact], ctx: &Ctx) -> Result<Map<String, Value>, Error> {
    facts.iter().map(|fact| Ok((fact.name.to_owned(), (fact.read)(q, ctx)?))).collect()
}
