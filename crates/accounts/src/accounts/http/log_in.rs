//! Endpoints for registration, log-in, token refresh and log-out.

use axum::extract::State;
use axum::http::StatusCode;
use kith_kernel::{Ctx, Problem};
use kith_platform::{ApiResult, App, Caller, Client, Json, Routes};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::commands::{self, RegistrationContext};
use super::super::log_in::{self, IssuedSession, PasswordCheck};
use super::super::model::{AccountError, ClientInfo, Email, NewAccount, User, validate_registration};
use super::super::queries;
use super::super::secrets::{DeviceToken, RefreshToken};
use super::{check_password, record_security_event};

/// Password version of an account whose password has never been changed.
pub const FIRST_PASSWORD_VERSION: i64 = 1;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(register))
        .routes(routes!(log_in))
        .routes(routes!(restore_account))
        .routes(routes!(refresh_session))
        .routes(routes!(log_out))
}

/// Account to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RegisterBody {
    /// E-mail address, at most 254 characters. Letter case is ignored when addresses are compared.
    email: String,
    /// Password, 8 to 256 characters. Common passwords are rejected.
    password: String,
    /// Display name, 1 to 80 characters.
    display_name: String,
}

/// Log-in credentials.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogInBody {
    /// E-mail address of the account. Letter case is ignored.
    email: String,
    /// Password of the account.
    password: String,
    /// Device token from an earlier log-in on this device. With it, failed log-ins from other devices do not
    /// lock out this device.
    device_token: Option<String>,
}

/// Refresh token of a session.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RefreshBody {
    /// Refresh token from the last log-in or refresh.
    refresh_token: String,
}

/// Access token and refresh token of a session.
#[derive(Serialize, ToSchema)]
struct TokenPair {
    /// Access token. Send it as `Authorization: Bearer …`.
    access_token: String,
    /// Refresh token, valid for one refresh. For 15 seconds after the refresh it returns the same new pair
    /// again; any later use ends the session.
    refresh_token: String,
    /// Token type, always `Bearer`.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Lifetime of the access token in seconds.
    expires_in: i64,
}

/// Signed-in user with the tokens of a new session.
#[derive(Serialize, ToSchema)]
pub(super) struct LogInResponse {
    /// Account and profile of the user.
    user: User,
    /// Tokens of the new session.
    #[serde(flatten)]
    tokens: TokenPair,
    /// Device token. Store it on the device and send it with the next log-in.
    device_token: String,
}

/// Register an account
///
/// Creates an account and a first session for it. The e-mail address is not verified yet. For each address,
/// `email_taken` is returned at most ten times an hour; further attempts get 429. An address that is free can
/// always be registered.
#[utoipa::path(
    post, path = "/api/v1/auth/register",
    request_body = RegisterBody,
    responses(
        (status = 201, body = LogInResponse),
        (status = 409, description = "`email_taken`"),
        (status = 429, description = "`rate_limited`"),
    )
)]
async fn register(
    State(app): State<App>,
    Caller { ctx }: Caller,
    client: Client,
    Json(body): Json<RegisterBody>,
) -> ApiResult<(StatusCode, Json<LogInResponse>)> {
    let (email, password, display_name) =
        validate_registration(&body.email, &body.password, &body.display_name)?;
    let address_hash =
        (!app.are_limits_disabled()).then(|| app.keyring.pseudonym("registration", &email.key));
    if let Some(address) = address_hash {
        let (key, now) = (email.key.clone(), ctx.now);
        let checked = app.db.read(move |q| queries::check_registration(q, &key, &address, now)).await;
        checked.inspect_err(|error| record_security_event(&app, error))?;
    }
    let password_hash = app.passwords.hash(Some(client.address), password.into_string()).await?;
    let account = NewAccount { email, display_name, password_hash };
    let registration = RegistrationContext { client: ClientInfo::from(client), address_hash };
    let done = app.write(&ctx, move |tx, ctx| commands::register(tx, ctx, &account, &registration)).await;
    let signed_in = done.inspect_err(|error| record_security_event(&app, error))?;
    Ok((StatusCode::CREATED, Json(LogInResponse::new(&app, &ctx, signed_in, None, FIRST_PASSWORD_VERSION))))
}

/// Log in
///
/// Starts a session. An unknown address and a wrong password return the same problem and take the same time.
/// After five failures in a row, log-in with this address is locked for one minute. Each further failure
/// doubles the lock, up to 15 minutes. The lock applies to unknown addresses too. If the user has 50
/// sessions, the one that was refreshed longest ago ends.
#[utoipa::path(
    post, path = "/api/v1/auth/login",
    request_body = LogInBody,
    responses(
        (status = 200, body = LogInResponse),
        (status = 401, description = "`invalid_credentials`"),
        (status = 403, description = "`account_suspended`, `account_deleted`"),
        (status = 423, description = "`locked`"),
    )
)]
async fn log_in(
    State(app): State<App>,
    Caller { ctx }: Caller,
    client: Client,
    Json(body): Json<LogInBody>,
) -> ApiResult<Json<LogInResponse>> {
    let (check, device) = check_log_in(&app, &ctx, client, body).await?;
    let version =
        check.credentials.as_ref().map_or(FIRST_PASSWORD_VERSION, |credentials| credentials.password_version);
    let done = app.write(&ctx, move |tx, ctx| log_in::log_in(tx, ctx, &check)).await;
    let signed_in = done.inspect_err(|error| record_security_event(&app, error))?;
    Ok(Json(LogInResponse::new(&app, &ctx, signed_in, device, version)))
}

/// Restore a deleted account
///
/// Cancels the deletion of an account within 14 days after it, and starts a session. Bonds and requests that
/// the deletion ended are not restored. Failed attempts count as failed log-ins.
#[utoipa::path(
    post, path = "/api/v1/auth/restore",
    request_body = LogInBody,
    responses(
        (status = 200, body = LogInResponse),
        (status = 401, description = "`invalid_credentials`"),
        (status = 403, description = "`account_suspended`, `account_deleted`"),
        (status = 409, description = "`account_not_deleted`"),
        (status = 423, description = "`locked`"),
    )
)]
async fn restore_account(
    State(app): State<App>,
    Caller { ctx }: Caller,
    client: Client,
    Json(body): Json<LogInBody>,
) -> ApiResult<Json<LogInResponse>> {
    let (check, device) = check_log_in(&app, &ctx, client, body).await?;
    let version =
        check.credentials.as_ref().map_or(FIRST_PASSWORD_VERSION, |credentials| credentials.password_version);
    let done = app.write(&ctx, move |tx, ctx| log_in::restore(tx, ctx, &check)).await;
    let signed_in = done.inspect_err(|error| record_security_event(&app, error))?;
    Ok(Json(LogInResponse::new(&app, &ctx, signed_in, device, version)))
}

/// Refresh the tokens of a session
///
/// Exchanges a refresh token for a new access token and a new refresh token. Each refresh token is valid
/// once. For 15 seconds after its use it returns the same pair again, in case the response was lost. A later
/// use, or the use of an older token, ends the session. A session that is not refreshed for 30 days expires.
#[utoipa::path(
    post, path = "/api/v1/auth/refresh",
    request_body = RefreshBody,
    responses(
        (status = 200, body = TokenPair),
        (status = 401, description = "`invalid_refresh_token`"),
    )
)]
async fn refresh_session(
    State(app): State<App>,
    Caller { ctx }: Caller,
    Json(body): Json<RefreshBody>,
) -> ApiResult<Json<TokenPair>> {
    let spent = RefreshToken::parse(&app.keyring, &body.refresh_token);
    let spent = spent
        .ok_or(AccountError::InvalidRefreshToken)
        .inspect_err(|error| record_security_event(&app, error))?;
    let done = app.write(&ctx, move |tx, ctx| log_in::refresh(tx, ctx, spent)).await;
    let session = done.inspect_err(|error| record_security_event(&app, error))?;
    Ok(Json(TokenPair::new(&app, &ctx, session)))
}

/// Log out
///
/// Ends the session of the refresh token. Returns 204 even if the session has already ended.
#[utoipa::path(
    post, path = "/api/v1/auth/logout",
    request_body = RefreshBody,
    responses(
        (status = 204, description = "The session has ended."),
        (status = 401, description = "`invalid_refresh_token`"),
    )
)]
async fn log_out(
    State(app): State<App>,
    Caller { ctx }: Caller,
    Json(body): Json<RefreshBody>,
) -> ApiResult<StatusCode> {
    let token = RefreshToken::parse(&app.keyring, &body.refresh_token);
    let token = token.ok_or(AccountError::InvalidRefreshToken)?;
    app.write(&ctx, move |tx, ctx| log_in::log_out(tx, ctx, token)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Checks the e-mail address and the password of a log-in. Returns the result of the check, and the device
/// if its token is valid for this account and its current password. Rejects the attempt during a lock-out of
/// the device or the address.
async fn check_log_in(
    app: &App,
    ctx: &Ctx,
    client: Client,
    body: LogInBody,
) -> Result<(PasswordCheck, Option<DeviceToken>), Problem> {
    let LogInBody { email, password, device_token } = body;
    let (key, now) = (Email::comparison_key(&email), ctx.now);
    let device = device_token.and_then(|text| DeviceToken::parse(&app.keyring, &text, &key));
    let by_address = app.keyring.pseudonym("login", &key);
    let by_device = device.map(|device| app.keyring.pseudonym("device", &device.id.to_string()));
    let checked = app.db.read(move |q| {
        // Runs before the account is looked up, because the lookup takes longer if the account exists.
        queries::check_not_locked(q, &by_device.unwrap_or(by_address), now)?;
        let credentials = queries::find_credentials(q, &key)?;
        let owner =
            credentials.as_ref().map(|credentials| (credentials.user.id, credentials.password_version));
        let device = device.filter(|device| Some((device.user, device.password_version)) == owner);
        let Some((device, subject)) = device.zip(by_device) else {
            queries::check_not_locked(q, &by_address, now)?;
            return Ok((credentials, None, by_address));
        };
        Ok::<_, AccountError>((credentials, Some(device), subject))
    });
    let (credentials, device, subject) =
        checked.await.inspect_err(|error| record_security_event(app, error))?;
    Ok((check_password(app, subject, credentials, &password, client).await?, device))
}

impl LogInResponse {
    /// Builds the response of a log-in. Creates a device token if `device` is `None`.
    pub fn new(
        app: &App,
        ctx: &Ctx,
        (user, session): (User, IssuedSession),
        device: Option<DeviceToken>,
        password_version: i64,
    ) -> Self {
        let new = || DeviceToken::new(ctx.new_id(|id| id), user.id, password_version);
        let device = device.unwrap_or_else(new);
        let device_token = device.reveal(&app.keyring, &Email::comparison_key(&user.email));
        Self { device_token, tokens: TokenPair::new(app, ctx, session), user }
    }
}

impl TokenPair {
    fn new(app: &App, ctx: &Ctx, session: IssuedSession) -> Self {
        Self {
            access_token: app.tokens.issue(&ctx.refreshed(), session.user_id, session.id.0),
            refresh_token: session.refresh_token(&app.keyring),
            token_type: "Bearer",
            expires_in: app.tokens.lifetime_s(),
        }
    }
}
