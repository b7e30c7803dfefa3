//! Extractors that say who asks. Whether they may is for the modules to decide.

use axum::extract::FromRequestParts;
use http::header;
use http::request::Parts;
use kith_kernel::uuid::Uuid;
use kith_kernel::{Actor, Ctx, Problem, RequestId, UserId, problems};

use super::tokens::Claims;
use crate::App;
use crate::http::ApiError;
use crate::idempotency::{self, IdempotencyKey};

/// Any request. A token that is absent or not valid makes it anonymous. A write is refused an `Idempotency-Key`.
#[derive(Clone)]
pub struct Caller {
    /// Of this request.
    pub ctx: Ctx,
}

/// A request with a valid access token; others are answered 401.
#[derive(Clone)]
pub struct SignedIn {
    /// Of this request.
    pub ctx: Ctx,
    /// Who asks.
    pub user_id: UserId,
    /// The session the token was issued in.
    pub session: Uuid,
    /// Names what is asked, if it is a write; [`App::change`] heeds it.
    pub key: Option<IdempotencyKey>,
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        idempotency::refuse(parts)?;
        let mut ctx = anonymous(parts, app);
        if let Some(claims) = claims(parts, app, &ctx) {
            ctx.actor = Actor::User(claims.user_id);
        }
        Ok(Self { ctx })
    }
}

impl FromRequestParts<App> for SignedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let mut ctx = anonymous(parts, app);
        let Some(claims) = claims(parts, app, &ctx) else {
            let detail = "Send an access token that is still valid: `Authorization: Bearer …`.";
            return Err(Problem::new(&problems::UNAUTHENTICATED, detail).into());
        };
        ctx.actor = Actor::User(claims.user_id);
        let key = IdempotencyKey::of(parts)?;
        Ok(Self { ctx, user_id: claims.user_id, session: claims.session, key })
    }
}

fn anonymous(parts: &Parts, app: &App) -> Ctx {
    let request_id = parts.extensions.get::<RequestId>().cloned();
    let request_id = request_id.expect("the edge is around every handler and gives each request an id");
    Ctx::new(app.sources.clone(), Actor::Anonymous, request_id)
}

fn claims(parts: &Parts, app: &App, ctx: &Ctx) -> Option<Claims> {
    let (scheme, token) = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    app.tokens.verify(token.trim(), ctx.now)
}
