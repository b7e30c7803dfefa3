//! `/dev/outbox`: lists all events and their recipients.

use axum::extract::State;
use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, Page, Timestamp, UserId};
use kith_store::{Event, SequencedEvent};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::module::Routes;
use crate::{ApiResult, App, PageQuery, PageResponse, cursor_problem, store_problem};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(list_outbox))
}

/// Event with its position in the log of all events.
#[derive(Serialize, ToSchema)]
struct OutboxEvent {
    /// Position in the log: 1, 2, 3 and so on, without gaps.
    position: i64,
    id: Uuid,
    at: Timestamp,
    /// Kind of the event, in the past tense, such as `bond.created`.
    kind: String,
    /// Id of the object that the event is about.
    subject: String,
    /// Ids of the users who would be notified.
    recipients: Vec<UserId>,
    #[schema(value_type = Object)]
    payload: Value,
    request_id: String,
}

type OutboxEventPage = PageResponse<OutboxEvent>;

impl From<SequencedEvent> for OutboxEvent {
    fn from(SequencedEvent { position, event }: SequencedEvent) -> Self {
        let Event { id, at, kind, subject, recipients, payload, request_id } = event;
        let payload = serde_json::from_str(&payload).unwrap_or_default();
        Self { position, id, at, kind, subject, recipients, payload, request_id }
    }
}

/// List events and their recipients
///
/// Returns all events, newest first, with the users who would be notified of each. Available in development
/// mode only.
#[utoipa::path(get, path = "/dev/outbox", params(PageQuery), responses((status = 200, body = OutboxEventPage)))]
async fn list_outbox(State(app): State<App>, page: PageQuery) -> ApiResult<OutboxEventPage> {
    let limit = page.limit()?;
    let before = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let events =
        app.db.events_before(before.unwrap_or(i64::MAX), limit.rows()).await.map_err(store_problem)?;
    Ok(Page::from_rows(events, limit, |last| last.position).map(OutboxEvent::from).into())
}
