//! Endpoint `POST /dev/verify-email`, which verifies an e-mail address without sending mail. Available in
//! development mode only.

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

/// E-mail address to verify.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DevVerifyEmailBody {
    /// E-mail address of a registered account. Letter case is ignored.
    #[schema(example = "ada@example.org")]
    email: String,
}

/// Verified e-mail address.
#[derive(Serialize, ToSchema)]
struct VerifiedEmail {
    /// E-mail address as entered at registration.
    #[schema(example = "ada@example.org")]
    email: String,
    /// Time at which the address was verified.
    email_verified_at: Timestamp,
}

/// Verify an e-mail address without sending mail
///
/// Marks the e-mail address of a registered account as verified, so that other users can find the account by
/// it. Available in development mode only.
#[utoipa::path(
    post, path = "/dev/verify-email",
    request_body = DevVerifyEmailBody,
    responses(
        (status = 200, description = "The e-mail address is verified.", body = VerifiedEmail),
        (status = 404, description = "No account has this e-mail address."),
    )
)]
async fn verify_email_in_development(
    State(app): State<App>,
    Json(DevVerifyEmailBody { email }): Json<DevVerifyEmailBody>,
) -> ApiResult<Json<VerifiedEmail>> {
    let account = administration::verify_address(&app, &app.system_ctx("development"), &email).await?;
    let verified_at = account.email_verified_at;
    let not_found = || Problem::new(&problems::NOT_FOUND, "No account has this e-mail address.");
    Ok(Json(VerifiedEmail { email: account.email, email_verified_at: verified_at.ok_or_else(not_found)? }))
}
