//! HTTP endpoints for job kinds: list, get, declare and withdraw.

use axum::extract::State;
use axum::response::Response;
use kith_jobs::check_name;
use kith_kernel::{Cursor, MAX_PAGE_BYTES, Page, StoredJson};
use kith_platform::auth::{ReadJobs, WriteJobs};
use kith_platform::{
    Allowed, ApiResult, App, Json, PageQuery, PageResponse, PathId, Routes, WriteResponse, cursor_problem,
    store_problem,
};
use utoipa_axum::routes;

use super::super::model::{JobKind, JobKindBody};
use super::super::rules::reject_reserved;
use super::super::{commands, queries, rows};
use kith_json_schema as json_schema;

type JobKindPage = PageResponse<JobKind>;

pub fn routes() -> Routes {
    Routes::new().routes(routes!(list_job_kinds)).routes(routes!(
        get_job_kind,
        declare_job_kind,
        withdraw_job_kind
    ))
}

/// Name of a job kind in a path.
struct KindName(String);

impl std::str::FromStr for KindName {
    type Err = kith_jobs::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_name("kind", text).map(|()| Self(text.to_owned()))
    }
}

/// List job kinds
///
/// Returns the declared job kinds, ordered by name. Requires the permission `jobs.read`.
#[utoipa::path(
    get, path = "/api/v1/job-kinds", security(("bearer" = ["jobs.read"])),
    params(PageQuery),
    responses((status = 200, body = JobKindPage))
)]
async fn list_job_kinds(
    State(app): State<App>,
    _: Allowed<ReadJobs>,
    page: PageQuery,
) -> ApiResult<JobKindPage> {
    let limit = page.limit()?;
    let after = page.cursor.as_ref().map(Cursor::key::<String>).transpose().map_err(cursor_problem)?;
    let after = after.unwrap_or_default();
    let rows = app.db.read(move |q| rows::list_kinds(q, &after, limit.rows())).await;
    Ok({
        let bytes = |kind: &JobKind| kind.schema.as_ref().map_or(0, StoredJson::bytes);
        let rows = rows.map_err(store_problem)?;
        Page::from_rows_within(rows, limit, limit.rows(), MAX_PAGE_BYTES, bytes, |kind| kind.kind.clone())
            .into()
    })
}

/// Get a job kind
///
/// Returns the declaration of a job kind. Requires the permission `jobs.read`.
#[utoipa::path(
    get, path = "/api/v1/job-kinds/{kind}", security(("bearer" = ["jobs.read"])),
    params((
        "kind" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the job kind: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    responses((status = 200, body = JobKind))
)]
async fn get_job_kind(
    State(app): State<App>,
    _: Allowed<ReadJobs>,
    PathId(KindName(kind)): PathId<KindName>,
) -> ApiResult<Json<JobKind>> {
    Ok(Json(app.db.read(move |q| queries::get_kind(q, &kind)).await?))
}

/// Declare a job kind
///
/// Sets the payload schema and the defaults of a job kind, replacing an earlier declaration. Jobs that are
/// already enqueued are not affected. Kinds that the server reserves for itself cannot be declared. Requires
/// the permission `jobs.write`.
#[utoipa::path(
    put, path = "/api/v1/job-kinds/{kind}", security(("bearer" = ["jobs.write"])),
    params((
        "kind" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the job kind: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    request_body = JobKindBody,
    responses((status = 200, body = JobKind))
)]
async fn declare_job_kind(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    PathId(KindName(kind)): PathId<KindName>,
    Json(body): Json<JobKindBody>,
) -> ApiResult<Response> {
    reject_reserved(app.reserved_jobs(), body.queue.as_deref(), Some(&kind))?;
    if let Some(schema) = body.schema() {
        app.compute_for(&caller, move || json_schema::check_declared(&schema)).await?;
    }
    app.change(&caller, move |tx, ctx| commands::declare_kind(tx, ctx, &kind, &body).map(WriteResponse::ok))
        .await
}

/// Withdraw a job kind
///
/// Removes the declaration of a job kind. The jobs of this kind stay. Returns 204 even if the kind is not
/// declared. Requires the permission `jobs.write`.
#[utoipa::path(
    delete, path = "/api/v1/job-kinds/{kind}", security(("bearer" = ["jobs.write"])),
    params((
        "kind" = String, Path, pattern = "^[A-Za-z0-9._-]{1,64}$",
        description = "Name of the job kind: 1 to 64 ASCII letters, digits, dots, underscores and hyphens."
    )),
    responses((status = 204, description = "The job kind is no longer declared."))
)]
async fn withdraw_job_kind(
    State(app): State<App>,
    Allowed { caller, .. }: Allowed<WriteJobs>,
    PathId(KindName(kind)): PathId<KindName>,
) -> ApiResult<Response> {
    reject_reserved(app.reserved_jobs(), None, Some(&kind))?;
    app.change(&caller, move |tx, ctx| {
        commands::withdraw_kind(tx, ctx, &kind).map(|()| WriteResponse::no_content())
    })
    .await
}
