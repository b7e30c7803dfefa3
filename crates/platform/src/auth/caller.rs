//! Extractors that authenticate the caller of a request and check its permissions.

use std::convert::Infallible;
use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use http::header;
use http::request::Parts;
use kith_kernel::uuid::Uuid;
use kith_kernel::{Actor, ApiKeyId, Ctx, Problem, RequestId, UserId, problems};

use super::api_keys::is_api_key;
use super::tokens::TokenError;
use super::{Permission, Role, USER_ONLY_PERMISSIONS};
use crate::App;
use crate::http::{ApiError, ClientAddress, store_problem};
use crate::idempotency::{self, IdempotencyKey};
use crate::telemetry::SecurityEvent;

/// Maximum length of the stored `User-Agent`, in characters. Longer values are truncated.
const USER_AGENT_CHARS: usize = 200;

/// Any caller, authenticated or not. Tokens are ignored. A write with an `Idempotency-Key` is rejected.
#[derive(Clone)]
pub struct Caller {
    /// Context of the request.
    pub ctx: Ctx,
}

/// Caller with a valid access token of an open session. A request with a valid API key is rejected with 403,
/// any other request with 401.
#[derive(Clone)]
pub struct SignedIn {
    /// Context of the request.
    pub ctx: Ctx,
    /// Id of the user.
    pub user_id: UserId,
    /// Session in which the token was issued.
    pub session: Uuid,
    /// Role of the user.
    pub role: Role,
    /// `Idempotency-Key` of a write, which [`App::change`] applies.
    pub key: Option<IdempotencyKey>,
}

/// Caller with permission `P`: a user whose role has the permission, or an API key that has it as a scope. If
/// `server.admin_addresses` is set, it must contain the client address. All other requests are rejected with
/// 401 or 403.
#[derive(Clone)]
pub struct Allowed<P> {
    /// Authenticated caller.
    pub caller: Principal,
    permission: PhantomData<P>,
}

/// User whose role has permission `P`. Same rules as for [`Allowed`], except that API keys are rejected.
#[derive(Clone)]
pub struct AllowedUser<P> {
    /// Authenticated user.
    pub caller: SignedIn,
    permission: PhantomData<P>,
}

/// Author of a write: a user with a session, or a program with an API key. `ctx.actor` identifies the author.
#[derive(Clone)]
pub struct Principal {
    /// Context of the request.
    pub ctx: Ctx,
    /// `Idempotency-Key` of a write, which [`App::change`] applies.
    pub key: Option<IdempotencyKey>,
    credential: Credential,
}

/// Credential that authenticated the caller.
#[derive(Clone, Copy)]
enum Credential {
    Session { user_id: UserId, session: Uuid, role: Role },
    ApiKey { id: ApiKeyId, permission: &'static str },
}

/// Network address and user agent of a request. This is personal data and must not be logged.
#[derive(Clone, Debug)]
pub struct Client {
    /// Address of the client.
    pub address: ClientAddress,
    /// `User-Agent`, truncated to 200 characters.
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
    /// Verifies again, during a long-running request, that the caller is still authorized. The session must
    /// be open and the role unchanged, or the API key must be valid.
    ///
    /// # Errors
    /// Returns a 401 problem if the credential is no longer valid.
    pub async fn reauthenticate(&self, app: &App) -> Result<(), Problem> {
        match self.credential {
            Credential::Session { user_id, session, role } => {
                let access = app.access.get(app, user_id, session).await?;
                if access.is_some_and(|access| access.role == role) { Ok(()) } else { Err(session_ended()) }
            }
            Credential::ApiKey { id, permission } => app.api_keys.reauthenticate(app, id, permission).await,
        }
    }

    /// Returns an id of the user or API key. It separates the writes of this caller from those of other
    /// callers.
    pub fn id(&self) -> Uuid {
        match self.credential {
            Credential::Session { user_id, .. } => user_id.0,
            Credential::ApiKey { id, .. } => id.0,
        }
    }

    /// Authenticates a caller with an API key that has the scope `permission`.
    async fn by_api_key(
        parts: &mut Parts,
        app: &App,
        text: &str,
        permission: &'static str,
    ) -> Result<Self, Problem> {
        let mut ctx = anonymous(parts, app);
        let known = app.api_keys.authenticate(app, text, ctx.now).await?;
        if !known.has(permission) {
            app.metrics.record_security_event(SecurityEvent::forbidden);
            let detail =
                format!("This operation requires the scope `{permission}`, which the API key does not have.");
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
            app.api_keys.authenticate(app, token, ctx.now).await?;
            app.metrics.record_security_event(SecurityEvent::forbidden);
            let detail = "This operation does not accept API keys. Send the access token of a user.";
            return Err(Problem::new(&problems::API_KEY_NOT_ACCEPTED, detail).into());
        }
        let refused = |problem| {
            app.metrics.record_security_event(SecurityEvent::token_refused);
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
        let sent = bearer(parts).filter(|text| is_api_key(text) && !USER_ONLY_PERMISSIONS.contains(&P::NAME));
        let caller = match sent.map(str::to_owned) {
            Some(text) => {
                let caller = Principal::by_api_key(parts, app, &text, P::NAME).await?;
                check_address(parts, app)?;
                caller
            }
            None => AllowedUser::<P>::from_request_parts(parts, app).await?.caller.into(),
        };
        Ok(Self { caller, permission: PhantomData })
    }
}

impl<P: Permission> FromRequestParts<App> for AllowedUser<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let caller = SignedIn::from_request_parts(parts, app).await?;
        if !caller.role.has(P::NAME) {
            app.metrics.record_security_event(SecurityEvent::forbidden);
            let detail = format!(
                "This operation requires the permission `{}`, which your role does not have.",
                P::NAME
            );
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
    *parts.extensions.get().expect("the edge adds the client address to each request")
}

/// Rejects clients outside `server.admin_addresses` if this setting is not empty. This limits the damage of a
/// stolen credential.
fn check_address(parts: &Parts, app: &App) -> Result<(), Problem> {
    let listed = &app.config.server.admin_addresses;
    let address = address(parts).ip();
    if listed.is_empty() || listed.iter().any(|network| network.contains(address)) {
        return Ok(());
    }
    let detail = "Administration is restricted to the addresses in `server.admin_addresses`.";
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
    let request_id = request_id.expect("the edge wraps every handler and adds an id to each request");
    Ctx::new(app.sources.clone(), Actor::Anonymous, request_id)
}

pub(super) fn bearer(parts: &Parts) -> Option<&str> {
    let mut sent = parts.headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, token) = sent.next()?.to_str().ok()?.split_once(' ')?;
    // If there are two Authorization headers, a proxy may have checked the other one.
    if sent.next().is_some() || !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    Some(token.trim_start_matches(' '))
}
