//! Requests and answers about partners. What may happen is decided in `rules.rs`, never here.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{Ctx, Cursor, FieldError, Problem, ProblemCode, UserId, problems};
use kith_platform::{
    Answer, ApiResult, App, Json, PageAnswer, PathId, ProblemBody, Query, Routes, SignedIn, cursor_problem,
    page_limit, store_problem,
};
use kith_store::Tx;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::commands::{self, Sent};
use super::model::{
    Bond, BondError, Draft, PartnerRequest, PartnerRequestId, RequestDirection, RequestStatus,
};
use super::queries::{self, RequestList};
use super::rules;

static SLOT_OCCUPIED: ProblemCode =
    ProblemCode { code: "slot_occupied", status: 409, title: "One of you has a partner" };
static ALREADY_PENDING: ProblemCode =
    ProblemCode { code: "request_pending", status: 409, title: "A request to this person is waiting" };
static NOT_PENDING: ProblemCode =
    ProblemCode { code: "request_not_pending", status: 409, title: "The request is decided" };

/// What these handlers answer with, beside the general problems.
pub const PROBLEMS: &[&ProblemCode] = &[&SLOT_OCCUPIED, &ALREADY_PENDING, &NOT_PENDING];

/// The handlers.
pub fn routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(send_partner_request, list_partner_requests))
        .routes(routes!(accept_partner_request))
        .routes(routes!(get_current_bond))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SendRequestBody {
    to: RequestReceiver,
    /// At most 500 characters; line breaks may stand in it.
    message: Option<String>,
}

/// Who is asked.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RequestReceiver {
    #[schema(value_type = String, format = Uuid)]
    user_id: UserId,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
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
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

type PartnerRequestPage = PageAnswer<PartnerRequest>;

#[derive(Serialize, ToSchema)]
struct CurrentBondAnswer {
    /// Null for whoever has no partner.
    #[schema(required = true)]
    bond: Option<Bond>,
}

/// Ask somebody to be your partner. If they have asked you, you are partners at once.
#[utoipa::path(
    post, path = "/api/v1/partners/requests", security(("bearer" = [])),
    request_body = SendRequestBody,
    responses(
        (status = 201, description = "Sent; with `bond` if they had asked already", body = PartnerRequest),
        (status = 200, description = "The same was sent before: its present state", body = PartnerRequest),
        (status = 404, description = "Nobody has this id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`slot_occupied`, `request_pending`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn send_partner_request(
    State(app): State<App>,
    caller: SignedIn,
    Json(body): Json<SendRequestBody>,
) -> ApiResult<Response> {
    let sender = caller.user_id;
    let draft = Draft::new(body.to.user_id, body.message.as_deref())
        .map_err(|fault| Problem::invalid(vec![fault]))?;
    let tiers = if app.config.server.without_limits { &[] } else { rules::TIERS };
    let send = move |tx: &Tx<'_>, ctx: &Ctx| {
        commands::send(tx, ctx, sender, &draft, tiers).map(|sent| match sent {
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
async fn list_partner_requests(
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

/// Accept a request that you received: you are partners.
#[utoipa::path(
    post, path = "/api/v1/partners/requests/{id}/accept", security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Of the request")),
    responses(
        (status = 200, description = "Accepted, now or before", body = PartnerRequest),
        (status = 403, description = "You sent it yourself", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No request of yours", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`request_not_pending`, `slot_occupied`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn accept_partner_request(
    State(app): State<App>,
    caller: SignedIn,
    PathId(id): PathId<PartnerRequestId>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    app.change(&caller, move |tx, ctx| commands::accept(tx, ctx, user_id, id).map(Answer::ok)).await
}

/// Your partner.
#[utoipa::path(
    get, path = "/api/v1/partners/current", security(("bearer" = [])),
    responses((status = 200, body = CurrentBondAnswer))
)]
async fn get_current_bond(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
) -> ApiResult<Json<CurrentBondAnswer>> {
    let bond = app.db.read(move |q| queries::find_current_bond(q, user_id)).await?;
    Ok(Json(CurrentBondAnswer { bond }))
}

impl From<BondError> for Problem {
    fn from(error: BondError) -> Self {
        match error {
            BondError::ToSelf => {
                let detail = "You cannot be your own partner.";
                Self::invalid(vec![FieldError::new("/to/user_id", "self", detail)])
            }
            BondError::ReceiverNotFound => Self::new(&problems::NOT_FOUND, "There is nobody with this id."),
            BondError::RequestNotFound => Self::new(&problems::NOT_FOUND, "There is no such request."),
            BondError::OnlyReceiver => {
                Self::new(&problems::FORBIDDEN, "You sent this request; the other accepts it.")
            }
            BondError::AlreadyPending => {
                Self::new(&ALREADY_PENDING, "You asked in other words; that request still waits.")
            }
            BondError::NotPending(status) => {
                Self::new(&NOT_PENDING, format!("The request is {}.", status.as_str()))
            }
            BondError::TooMany { wait } => {
                let detail = "Five requests a minute, 20 an hour, 100 a day.";
                let seconds = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
                Self::new(&problems::RATE_LIMITED, detail).retry_after(seconds.max(1))
            }
            BondError::SlotOccupied => {
                Self::new(&SLOT_OCCUPIED, "Each person can have one partner at a time.")
            }
            BondError::Store(error) => store_problem(error),
        }
    }
}
