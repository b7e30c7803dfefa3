//! Extractors that say who asks, and refuse those who may not.

use std::convert::Infallible;
use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use http::header;
use http::request::Parts;
use kith_kernel::uuid::Uuid;
use kith_kernel::{Actor, Ctx, Problem, RequestId, UserId, problems};

use super::{Permission, Role};
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

/// A request of somebody whose role has the permission `P`, and from a listed address where there is a list; others are
/// answered 401 or 403.
#[derive(Clone)]
pub struct Allowed<P> {
    /// Who asks.
    pub caller: SignedIn,
    permission: PhantomData<P>,
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

impl SignedIn {
    /// Whether the session is still open and the role still the same.
    ///
    /// # Errors
    /// A 401 if not.
    pub(crate) async fn check_again(&self, app: &App) -> Result<(), Problem> {
        let access = app.access.get(app, self.user_id, self.session).await?;
        if access.is_some_and(|access| access.role == self.role) { Ok(()) } else { Err(unauthenticated()) }
    }
}

impl FromRequestParts<App> for SignedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let mut ctx = anonymous(parts, app);
        let token = bearer(parts).ok_or_else(unauthenticated)?;
        let refused = || {
            app.metrics.count_security(SecurityEvent::token_refused);
            unauthenticated()
        };
        let claims = app.tokens.verify(app, token, ctx.now).await.map_err(store_problem)?;
        let claims = claims.ok_or_else(refused)?;
        let access = app.access.get(app, claims.user_id, claims.session).await?;
        let role = access.ok_or_else(refused)?.role;
        ctx.actor = Actor::User(claims.user_id);
        let key = IdempotencyKey::of(parts)?;
        Ok(Self { ctx, user_id: claims.user_id, session: claims.session, role, key })
    }
}

impl<P: Permission> FromRequestParts<App> for Allowed<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let caller = SignedIn::from_request_parts(parts, app).await?;
        if !caller.role.has(P::NAME) {
            app.metrics.count_security(SecurityEvent::forbidden);
            let detail = format!("This needs the permission {}, which your role does not have.", P::NAME);
            return Err(Problem::new(&problems::FORBIDDEN, detail).into());
        }
        let listed = &app.config.server.admin_addresses;
        let address = address(parts).ip();
        if !listed.is_empty() && !listed.iter().any(|network| network.contains(address)) {
            let detail = "Administration is open to the addresses in `server.admin_addresses` only.";
            return Err(Problem::new(&problems::ADDRESS_NOT_LISTED, detail).into());
        }
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

fn unauthenticated() -> Problem {
    let detail = "Send an access token that is still valid: `Authorization: Bearer …`.";
    Problem::new(&problems::UNAUTHENTICATED, detail)
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
