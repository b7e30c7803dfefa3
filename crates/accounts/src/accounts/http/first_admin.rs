//! HTTP endpoints of the first-administrator page: the HTML page, its script, and the endpoint that its form
//! calls.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kith_platform::{ApiResult, App, Caller, Client, Json, Routes, style_sheet_path};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::first_admin;
use super::super::model::{ClientInfo, NewAccount, validate_registration};
use super::log_in::{FIRST_PASSWORD_VERSION, LogInResponse};

static PAGE: LazyLock<String> =
    LazyLock::new(|| include_str!("first_admin.html").replace("{style}", &style_sheet_path()));
const SCRIPT: &str = include_str!("first_admin.js");
const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
/// Content-Security-Policy: allows scripts, styles and requests of this server only, and no inline code.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

pub fn page_routes() -> Routes {
    Routes::new().routes(routes!(first_admin_page)).routes(routes!(first_admin_script))
}

pub fn redemption_routes() -> Routes {
    Routes::new().routes(routes!(accept_first_admin))
}

/// First administrator to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FirstAdminBody {
    /// Secret from the link: the part after `#`.
    secret: String,
    /// E-mail address, at most 254 characters.
    email: String,
    /// Password, 8 to 256 characters.
    password: String,
    /// Display name, 1 to 80 characters.
    display_name: String,
}

/// Get the first-administrator page
///
/// Returns the HTML page with the form that creates the first administrator. The secret stays in the fragment
/// of the link and is not sent to the server until the form is submitted.
#[utoipa::path(
    get, path = "/first-admin",
    responses((status = 200, description = "HTML page with the form.", body = String, content_type = HTML))
)]
async fn first_admin_page() -> Response {
    static_response(HTML, &PAGE)
}

/// Get the first-administrator script
///
/// Returns the script of the first-administrator page.
#[utoipa::path(
    get, path = "/first-admin.js",
    responses((status = 200, description = "JavaScript file.", body = String, content_type = JAVASCRIPT))
)]
async fn first_admin_script() -> Response {
    static_response(JAVASCRIPT, SCRIPT)
}

fn static_response(kind: &'static str, body: &'static str) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// Create the first administrator
///
/// Creates an administrator account and signs it in. The secret comes from the link that the server writes to
/// a file in its data folder at start while no administrator exists. The link is valid for one hour and can
/// be used once.
#[utoipa::path(
    post, path = "/api/v1/auth/first-admin",
    request_body = FirstAdminBody,
    responses(
        (status = 201, body = LogInResponse),
        (status = 403, description = "`invalid_link`"),
        (status = 409, description = "`email_taken`"),
    )
)]
async fn accept_first_admin(
    State(app): State<App>,
    Caller { ctx }: Caller,
    client: Client,
    Json(body): Json<FirstAdminBody>,
) -> ApiResult<(StatusCode, Json<LogInResponse>)> {
    let (email, password, display_name) =
        validate_registration(&body.email, &body.password, &body.display_name)?;
    first_admin::check_link(&app, &body.secret).await?;
    let password_hash = app.passwords.hash(Some(client.address), password.into_string()).await?;
    let account = NewAccount { email, display_name, password_hash };
    let client = ClientInfo::from(client);
    let signed_in = app
        .write(&ctx, move |tx, ctx| first_admin::redeem_link(tx, ctx, &body.secret, &account, &client))
        .await?;
    first_admin::remove_link_file(&app).await;
    Ok((StatusCode::CREATED, Json(LogInResponse::new(&app, &ctx, signed_in, None, FIRST_PASSWORD_VERSION))))
}
