//! Extractors that say who asks, and refuse those who may not.

use std::convert::Infallible;
use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use http::header;
use http::request::Parts;
use kith_kernel::uuid::Uuid;
use kith_kernel::{Actor, ApiKeyId, Ctx, Problem, RequestId, UserId, problems};

use super::api_keys::is_api_key;
use super::tokens::TokenError;
use super::{PEOPLE_ONLY, Permission, Role};
use crate::App;
use crate::http::{ApiError, ClientAddress, store_problem};
use crate::idempotency::{self, IdempotencyKey};
use crate::telemetry::SecurityEvent;

/// Longest part of a `User-Agent` that is kept.
const USER_AGENT_CHARS: usize = 200;

/// Any request, whoever sends it: a token in it is not looked at. A write is refused an `Idempotency-Key`.
#[derive(Clone)]
pub struct Caller {
    /// Of this request.
    pub ctx: Ctx,
}

/// A request with a valid access token of a session that is open; others are answered 401.
#[derive(Clone)]
pub struct SignedIn {
    /// Of this request.
    pub ctx: Ctx,
    /// Who asks.
    pub user_id: UserId,
    /// The session the token was issued in.
    pub session: Uuid,
    /// What they are here.
    pub role: Role,
    /// Names what is asked, if it is a write; [`App::change`] heeds it.
    pub key: Option<IdempotencyKey>,
}

/// A request of somebody whose role has the permission `P`, or by an API key that has it as a scope, and from a listed
/// address where there is a list; others are answered 401 or 403.
#[derive(Clone)]
pub struct Allowed<P> {
    /// Who asks.
    pub caller: Principal,
    permission: PhantomData<P>,
}

/// A request of somebody whose role has the permission `P`: as [`Allowed`], but no API key will do.
#[derive(Clone)]
pub struct AllowedPerson<P> {
    /// Who asks.
    pub caller: SignedIn,
    permission: PhantomData<P>,
}

/// Whoever a write is made for: somebody who is signed in, or a program with an API key. `ctx.actor` says who.
#[derive(Clone)]
pub struct Principal {
    /// Of this request.
    pub ctx: Ctx,
    /// Names what is asked, if it is a write; [`App::change`] heeds it.
    pub key: Option<IdempotencyKey>,
    credential: Credential,
}

/// By what they came in.
#[derive(Clone, Copy)]
enum Credential {
    Session { user_id: UserId, session: Uuid, role: Role },
    ApiKey { id: ApiKeyId, permission: &'static str },
}

/// Where a request came from: personal, so not for logs.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address.
    pub address: ClientAddress,
    /// What it says of itself, shortened.
    pub user_agent: Option<String>,
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        idempotency::refuse(parts)?;
        Ok(Self { ctx: anonymous(parts, app) })
    }
}

impl Principal {
    /// Whether the session is still open and the role still the same, or the API key still counts.
    ///
    /// # Errors
    /// A 401 if not.
    pub async fn check_again(&self, app: &App) -> Result<(), Problem> {
        match self.credential {
            Credential::Session { user_id, session, role } => {
                let access = app.access.get(app, user_id, session).await?;
                if access.is_some_and(|access| access.role == role) { Ok(()) } else { Err(session_ended()) }
            }
            Credential::ApiKey { id, permission } => app.api_keys.judge_again(app, id, permission).await,
        }
    }

    /// Tells the writes of one from those of another.
    pub fn id(&self) -> Uuid {
        match self.credential {
            Credential::Session { user_id, .. } => user_id.0,
            Credential::ApiKey { id, .. } => id.0,
        }
    }

    /// Whoever asks by an API key that has the scope `permission`.
    async fn by_api_key(
        parts: &mut Parts,
        app: &App,
        text: &str,
        permission: &'static str,
    ) -> Result<Self, Problem> {
        let mut ctx = anonymous(parts, app);
        let known = app.api_keys.judge(app, text, ctx.now).await?;
        if !known.has(permission) {
            app.metrics.count_security(SecurityEvent::forbidden);
            let detail = format!("This needs the scope {permission}, which this API key does not have.");
            return Err(Problem::new(&problems::FORBIDDEN, detail));
        }
        ctx.actor = Actor::ApiKey(known.id);
        let credential = Credential::ApiKey { id: known.id, permission };
        Ok(Self { ctx, key: IdempotencyKey::of(parts)?, credential })
    }
}

impl From<SignedIn> for Principal {
    fn from(SignedIn { ctx, user_id, session, role, key }: SignedIn) -> Self {
        Self { ctx, key, credential: Credential::Session { user_id, session, role } }
    }
}

impl From<&SignedIn> for Principal {
    fn from(caller: &SignedIn) -> Self {
        caller.clone().into()
    }
}

impl From<&Self> for Principal {
    fn from(caller: &Self) -> Self {
        caller.clone()
    }
}

impl FromRequestParts<App> for SignedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let mut ctx = anonymous(parts, app);
        let token = bearer(parts).ok_or_else(unauthenticated)?;
        if is_api_key(token) {
            app.api_keys.judge(app, token, ctx.now).await?;
            app.metrics.count_security(SecurityEvent::forbidden);
            let detail = "Only somebody who is signed in can do this; send their access token.";
            return Err(Problem::new(&problems::API_KEY_NOT_ACCEPTED, detail).into());
        }
        let refused = |problem| {
            app.metrics.count_security(SecurityEvent::token_refused);
            problem
        };
        let claims = app.tokens.verify(app, token, ctx.now).await.map_err(store_problem)?;
        let claims = claims.map_err(|error| refused(token_problem(error)))?;
        let access = app.access.get(app, claims.user_id, claims.session).await?;
        let role = access.ok_or_else(|| refused(session_ended()))?.role;
        ctx.actor = Actor::User(claims.user_id);
        let key = IdempotencyKey::of(parts)?;
        Ok(Self { ctx, user_id: claims.user_id, session: claims.session, role, key })
    }
}

impl<P: Permission> FromRequestParts<App> for Allowed<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let sent = bearer(parts).filter(|text| is_api_key(text) && !PEOPLE_ONLY.contains(&P::NAME));
        let caller = match sent.map(str::to_owned) {
            Some(text) => {
                let caller = Principal::by_api_key(parts, app, &text, P::NAME).await?;
                check_address(parts, app)?;
                caller
            }
            None => AllowedPerson::<P>::from_request_parts(parts, app).await?.caller.into(),
        };
        Ok(Self { caller, permission: PhantomData })
    }
}

impl<P: Permission> FromRequestParts<App> for AllowedPerson<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let caller = SignedIn::from_request_parts(parts, app).await?;
        if !caller.role.has(P::NAME) {
            app.metrics.count_security(SecurityEvent::forbidden);
            let detail = format!("This needs the permission {}, which your role does not have.", P::NAME);
            return Err(Problem::new(&problems::FORBIDDEN, detail).into());
        }
        check_address(parts, app)?;
        Ok(Self { caller, permission: PhantomData })
    }
}

impl FromRequestParts<App> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Infallible> {
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|text| text.to_str().ok());
        let user_agent = user_agent.map(|text| text.chars().take(USER_AGENT_CHARS).collect());
        Ok(Self { address: address(parts), user_agent })
    }
}

fn address(parts: &Parts) -> ClientAddress {
    *parts.extensions.get().expect("the edge gives each request its client's address")
}

/// Whether administration is open to where the request comes from. A key that was taken away does as little elsewhere as
/// a password.
fn check_address(parts: &Parts, app: &App) -> Result<(), Problem> {
    let listed = &app.config.server.admin_addresses;
    let address = address(parts).ip();
    if listed.is_empty() || listed.iter().any(|network| network.contains(address)) {
        return Ok(());
    }
    let detail = "Administration is open to the addresses in `server.admin_addresses` only.";
    Err(Problem::new(&problems::ADDRESS_NOT_LISTED, detail))
}

fn unauthenticated() -> Problem {
    Problem::new(&problems::UNAUTHENTICATED, "Send an access token: `Authorization: Bearer …`.")
}

fn token_problem(error: TokenError) -> Problem {
    let (detail, description) = match error {
        TokenError::Expired => {
            ("The access token has expired. Refresh it and retry.", "The access token expired")
        }
        TokenError::Invalid => {
            ("The access token is not valid. Log in again.", "The access token is not valid")
        }
    };
    Problem::new(&problems::UNAUTHENTICATED, detail).token_error(description)
}

fn session_ended() -> Problem {
    let detail = "The session of this access token has ended. Log in again.";
    Problem::new(&problems::UNAUTHENTICATED, detail).token_error("The session has ended")
}

fn anonymous(parts: &Parts, app: &App) -> Ctx {
    let request_id = parts.extensions.get::<RequestId>().cloned();
    let request_id = request_id.expect("the edge is around every handler and gives each request an id");
    Ctx::new(app.sources.clone(), Actor::Anonymous, request_id)
}

pub(super) fn bearer(parts: &Parts) -> Option<&str> {
    let mut sent = parts.headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, token) = sent.next()?.to_str().ok()?.split_once(' ')?;
    // Of two, whoever stands before us may have gone by the other.
    if sent.next().is_some() || !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    Some(token.trim_start_matches(' '))
}
