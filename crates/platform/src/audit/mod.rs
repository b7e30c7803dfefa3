//! HTTP endpoints of the audit log: all entries for auditors, and each user's own activity.

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
    ApiResult, App, PageQuery, PageResponse, Query, Routes, SignedIn, cursor_problem, page_limit,
    store_problem,
};

pub(crate) use vault::SecretVault;

/// Maximum length of a text filter in bytes. All actors, actions, objects and request ids are shorter.
const MAX_FILTER_BYTES: usize = 200;

pub(crate) fn routes() -> Routes {
    let own = tagged("Profile", Routes::new().routes(routes!(list_my_activity)));
    tagged("Administration", Routes::new().routes(routes!(list_audit_entries))).merge(own)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditLogQuery {
    /// Actor of the entry: `user:<id>`, `api_key:<id>`, `system:<component>` or `anonymous`. Exact match.
    actor: Option<String>,
    /// Action, such as `bond.created`. Exact match.
    action: Option<String>,
    /// ID of the object of the action. Exact match.
    object: Option<String>,
    /// ID of the request that caused the entry. Exact match.
    request_id: Option<String>,
    /// Earliest time of an entry, inclusive.
    since: Option<Timestamp>,
    /// Latest time of an entry, exclusive.
    until: Option<Timestamp>,
    /// Maximum number of items on the page. Values above 100 are reduced to 100; values below 1 are rejected.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the previous page. Absent for the first page.
    cursor: Option<Cursor>,
}

/// Entry of the audit log.
#[derive(Serialize, ToSchema)]
struct AuditLogEntry {
    id: Uuid,
    at: Timestamp,
    /// Actor of the action: `user:<id>`, `api_key:<id>`, `system:<component>` or `anonymous`.
    actor: String,
    action: String,
    object: String,
    request_id: String,
    /// Personal details of the action; null if there are none or they were erased.
    #[schema(value_type = Option<Object>, required = true)]
    details: Option<Value>,
}

/// Action of the caller, or action of another actor that concerns the caller.
#[derive(Serialize, ToSchema)]
struct Activity {
    id: Uuid,
    at: Timestamp,
    action: String,
    #[schema(inline)]
    by: ActivityBy,
}

/// Actor of an activity, relative to the caller.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ActivityBy {
    /// The caller.
    You,
    /// A client without authentication, such as a client that was logging in to the caller's account.
    Anonymous,
    /// The server itself.
    System,
    /// Another user or an API key, such as an administrator.
    Other,
}

impl From<AuditRecord> for AuditLogEntry {
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

impl TryFrom<AuditLogQuery> for AuditFilter {
    type Error = Problem;

    fn try_from(query: AuditLogQuery) -> Result<Self, Problem> {
        let before = query.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
        let AuditLogQuery { actor, action, object, request_id, since, until, .. } = query;
        for (name, text) in
            [("?actor", &actor), ("?action", &action), ("?object", &object), ("?request_id", &request_id)]
        {
            let fits = |text: &String| text.len() <= MAX_FILTER_BYTES && !text.contains('\0');
            if !text.as_ref().is_none_or(fits) {
                let fault = FieldError::new(name, "invalid", "The value is not valid for this parameter.");
                return Err(bad_query(vec![fault]));
            }
        }
        Ok(Self { actor, action, object, request_id, since, until, before })
    }
}

type AuditLogEntryPage = PageResponse<AuditLogEntry>;
type ActivityPage = PageResponse<Activity>;

/// List audit log entries
///
/// Returns entries, newest first. The filter `actor` uses an index; the other filters scan the log backwards
/// and can be slow if few entries match. Requires the permission `audit.read`.
#[utoipa::path(
    get, path = "/api/v1/audit", security(("bearer" = ["audit.read"])),
    params(AuditLogQuery),
    responses((status = 200, body = AuditLogEntryPage))
)]
async fn list_audit_entries(
    State(app): State<App>,
    _: Allowed<ReadAudit>,
    Query(query): Query<AuditLogQuery>,
) -> ApiResult<AuditLogEntryPage> {
    let limit = page_limit(query.limit)?;
    let filter = AuditFilter::try_from(query)?;
    let rows = app.db.read(move |q| q.audit_records(&filter, limit.rows())).await.map_err(store_problem)?;
    Ok(Page::from_rows(rows, limit, |record| record.entry.id).map(AuditLogEntry::from).into())
}

/// List the caller's activity
///
/// Returns actions of the caller and actions of others that concern the caller, newest first.
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
