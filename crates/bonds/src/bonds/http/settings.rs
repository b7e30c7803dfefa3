//! HTTP endpoints of partner settings.

use axum::extract::State;
use axum::response::Response;
use kith_platform::http::deserialize_some;
use kith_platform::{ApiResult, App, Json, Routes, SignedIn, WriteResponse};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::model::{PartnerSettings, RequestPolicy};
use super::super::{commands, queries};

pub fn routes() -> Routes {
    Routes::new().routes(routes!(get_partner_settings, change_partner_settings))
}

/// Changes to partner settings. Absent fields keep their value.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PartnerSettingsPatch {
    /// Users who can send the caller partner requests.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    accepts_requests_from: Option<RequestPolicy>,
    /// Set to `true` to receive partner requests that are sent to the caller's verified e-mail address.
    /// Senders cannot tell whether it is set.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    discoverable_by_email: Option<bool>,
    /// Set to `true` to keep names and message texts out of notifications.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    discreet: Option<bool>,
}

impl PartnerSettingsPatch {
    fn apply(self, known: PartnerSettings) -> PartnerSettings {
        PartnerSettings {
            accepts_requests_from: self.accepts_requests_from.unwrap_or(known.accepts_requests_from),
            discoverable_by_email: self.discoverable_by_email.unwrap_or(known.discoverable_by_email),
            discreet: self.discreet.unwrap_or(known.discreet),
        }
    }
}

/// Get partner settings
///
/// Returns who can send the caller partner requests, and how much notifications about them reveal.
#[utoipa::path(
    get, path = "/api/v1/partners/settings", security(("bearer" = [])),
    responses((status = 200, body = PartnerSettings))
)]
async fn get_partner_settings(
    State(app): State<App>,
    SignedIn { user_id, .. }: SignedIn,
) -> ApiResult<Json<PartnerSettings>> {
    Ok(Json(app.db.read(move |q| queries::get_settings(q, user_id)).await?))
}

/// Update partner settings
///
/// Changes the fields that are present. Requests that are already pending are not affected.
#[utoipa::path(
    patch, path = "/api/v1/partners/settings", security(("bearer" = [])),
    request_body = PartnerSettingsPatch,
    responses((status = 200, body = PartnerSettings))
)]
async fn change_partner_settings(
    State(app): State<App>,
    caller: SignedIn,
    Json(body): Json<PartnerSettingsPatch>,
) -> ApiResult<Response> {
    let user_id = caller.user_id;
    app.change(&caller, move |tx, ctx| {
        commands::change_settings(tx, ctx, user_id, |known| body.apply(known)).map(WriteResponse::ok)
    })
    .await
}
