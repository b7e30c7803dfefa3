//! Registering, signing in, renewing a session and ending it.

use axum::extract::State;
use axum::http::StatusCode;
use kith_kernel::{Ctx, Problem};
use kith_platform::{ApiResult, App, Caller, Client, Json, Routes};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::commands::{self, Registrant};
use super::super::model::{AccountError, Email, NewAccount, Origin, User, check_new};
use super::super::queries;
use super::super::secrets::{DeviceToken, RefreshToken};
use super::super::sign_in::{self, Claim, OpenSession};
use super::{count, prove};

/// The version of a password that was just chosen for the first time.
pub const FIRST_PASSWORD: i64 = 1;

pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(register))
        .routes(routes!(log_in))
        .routes(routes!(restore_account))
        .routes(routes!(refresh_session))
        .routes(routes!(log_out))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RegisterBody {
    /// At most 254 characters. Case does not matter.
    email: String,
    /// 8 to 256 characters.
    password: String,
    /// 1 to 80 characters.
    display_name: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogInBody {
    email: String,
    password: String,
    /// What an earlier sign-in on this device answered. Others' failures then do not lock this device out.
    device_token: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RefreshBody {
    refresh_token: String,
}

/// What proves who one is.
#[derive(Serialize, ToSchema)]
struct TokenPair {
    /// Goes into `Authorization: Bearer …`.
    access_token: String,
    /// Gets the next pair. For 15 seconds after that it gets the same pair again; any later use ends the session.
    refresh_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds for which the access token is valid.
    expires_in: i64,
}

/// Somebody who has just proved who they are.
#[derive(Serialize, ToSchema)]
pub(super) struct SignInAnswer {
    user: User,
    #[serde(flatten)]
    tokens: TokenPair,
    /// Keep it on the device, and send it when signing in again.
    device_token: String,
}

/// Make an account, and sign in.
///
/// That an address is registered already is said ten times an hour for each address, and no more.
#[utoipa::path(
    post, path = "/api/v1/auth/register",
    request_body = RegisterBody,
    responses(
        (status = 201, body = SignInAnswer),
        (status = 409, description = "`email_taken`"),
        (status = 429, description = "`rate_limited`"),
    )
)]
async fn register(
    State(app): State<App>,
    Caller { ctx }: Caller,
    client: Client,
    Json(body): Json<RegisterBody>,
) -> ApiResult<(StatusCode, Json<SignInAnswer>)> {
    let (email, password, display_name) = check_new(&body.email, &body.password, &body.display_name)?;
    let address_hash = (!app.is_without_limits()).then(|| app.keyring.pseudonym("registration", &email.key));
    if let Some(address) = address_hash {
        let (key, now) = (email.key.clone(), ctx.now);
        let looked = app.db.read(move |q| queries::may_register(q, &key, &address, now)).await;
        looked.inspect_err(|error| count(&app, error))?;
    }
    let password_hash = app.passwords.hash(Some(client.address), password.into_string()).await?;
    let account = NewAccount { email, display_name, password_hash };
    let registrant = Registrant { origin: Origin::from(client), address_hash };
    let done = app.write(&ctx, move |tx, ctx| commands::register(tx, ctx, &account, &registrant)).await;
    let signed_in = done.inspect_err(|error| count(&app, error))?;
    Ok((StatusCode::CREATED, Json(SignInAnswer::new(&app, &ctx, signed_in, None, FIRST_PASSWORD))))
}

/// Sign in. An unknown address and a wrong password are the same, and take the same time.
///
/// After five failures in a row nobody gets in for a minute, and for up to 15 minutes after further ones.
#[utoipa::path(
    post, path = "/api/v1/auth/login",
    request_body = LogInBody,
    responses(
        (status = 200, body = SignInAnswer),
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
) -> ApiResult<Json<SignInAnswer>> {
    let (claim, device) = claim(&app, &ctx, client, body).await?;
    let version = claim.known.as_ref().map_or(FIRST_PASSWORD, |known| known.password_version);
    let done = app.write(&ctx, move |tx, ctx| sign_in::log_in(tx, ctx, &claim)).await;
    let signed_in = done.inspect_err(|error| count(&app, error))?;
    Ok(Json(SignInAnswer::new(&app, &ctx, signed_in, device, version)))
}

/// Undo the deletion of one's account within its 14 days, and sign in. The bond does not come back with it.
#[utoipa::path(
    post, path = "/api/v1/auth/restore",
    request_body = LogInBody,
    responses(
        (status = 200, body = SignInAnswer),
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
) -> ApiResult<Json<SignInAnswer>> {
    let (claim, device) = claim(&app, &ctx, client, body).await?;
    let version = claim.known.as_ref().map_or(FIRST_PASSWORD, |known| known.password_version);
    let done = app.write(&ctx, move |tx, ctx| sign_in::restore(tx, ctx, &claim)).await;
    let signed_in = done.inspect_err(|error| count(&app, error))?;
    Ok(Json(SignInAnswer::new(&app, &ctx, signed_in, device, version)))
}

/// Get the next pair of tokens. The refresh token is spent by it.
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
    let spent = spent.ok_or(AccountError::InvalidRefreshToken).inspect_err(|error| count(&app, error))?;
    let done = app.write(&ctx, move |tx, ctx| sign_in::refresh(tx, ctx, spent)).await;
    let session = done.inspect_err(|error| count(&app, error))?;
    Ok(Json(TokenPair::new(&app, &ctx, session)))
}

/// End the session that a refresh token belongs to. One that has ended already is as good.
#[utoipa::path(
    post, path = "/api/v1/auth/logout",
    request_body = RefreshBody,
    responses(
        (status = 204, description = "It has ended"),
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
    app.write(&ctx, move |tx, ctx| sign_in::log_out(tx, ctx, token)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whom somebody claims to be, and the device that they are known on.
async fn claim(
    app: &App,
    ctx: &Ctx,
    client: Client,
    body: LogInBody,
) -> Result<(Claim, Option<DeviceToken>), Problem> {
    let LogInBody { email, password, device_token } = body;
    let (key, now) = (Email::key_of(&email), ctx.now);
    let device = device_token.and_then(|text| DeviceToken::parse(&app.keyring, &text, &key));
    let by_address = app.keyring.pseudonym("login", &key);
    let by_device = device.map(|device| app.keyring.pseudonym("device", &device.id.to_string()));
    let looked = app.db.read(move |q| {
        // Before the account is looked for, which takes longer where there is one.
        queries::may_try(q, &by_device.unwrap_or(by_address), now)?;
        let known = queries::find_credentials(q, &key)?;
        let owner = known.as_ref().map(|known| (known.user.id, known.password_version));
        let device = device.filter(|device| Some((device.user, device.password_version)) == owner);
        let Some((device, subject)) = device.zip(by_device) else {
            queries::may_try(q, &by_address, now)?;
            return Ok((known, None, by_address));
        };
        Ok::<_, AccountError>((known, Some(device), subject))
    });
    let (known, device, subject) = looked.await.inspect_err(|error| count(app, error))?;
    Ok((prove(app, subject, known, &password, client).await?, device))
}

impl SignInAnswer {
    /// What somebody is told who has signed in, on a device that was known before or on a new one.
    pub fn new(
        app: &App,
        ctx: &Ctx,
        (user, session): (User, OpenSession),
        device: Option<DeviceToken>,
        password_version: i64,
    ) -> Self {
        let new = || DeviceToken::new(ctx.new_id(|id| id), user.id, password_version);
        let device = device.unwrap_or_else(new);
        let device_token = device.reveal(&app.keyring, &Email::key_of(&user.email));
        Self { device_token, tokens: TokenPair::new(app, ctx, session), user }
    }
}

impl TokenPair {
    fn new(app: &App, ctx: &Ctx, session: OpenSession) -> Self {
        Self {
            access_token: app.tokens.issue(&ctx.renewed(), session.user_id, session.id.0),
            refresh_token: session.refresh_token(&app.keyring),
            token_type: "Bearer",
            expires_in: app.tokens.lifetime_s(),
        }
    }
}
