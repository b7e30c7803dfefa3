//! Requests and answers about accounts. Addresses and passwords come in here; no password and no hash goes out.

use axum::extract::State;
use axum::http::StatusCode;
use kith_kernel::{Ctx, Problem, ProblemCode, problems};
use kith_platform::{ApiResult, App, Caller, Json, ProblemBody, Routes, SignedIn, store_problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::model::{
    AccountError, Email, NewAccount, OpenSession, Password, RefreshToken, User, display_name,
};
use super::{commands, queries};

static EMAIL_TAKEN: ProblemCode =
    ProblemCode { code: "email_taken", status: 409, title: "This address is registered already" };
static INVALID_CREDENTIALS: ProblemCode =
    ProblemCode { code: "invalid_credentials", status: 401, title: "The address or the password is wrong" };
static INVALID_REFRESH_TOKEN: ProblemCode =
    ProblemCode { code: "invalid_refresh_token", status: 401, title: "The refresh token is not valid" };

/// What these handlers answer with, beside the general problems.
pub const PROBLEMS: &[&ProblemCode] = &[&EMAIL_TAKEN, &INVALID_CREDENTIALS, &INVALID_REFRESH_TOKEN];

/// The handlers.
pub fn routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(log_in))
        .routes(routes!(refresh_session))
        .routes(routes!(get_me))
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
    /// Gets the next pair, once.
    refresh_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds for which the access token is valid.
    expires_in: i64,
}

/// Somebody who has just proved who they are.
#[derive(Serialize, ToSchema)]
struct SignInAnswer {
    user: User,
    #[serde(flatten)]
    tokens: TokenPair,
}

/// Make an account, and sign in.
#[utoipa::path(
    post, path = "/api/v1/auth/register",
    request_body = RegisterBody,
    responses(
        (status = 201, body = SignInAnswer),
        (status = 409, description = "`email_taken`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn register(
    State(app): State<App>,
    Caller { ctx }: Caller,
    Json(body): Json<RegisterBody>,
) -> ApiResult<(StatusCode, Json<SignInAnswer>)> {
    let (email, password, display_name) = check(&body)?;
    let password_hash = app.passwords.hash(password.into_string()).await?;
    let account = NewAccount { email, display_name, password_hash };
    let signed_in = app.write(&ctx, move |tx, ctx| commands::register(tx, ctx, &account)).await?;
    Ok((StatusCode::CREATED, Json(SignInAnswer::new(&app, &ctx, signed_in))))
}

/// Sign in. An unknown address and a wrong password are the same, and take the same time.
#[utoipa::path(
    post, path = "/api/v1/auth/login",
    request_body = LogInBody,
    responses(
        (status = 200, body = SignInAnswer),
        (status = 401, description = "`invalid_credentials`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn log_in(
    State(app): State<App>,
    Caller { ctx }: Caller,
    Json(body): Json<LogInBody>,
) -> ApiResult<Json<SignInAnswer>> {
    let LogInBody { email, password } = body;
    let known = app.db.read(move |q| queries::find_credentials(q, &email)).await?;
    let (known, hash) = known.unzip();
    let right = app.passwords.verify(Password::typed(&password).into_string(), hash).await?;
    let signed_in = app.write(&ctx, move |tx, ctx| commands::log_in(tx, ctx, known.as_ref(), right)).await?;
    Ok(Json(SignInAnswer::new(&app, &ctx, signed_in)))
}

/// Get the next pair of tokens. The refresh token is spent by it.
#[utoipa::path(
    post, path = "/api/v1/auth/refresh",
    request_body = RefreshBody,
    responses(
        (status = 200, body = TokenPair),
        (status = 401, description = "`invalid_refresh_token`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn refresh_session(
    State(app): State<App>,
    Caller { ctx }: Caller,
    Json(body): Json<RefreshBody>,
) -> ApiResult<Json<TokenPair>> {
    let spent = RefreshToken::parse(&body.refresh_token).ok_or(AccountError::InvalidRefreshToken)?;
    let session = app.write(&ctx, move |tx, ctx| commands::refresh(tx, ctx, &spent)).await?;
    Ok(Json(TokenPair::new(&app, &ctx, &session)))
}

/// Whoever is signed in.
#[utoipa::path(
    get, path = "/api/v1/me", security(("bearer" = [])),
    responses((status = 200, body = User))
)]
async fn get_me(State(app): State<App>, SignedIn { user_id, .. }: SignedIn) -> ApiResult<Json<User>> {
    Ok(Json(app.db.read(move |q| queries::get_user(q, user_id)).await?))
}

/// Finds every fault of the input at once.
fn check(body: &RegisterBody) -> Result<(Email, Password, String), Problem> {
    let email = Email::parse(&body.email, "/email");
    let password = Password::chosen(&body.password, "/password");
    let display_name = display_name(&body.display_name, "/display_name");
    match (email, password, display_name) {
        (Ok(email), Ok(password), Ok(display_name)) => Ok((email, password, display_name)),
        (email, password, display_name) => {
            let faults = [email.err(), password.err(), display_name.err()];
            Err(Problem::invalid(faults.into_iter().flatten().collect()))
        }
    }
}

impl SignInAnswer {
    fn new(app: &App, ctx: &Ctx, (user, session): (User, OpenSession)) -> Self {
        Self { user, tokens: TokenPair::new(app, ctx, &session) }
    }
}

impl TokenPair {
    fn new(app: &App, ctx: &Ctx, session: &OpenSession) -> Self {
        Self {
            access_token: app.tokens.issue(&ctx.renewed(), session.user_id, session.id.0),
            refresh_token: session.refresh_token.reveal(),
            token_type: "Bearer",
            expires_in: app.tokens.lifetime_s(),
        }
    }
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::EmailTaken => Self::new(&EMAIL_TAKEN, "Log in, or use another address."),
            AccountError::InvalidCredentials => {
                Self::new(&INVALID_CREDENTIALS, "Check the address and the password.")
            }
            AccountError::InvalidRefreshToken => {
                Self::new(&INVALID_REFRESH_TOKEN, "It was used, has expired or never was. Log in again.")
            }
            AccountError::Gone => {
                Self::new(&problems::UNAUTHENTICATED, "This account does not exist any more.")
            }
            AccountError::Store(error) => store_problem(error),
        }
    }
}
