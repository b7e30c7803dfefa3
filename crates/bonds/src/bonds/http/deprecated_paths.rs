//! HTTP endpoints with the deprecated paths of the first Bond Mate API. They call the handlers of the
//! current paths.

use axum::extract::State;
use axum::response::Response;
use kith_kernel::{FieldError, Problem, UserId};
use kith_platform::http::{deprecated_path, deserialize_some};
use kith_platform::{ApiResult, App, Client, Json, Routes, SignedIn};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{PartnerRequest, Recipient, RequestDraft};
use super::requests::send;
use super::{bonds, requests};
use kith_accounts::accounts::Email;

pub fn routes() -> Routes {
    Routes::new()
        .routes(deprecated_path("/api/enhanced-partners/request", routes!(send_partner_request_deprecated)))
        .routes(deprecated_path("/api/enhanced-partners/requests", routes!(requests::list_partner_requests)))
        .routes(deprecated_path(
            "/api/enhanced-partners/requests/{id}/accept",
            routes!(requests::accept_partner_request),
        ))
        .routes(deprecated_path(
            "/api/enhanced-partners/requests/{id}/reject",
            routes!(requests::reject_partner_request),
        ))
        .routes(deprecated_path(
            "/api/enhanced-partners/requests/{id}/cancel",
            routes!(requests::cancel_partner_request),
        ))
        .routes(deprecated_path("/api/enhanced-partners/current", routes!(bonds::get_current_bond)))
        .routes(deprecated_path("/api/enhanced-partners/breakup", routes!(bonds::break_up)))
        .routes(deprecated_path("/api/enhanced-partners/history", routes!(bonds::list_partner_history)))
}

/// Partner request in the format of the first Bond Mate API.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeprecatedSendRequestBody {
    /// ID of the recipient. Send either this or `email`.
    #[serde(rename = "partnerId", default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    partner_id: Option<UserId>,
    /// E-mail address of the recipient. Send either this or `partnerId`.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    email: Option<String>,
    /// Message, at most 500 characters. Line breaks are allowed.
    message: Option<String>,
}

/// Deprecated: use `POST /api/v1/partners/requests`
///
/// Sends a partner request, with the body format of the first Bond Mate API.
#[utoipa::path(
    post, path = "/api/v1/partners/requests", operation_id = "send_partner_request", security(("bearer" = [])),
    request_body = DeprecatedSendRequestBody,
    responses(
        (status = 201, body = PartnerRequest,
            description = "The new request. Contains `bond` if the recipient had already sent one."),
        (status = 200, body = PartnerRequest,
            description = "The same request is already pending and is returned unchanged."),
        (status = 403, description = "`requests_not_accepted`"),
        (status = 404, description = "No user has this ID."),
        (status = 409, description = "`slot_occupied`, `request_pending`, `request_cooldown_active`, `only_recipient_can_request`"),
    )
)]
async fn send_partner_request_deprecated(
    State(app): State<App>,
    caller: SignedIn,
    client: Client,
    Json(body): Json<DeprecatedSendRequestBody>,
) -> ApiResult<Response> {
    let to = match (body.partner_id, &body.email) {
        (Some(user), None) => Ok(Recipient::User(user)),
        (None, Some(email)) => Email::parse(email, "/email").map(Recipient::Email),
        _ => Err(FieldError::new("", "not_exactly_one", "Send exactly one of partnerId and email.")),
    };
    let draft = to.and_then(|to| RequestDraft::new(to, body.message.as_deref()));
    let draft = draft.map_err(|fault| Problem::invalid(vec![fault]))?;
    send(app, caller, client, draft).await
}
