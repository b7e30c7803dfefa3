//! Asking, answering, taking back, reporting.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Ctx, Cursor, FieldError, Problem, Text, TextRules, UserId};
use kith_platform::http::present;
use kith_platform::{
    Answer, ApiResult, App, Client, Json, PageAnswer, PathId, Query, Routes, SignedIn, cursor_problem,
    page_limit,
};
use kith_store::Tx;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::commands::{self, Rules, Sent, Tried};
use super::super::model::{
    Draft, InviteCode, PartnerRequest, PartnerRequestId, Receiver, ReportReason, RequestDirection,
    RequestReport, RequestStatus,
};
use super::super::queries::{self, RequestList};
use super::super::rules;
use super::invites::tried;
use kith_accounts::accounts::Email;

const NOTE: TextRules = TextRules { min: 0, max: 500, newlines: true };

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(send_partner_request, list_partner_requests))
        .routes(routes!(get_partner_request))
        .routes(routes!(accept_partner_request))
        .routes(routes!(reject_partner_request))
        .routes(routes!(cancel_partner_request))
        .routes(routes!(report_partner_request))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SendRequestBody {
    to: RequestReceiver,
    /// At most 500 characters; line breaks may stand in it.
    message: Option<String>,
}

/// Who is asked: exactly one of these.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RequestReceiver {
    /// Their id.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    user_id: Option<UserId>,
    /// Their address. Whether anybody has it is not told: the request waits, and may reach nobody.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    email: Option<String>,
    /// A code that they handed out.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    invite_code: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReportBody {
    reason: ReportReason,
    /// At most 500 characters.
    note: Option<String>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only those that one received, or only those that one sent.
    #[param(inline)]
    direction: Option<RequestDirection>,
    /// Only those that have come this far.
    #[param(inline)]
    status: Option<RequestStatus>,
    /// Items on a page; more than 100 counts as 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<Cursor>,
}

type PartnerRequestPage = PageAnswer<PartnerRequest>;

impl RequestReceiver {
    fn check(&self) -> Result<Receiver, FieldError> {
        match (self.user_id, &self.email, &self.invite_code) {
            (Some(user), None, None) => Ok(Receiver::User(user)),
            (None, Some(email), None) => Email::parse(email, "/to/email").map(Receiver::Email),
            (None, None, Some(code)) => {
                let detail = "Ten letters and digits.";
                let fault = || FieldError::new("/to/invite_code", "not_a_code", detail);
                InviteCode::parse(code).map(Receiver::Invite).ok_or_else(fault)
            }
            _ => {
                let detail = "Exactly one of user_id, email and invite_code.";
                Err(FieldError::new("/to", "not_exactly_one", detail))
            }
        }
    }
}

/// Ask somebody to be your partner. If they have asked you, you are partners at once.
#[utoipa::path(
    post, path = "/api/v1/partners/requests", security(("bearer" = [])),
    request_body = SendRequestBody,
    responses(
        (status = 201, description = "Sent; with `bond` if they had asked already", body = PartnerRequest),
        (status = 200, description = "The same was sent before: its present state", body = PartnerRequest),
        (status = 403, description = "`not_open_to_requests`"),
        (status = 404, description = "Nobody has this id, or this code"),
        (status = 409, description = "`slot_occupied`, `request_pending`, `too_soon_to_ask_again`, `only_they_may_ask`"),
    )
)]
async fn send_partner_request(
    State(app): State<App>,
    caller: SignedIn,
    client: Client,
    Json(body): Json<SendRequestBody>,
) -> ApiResult<Response> {
    let draft = match (body.to.check(), body.message) {
        (Ok(to), message) => Draft::new(to, message.as_deref()),
        (Err(fault), _) => Err(fault),
    };
    let draft = draft.map_err(|fault| Problem::invalid(vec![fault]))?;
    send(app, caller, client, draft).await
}

pub async fn send(app: App, caller: SignedIn, client: Client, draft: Draft) -> ApiResult<Response> {
    let sender = caller.user_id;
    let tried: Option<Tried> = match &draft.to {
        Receiver::Invite(code) => Some(tried(&app, sender, &client, code)),
        Receiver::User(_) | Receiver::Email(_) => None,
    };
    let tiers = if app.is_without_limits() { &[] } else { rules::TIERS };
    let rules = Rules { tiers, tried };
    let send = move |tx: &Tx<'_>, ctx: &Ctx| {
        commands::send(tx, ctx, sender, &draft, &rules).map(|sent| match sent {
            Sent::New(request) => Answer::created(request),
            Sent::Repeated(request) => Answer::ok(request),
        })
    };
    app.change(&caller, send).await
}

/// The requests you sent and received, newest first.
#[utoipa::path(
    get, path = "/api/v1/partners/requests", security(("bearer" = [])),
    params(ListQuery),
    responses((status = 200, body = PartnerRequestPage))
)]
pub async fn list_partner_requests(
    State(app): State<App>,
    SignedIn { ctx, user_id, .. }: SignedIn,
    Query(query): Query<ListQuery>,
) -> ApiResult<PartnerRequestPage> {
    let limit = page_limit(query.limit)?;
    let list = RequestList::new(query.direction, query.status, query.cursor.as_ref(), limit)
        .map_err(cursor_problem)?;
    let page = app.db.read(move |q| queries::list_requests(q, user_id, &list, ctx.now)).await?;
    Ok(page.into())
}

/// A request you sent or received.
#[utoipa::path(
    get, path = "/api/v1/partners/requests/{id}", security(("bearer" = [])),
    params(("id" = PartnerRequestId, Path, description = "Of the request")),
    responses(
        (status = 200, description = "With `bond` if it led to one that lasts", body = PartnerRequest),
        (status = 404, description = "No request of yours"),
    )
)]
async fn get_partner_request(
    State(app): State<App>,
    SignedIn { ctx, user_id, .. }: SignedIn,
    PathId(id): PathId<PartnerRequestId>,
) -> ApiResult<Json<PartnerRequest>> {
    Ok(Json(app.db.read(move |q| queries::get_request(q, user_id, id, ctx.now)).await?))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptBody {
    /// `restoration`: accept only if that brings your former bond back, and do not begin a new one.
    #[serde(default)]
    expect: Option<Expected>,
}

/// The expected result of accepting a request.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// The former bond of the two is back.
    Restoration,
}

/// Accept a request that you received: you are partners, or partners again.
#[utoipa::path(
    post, path = "/api/v1/partners/requests/{id}/accept", security(("bearer" = [])),
    params(("id" = PartnerRequestId, Path, description = "Of the request")),
    request_body = Option<AcceptBody>,
    responses(
        (status = 200, description = "Accepted, now or before", body = PartnerRequest),
        (status = 403, description = "You sent it yourself"),
        (status = 404, description = "No request of yours"),
        (status = 409, description = "`request_not_pending`, `slot_occupied`, `restoration_expired`"),
    )
)]
pub async fn accept_partner_request(
    State(app): State<App>,
    caller: SignedIn,
    PathId(id): PathId<PartnerRequestId>,
    body: Option<Json<AcceptBody>>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    let expects_restoration = body.is_some_and(|Json(body)| body.expect.is_some());
    app.change(&caller, move |tx, ctx| {
        commands::accept(tx, ctx, user_id, id, expects_restoration).map(Answer::ok)
    })
    .await
}

/// Reject a request that you received. Its sender has to wait before they ask again.
#[utoipa::path(
    post, path = "/api/v1/partners/requests/{id}/reject", security(("bearer" = [])),
    params(("id" = PartnerRequestId, Path, description = "Of the request")),
    responses(
        (status = 200, description = "Rejected, now or before", body = PartnerRequest),
        (status = 403, description = "You sent it yourself"),
        (status = 404, description = "No request of yours"),
        (status = 409, description = "`request_not_pending`"),
    )
)]
pub async fn reject_partner_request(
    State(app): State<App>,
    caller: SignedIn,
    PathId(id): PathId<PartnerRequestId>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    app.change(&caller, move |tx, ctx| commands::reject(tx, ctx, user_id, id).map(Answer::ok)).await
}

/// Take back a request that you sent.
#[utoipa::path(
    post, path = "/api/v1/partners/requests/{id}/cancel", security(("bearer" = [])),
    params(("id" = PartnerRequestId, Path, description = "Of the request")),
    responses(
        (status = 200, description = "Taken back, now or before", body = PartnerRequest),
        (status = 403, description = "You received it"),
        (status = 404, description = "No request of yours"),
        (status = 409, description = "`request_not_pending`"),
    )
)]
pub async fn cancel_partner_request(
    State(app): State<App>,
    caller: SignedIn,
    PathId(id): PathId<PartnerRequestId>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    app.change(&caller, move |tx, ctx| commands::cancel(tx, ctx, user_id, id).map(Answer::ok)).await
}

/// Report the message of a request that you received. It is kept as it is for the moderators; its sender is not told.
#[utoipa::path(
    post, path = "/api/v1/partners/requests/{id}/report", security(("bearer" = [])),
    params(("id" = PartnerRequestId, Path, description = "Of the request")),
    request_body = ReportBody,
    responses(
        (status = 201, body = RequestReport),
        (status = 200, description = "You have reported it before; that report stands", body = RequestReport),
        (status = 403, description = "You sent it yourself"),
        (status = 404, description = "No request of yours"),
        (status = 409, description = "`nothing_to_report`"),
    )
)]
async fn report_partner_request(
    State(app): State<App>,
    caller: SignedIn,
    PathId(id): PathId<PartnerRequestId>,
    Json(body): Json<ReportBody>,
) -> ApiResult<Response> {
    let note = body.note.map(|note| Text::parse(&note, NOTE, "/note")).transpose();
    let note = note.map_err(|fault| Problem::invalid(vec![fault]))?.map(Text::into_string);
    let user_id = caller.user_id;
    app.change(&caller, move |tx, ctx| {
        let reported = commands::report(tx, ctx, user_id, id, body.reason, note.as_deref());
        reported.map(|(report, new)| if new { Answer::created(report) } else { Answer::ok(report) })
    })
    .await
}
