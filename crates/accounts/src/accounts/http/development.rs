//! `/dev/verify-email`: proves an address without a mail. Development mode only.

use axum::extract::State;
use kith_kernel::{Problem, Timestamp, problems};
use kith_platform::{ApiResult, App, Json, Routes};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::administration;

pub fn routes() -> Routes {
    Routes::new().routes(routes!(verify_email_in_development))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DevVerifyEmailBody {
    /// Address of a registered account.
    #[schema(example = "ada@example.org")]
    email: String,
}

/// An address that is proven.
#[derive(Serialize, ToSchema)]
struct ProvenEmail {
    /// The address as it was registered.
    #[schema(example = "ada@example.org")]
    email: String,
    /// Since when it is proven.
    email_verified_at: Timestamp,
}

/// Prove an e-mail address without a mail, so that its owner can be found by it. Development mode only.
#[utoipa::path(
    post, path = "/dev/verify-email",
    request_body = DevVerifyEmailBody,
    responses(
        (status = 200, description = "The address is proven", body = ProvenEmail),
        (status = 404, description = "Nobody has this address"),
    )
)]
async fn verify_email_in_development(
    State(app): State<App>,
    Json(DevVerifyEmailBody { email }): Json<DevVerifyEmailBody>,
) -> ApiResult<Json<ProvenEmail>> {
    let account = administration::verify_address(&app, &app.system_ctx("development"), &email).await?;
    let verified_at = account.email_verified_at;
    let nobody = || Problem::new(&problems::NOT_FOUND, "Nobody has this address.");
    Ok(Json(ProvenEmail { email: account.email, email_verified_at: verified_at.ok_or_else(nobody)? }))
}
