//! What a feature is to the rest of Kith: plain data, gathered in one list by the server.

use kith_kernel::{ProblemCode, problems};
use kith_store::Migration;

use crate::{App, auth, docs, health};

/// Handlers together with their documentation: none can be registered without it.
pub type Routes = utoipa_axum::router::OpenApiRouter<App>;

/// A feature.
#[derive(Debug)]
pub struct Module {
    /// `bonds`.
    pub name: &'static str,
    /// Its handlers.
    pub routes: fn() -> Routes,
    /// Its tables, in order of their versions.
    pub migrations: &'static [Migration],
    /// The problems it answers with, beside the general ones.
    pub problems: &'static [&'static ProblemCode],
    /// The kinds of events it emits.
    pub events: &'static [&'static str],
}

/// The platform's own: health, metrics, the OpenAPI document, signing keys.
pub static MODULE: Module =
    Module { name: "platform", routes, migrations: auth::MIGRATIONS, problems: problems::ALL, events: &[] };

fn routes() -> Routes {
    health::routes().merge(docs::routes())
}
