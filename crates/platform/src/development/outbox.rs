//! `/dev/outbox`: what every change has said, and who would be told. Whatever is to be sent is seen here.

use axum::extract::State;
use kith_kernel::uuid::Uuid;
use kith_kernel::{Cursor, Page, Timestamp, UserId};
use kith_store::{Event, SequencedEvent};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::module::Routes;
use crate::{ApiResult, App, PageAnswer, PageQuery, cursor_problem, store_problem};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(list_outbox))
}

/// Something that has happened, in its place among all that has.
#[derive(Serialize, ToSchema)]
struct OutboxEvent {
    /// 1, 2, 3, … without gaps.
    position: i64,
    id: Uuid,
    at: Timestamp,
    /// In the past tense: `bond.created`.
    kind: String,
    /// The id of what it is about.
    subject: String,
    /// The ids of the people who would be told.
    recipients: Vec<UserId>,
    #[schema(value_type = Object)]
    payload: Value,
    request_id: String,
}

type OutboxEventPage = PageAnswer<OutboxEvent>;

impl From<SequencedEvent> for OutboxEvent {
    fn from(SequencedEvent { position, event }: SequencedEvent) -> Self {
        let Event { id, at, kind, subject, recipients, payload, request_id } = event;
        let payload = serde_json::from_str(&payload).unwrap_or_default();
        Self { position, id, at, kind, subject, recipients, payload, request_id }
    }
}

/// What has happened and who would be told, the newest first. Development mode only.
#[utoipa::path(get, path = "/dev/outbox", params(PageQuery), responses((status = 200, body = OutboxEventPage)))]
async fn list_outbox(State(app): State<App>, page: PageQuery) -> ApiResult<OutboxEventPage> {
    let limit = page.limit()?;
    let before = page.cursor.as_ref().map(Cursor::key).transpose().map_err(cursor_problem)?;
    let events =
        app.db.events_before(before.unwrap_or(i64::MAX), limit.rows()).await.map_err(store_problem)?;
    Ok(Page::from_rows(events, limit, |last| last.position).map(OutboxEvent::from).into())
}
