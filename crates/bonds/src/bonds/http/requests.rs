//! HTTP endpoints of partner requests: send, list, accept, reject, cancel and report.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Ctx, Cursor, FieldError, Problem, Text, TextRules, UserId};
use kith_platform::http::deserialize_some;
use kith_platform::{
    ApiResult, App, Client, Json, PageResponse, PathId, Query, Routes, SignedIn, WriteResponse,
    cursor_problem, page_limit,
};
use kith_store::Tx;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::commands::{self, InviteAttempt, SendOutcome, SendingLimits};
use super::super::model::{
    InviteCode, PartnerRequest, PartnerRequestId, Recipient, ReportReason, RequestDirection, RequestDraft,
    RequestReport, RequestStatus,
};
use super::super::queries::{self, PartnerRequestFilter};
use super::super::rules;
use super::invites::invite_attempt;
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

/// Partner request to send.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SendRequestBody {
    /// Recipient of the request.
    to: RecipientSelector,
    /// Message, at most 500 characters. Line breaks are allowed.
    message: Option<String>,
}

/// Recipient of a request. Send exactly one of the fields.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RecipientSelector {
    /// User ID of the recipient.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    user_id: Option<UserId>,
    /// E-mail address of the recipient. The response does not reveal whether an account has this address:
    /// the request is always pending. If no user receives it, it expires.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    email: Option<String>,
    /// Invite code of the recipient: 10 letters and digits. Letter case and hyphens are ignored.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    invite_code: Option<String>,
}

/// Report of a message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReportBody {
    /// Reason for the report.
    reason: ReportReason,
    /// Note for the moderators, at most 500 characters.
    note: Option<String>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListPartnerRequestsQuery {
    /// `incoming` returns only requests that the caller received, `outgoing` only requests that the caller
    /// sent.
    #[param(inline)]
    direction: Option<RequestDirection>,
    /// Returns only requests with this status.
    #[param(inline)]
    status: Option<RequestStatus>,
    /// Maximum number of items per page, 1 to 100. Larger values are reduced to 100.
    #[param(default = 20, minimum = 1)]
    limit: Option<i64>,
    /// `next_cursor` of the previous page.
    cursor: Option<Cursor>,
}

type PartnerRequestPage = PageResponse<PartnerRequest>;

impl RecipientSelector {
    fn check(&self) -> Result<Recipient, FieldError> {
        match (self.user_id, &self.email, &self.invite_code) {
            (Some(user), None, None) => Ok(Recipient::User(user)),
            (None, Some(email), None) => Email::parse(email, "/to/email").map(Recipient::Email),
            (None, None, Some(code)) => {
                let detail = "Expected an invite code of 10 letters and digits.";
                let fault = || FieldError::new("/to/invite_code", "not_a_code", detail);
                InviteCode::parse(code).map(Recipient::Invite).ok_or_else(fault)
            }
            _ => {
                let detail = "Send exactly one of user_id, email and invite_code.";
                Err(FieldError::new("/to", "not_exactly_one", detail))
            }
        }
    }
}

/// Send a partner request
///
/// Sends a partner request to a user, an e-mail address or the owner of an invite code. If the recipient has
/// already sent the caller a request, both are accepted and the response contains the new `bond`. A request
/// expires after 14 days. A recipient with a partner receives the request like any other user. If the same
/// request is already pending, it is returned with 200 and nothing changes. A user can send 5 requests per
/// minute, 20 per hour and 100 per day.
#[utoipa::path(
    post, path = "/api/v1/partners/requests", security(("bearer" = [])),
    request_body = SendRequestBody,
    responses(
        (status = 201, body = PartnerRequest,
            description = "The new request. Contains `bond` if the recipient had already sent one."),
        (status = 200, body = PartnerRequest,
            description = "The same request is already pending and is returned unchanged."),
        (status = 403, description = "`requests_not_accepted`"),
        (status = 404, description = "No user has this ID, or the invite code cannot be used."),
        (status = 409, description = "`slot_occupied`, `request_pending`, `request_cooldown_active`, `only_recipient_can_request`"),
    )
)]
async fn send_partner_request(
    State(app): State<App>,
    caller: SignedIn,
    client: Client,
    Json(body): Json<SendRequestBody>,
) -> ApiResult<Response> {
    let draft = match (body.to.check(), body.message) {
        (Ok(to), message) => RequestDraft::new(to, message.as_deref()),
        (Err(fault), _) => Err(fault),
    };
    let draft = draft.map_err(|fault| Problem::invalid(vec![fault]))?;
    send(app, caller, client, draft).await
}

pub async fn send(app: App, caller: SignedIn, client: Client, draft: RequestDraft) -> ApiResult<Response> {
    let sender = caller.user_id;
    let attempt: Option<InviteAttempt> = match &draft.to {
        Recipient::Invite(code) => Some(invite_attempt(&app, sender, &client, code)),
        Recipient::User(_) | Recipient::Email(_) => None,
    };
    let tiers = if app.are_limits_disabled() { &[] } else { rules::RATE_TIERS };
    let limits = SendingLimits { tiers, attempt };
    let send = move |tx: &Tx<'_>, ctx: &Ctx| {
        commands::send(tx, ctx, sender, &draft, &limits).map(|sent| match sent {
            SendOutcome::New(request) => WriteResponse::created(request),
            SendOutcome::Repeated(request) => WriteResponse::ok(request),
        })
    };
    app.change(&caller, send).await
}

/// List partner requests
///
/// Returns the requests that the caller sent or received, newest first.
#[utoipa::path(
    get, path = "/api/v1/partners/requests", security(("bearer" = [])),
    params(ListPartnerRequestsQuery),
    responses((status = 200, body = PartnerRequestPage))
)]
pub async fn list_partner_requests(
    State(app): State<App>,
    SignedIn { ctx, user_id, .. }: SignedIn,
    Query(query): Query<ListPartnerRequestsQuery>,
) -> ApiResult<PartnerRequestPage> {
    let limit = page_limit(query.limit)?;
    let list = PartnerRequestFilter::new(query.direction, query.status, query.cursor.as_ref(), limit)
        .map_err(cursor_problem)?;
    let page = app.db.read(move |q| queries::list_requests(q, user_id, &list, ctx.now)).await?;
    Ok(page.into())
}

/// Get a partner request
///
/// Returns a request that the caller sent or received. Contains `bond` if the request led to a bond that is
/// still active.
#[utoipa::path(
    get, path = "/api/v1/partners/requests/{id}", security(("bearer" = [])),
    params(("id" = PartnerRequestId, Path, description = "ID of the partner request.")),
    responses(
        (status = 200, body = PartnerRequest,
            description = "The request. Contains `bond` if it led to a bond that is active."),
        (status = 404, description = "The caller has no partner request with this ID."),
    )
)]
async fn get_partner_request(
    State(app): State<App>,
    SignedIn { ctx, user_id, .. }: SignedIn,
    PathId(id): PathId<PartnerRequestId>,
) -> ApiResult<Json<PartnerRequest>> {
    Ok(Json(app.db.read(move |q| queries::get_request(q, user_id, id, ctx.now)).await?))
}

/// Condition for accepting a request, if any.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptBody {
    /// If `restoration`, the request is accepted only if this restores the former bond with the sender;
    /// otherwise the response is 409 `restoration_expired`. If absent, a new bond is formed if no former
    /// bond can be restored.
    #[serde(default)]
    expect: Option<AcceptCondition>,
}

/// Required result of accepting a partner request. With `restoration`, the request is accepted only if the
/// former bond can be restored; otherwise the response is 409 `restoration_expired`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcceptCondition {
    /// The former bond of both users is restored.
    Restoration,
}

/// Accept a partner request
///
/// Accepts a request that the caller received. Forms a bond, or restores the bond of both users if it ended
/// at most 30 days ago. All other pending requests of both users become `superseded`. If the request is
/// already accepted, it is returned unchanged.
#[utoipa::path(
    post, path = "/api/v1/partners/requests/{id}/accept", security(("bearer" = [])),
    params(("id" = PartnerRequestId, Path, description = "ID of the partner request.")),
    request_body = Option<AcceptBody>,
    responses(
        (status = 200, description = "The accepted request.", body = PartnerRequest),
        (status = 403, description = "The caller sent the request. Only its recipient can accept it."),
        (status = 404, description = "The caller has no partner request with this ID."),
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
        commands::accept(tx, ctx, user_id, id, expects_restoration).map(WriteResponse::ok)
    })
    .await
}

/// Reject a partner request
///
/// Rejects a request that the caller received. The sender must then wait before sending the caller another
/// request: 24 hours after the first rejection, 7 days after the second, 30 days after the third. After the
/// fourth rejection, only the caller can send a request to this user. If the request is already rejected, it
/// is returned unchanged.
#[utoipa::path(
    post, path = "/api/v1/partners/requests/{id}/reject", security(("bearer" = [])),
    params(("id" = PartnerRequestId, Path, description = "ID of the partner request.")),
    responses(
        (status = 200, description = "The rejected request.", body = PartnerRequest),
        (status = 403, description = "The caller sent the request. Only its recipient can reject it."),
        (status = 404, description = "The caller has no partner request with this ID."),
        (status = 409, description = "`request_not_pending`"),
    )
)]
pub async fn reject_partner_request(
    State(app): State<App>,
    caller: SignedIn,
    PathId(id): PathId<PartnerRequestId>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    app.change(&caller, move |tx, ctx| commands::reject(tx, ctx, user_id, id).map(WriteResponse::ok)).await
}

/// Cancel a partner request
///
/// Cancels a pending request that the caller sent. A cancellation lengthens the wait after a later
/// rejection. If the request is already cancelled, it is returned unchanged.
#[utoipa::path(
    post, path = "/api/v1/partners/requests/{id}/cancel", security(("bearer" = [])),
    params(("id" = PartnerRequestId, Path, description = "ID of the partner request.")),
    responses(
        (status = 200, description = "The cancelled request.", body = PartnerRequest),
        (status = 403, description = "The caller received the request. Only its sender can cancel it."),
        (status = 404, description = "The caller has no partner request with this ID."),
        (status = 409, description = "`request_not_pending`"),
    )
)]
pub async fn cancel_partner_request(
    State(app): State<App>,
    caller: SignedIn,
    PathId(id): PathId<PartnerRequestId>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    app.change(&caller, move |tx, ctx| commands::cancel(tx, ctx, user_id, id).map(WriteResponse::ok)).await
}

/// Report a partner request
///
/// Reports the message of a request that the caller received. The server stores a copy of the message for the
/// moderators. The sender is not notified. If the caller has already reported the request, the first report
/// is returned with 200.
#[utoipa::path(
    post, path = "/api/v1/partners/requests/{id}/report", security(("bearer" = [])),
    params(("id" = PartnerRequestId, Path, description = "ID of the partner request.")),
    request_body = ReportBody,
    responses(
        (status = 201, body = RequestReport),
        (status = 200, body = RequestReport,
            description = "The caller has already reported the request. The first report is returned."),
        (status = 403, description = "The caller sent the request. Only its recipient can report it."),
        (status = 404, description = "The caller has no partner request with this ID."),
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
        reported
            .map(|(report, new)| if new { WriteResponse::created(report) } else { WriteResponse::ok(report) })
    })
    .await
}
