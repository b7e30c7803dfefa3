//! The audit log over HTTP: all of it for those who may read it, and everybody's own part for themselves.

pub mod archive;
pub mod head;
mod vault;

use axum::extract::State;
use kith_kernel::uuid::Uuid;
use kith_kernel::{Actor, Cursor, FieldError, Page, Problem, Timestamp, UserId};
use kith_store::{AuditEntry, AuditFilter, AuditRecord};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::auth::{Allowed, ReadAudit};
use crate::http::{bad_query, tagged};
use crate::{
    ApiResult, App, PageAnswer, PageQuery, Query, Routes, SignedIn, cursor_problem, page_limit, store_problem,
};

pub(crate) use vault::SecretVault;

/// Longer than any actor, action, object or request id.
const LONGEST_FILTER: usize = 200;

/// The handlers.
pub(crate) fn routes() -> Routes {
    let own = tagged("Profile", Routes::new().routes(routes!(list_my_activity)));
    tagged("Administration", Routes::new().routes(routes!(list_audit_entries))).merge(own)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Who: `user:` or `api_key:` and an id, `system:` and a part of Kith, or `anonymous`.
    actor: Option<String>,
    /// What was done, such as `bond.created`.
    action: Option<String>,
    /// The id of what it was done to.
    object: Option<String>,
    /// The id of the request it was done in.
    request_id: Option<String>,
    /// At this time or later.
    since: Option<Timestamp>,
    /// Before this time.
    until: Option<Timestamp>,
    /// Items on a page; more than 100 counts as 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<Cursor>,
}

/// An entry of the audit log.
#[derive(Serialize, ToSchema)]
struct AuditLine {
    id: Uuid,
    at: Timestamp,
    /// `user:` or `api_key:` and an id, `system:` and a part of Kith, or `anonymous`.
    actor: String,
    action: String,
    object: String,
    request_id: String,
    /// What it tells of a person; null if nothing, or if that is erased.
    #[schema(value_type = Option<Object>, required = true)]
    details: Option<Value>,
}

/// Something that you did, or that was done about you.
#[derive(Serialize, ToSchema)]
struct Activity {
    id: Uuid,
    at: Timestamp,
    action: String,
    #[schema(inline)]
    by: ActivityBy,
}

/// Who did it.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ActivityBy {
    /// You.
    You,
    /// Somebody who was not signed in, such as whoever logged in as you.
    Anonymous,
    /// Kith itself.
    System,
    /// Somebody else, who looks after the server.
    Other,
}

impl From<AuditRecord> for AuditLine {
    fn from(AuditRecord { entry, details }: AuditRecord) -> Self {
        let AuditEntry { id, at, actor, action, object, request_id, .. } = entry;
        Self { id, at, actor, action, object, request_id, details }
    }
}

impl Activity {
    fn of(person: UserId, AuditEntry { id, at, action, actor, .. }: AuditEntry) -> Self {
        let by = match actor.as_str() {
            "anonymous" => ActivityBy::Anonymous,
            actor if actor == Actor::User(person).to_string() => ActivityBy::You,
            actor if actor.starts_with("system:") => ActivityBy::System,
            _ => ActivityBy::Other,
        };
        Self { id, at, action, by }
    }
}

impl TryFrom<ListQuery> for AuditFilter {
    type Error = Problem;

    fn try_from(query: ListQuery) -> Result<Self, Problem> {
        let before = query.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
        let ListQuery { actor, action, object, request_id, since, until, .. } = query;
        for (name, text) in
            [("?actor", &actor), ("?action", &action), ("?object", &object), ("?request_id", &request_id)]
        {
            let fits = |text: &String| text.len() <= LONGEST_FILTER && !text.contains('\0');
            if !text.as_ref().is_none_or(fits) {
                let fault = FieldError::new(name, "invalid", "Not a value that this parameter can have.");
                return Err(bad_query(vec![fault]));
            }
        }
        Ok(Self { actor, action, object, request_id, since, until, before })
    }
}

type AuditLinePage = PageAnswer<AuditLine>;
type ActivityPage = PageAnswer<Activity>;

/// The audit log, newest first. `actor` is quick to look for; other filters read the log backwards.
#[utoipa::path(
    get, path = "/api/v1/audit", security(("bearer" = ["audit.read"])),
    params(ListQuery),
    responses((status = 200, body = AuditLinePage))
)]
async fn list_audit_entries(
    State(app): State<App>,
    _: Allowed<ReadAudit>,
    Query(query): Query<ListQuery>,
) -> ApiResult<AuditLinePage> {
    let limit = page_limit(query.limit)?;
    let filter = AuditFilter::try_from(query)?;
    let rows = app.db.read(move |q| q.audit_records(&filter, limit.rows())).await.map_err(store_problem)?;
    Ok(Page::from_rows(rows, limit, |record| record.entry.id).map(AuditLine::from).into())
}

/// What you did and what was done about you, newest first.
#[utoipa::path(
    get, path = "/api/v1/me/activity", security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, body = ActivityPage))
)]
async fn list_my_activity(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
    page: PageQuery,
) -> ApiResult<ActivityPage> {
    let limit = page.limit()?;
    let before = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let read = app.db.read(move |q| q.audit_activity(user_id, before, limit.rows()));
    let page = Page::from_rows(read.await.map_err(store_problem)?, limit, |entry| entry.id);
    Ok(page.map(|entry| Activity::of(user_id, entry)).into())
}
