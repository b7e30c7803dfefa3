//! HTTP endpoints of invites: create, list, preview and revoke.

use std::str::FromStr;

use axum::extract::State;
use axum::response::Response;
use kith_kernel::UserId;
use kith_platform::{ApiResult, App, Client, Json, PathId, Routes, SignedIn, WriteResponse};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::super::commands::{self, InviteAttempt};
use super::super::model::{CodeHashes, Invite, InviteCode, InviteId, InvitePreview, NewInvite};
use super::super::queries;
use super::super::settings::BondSettings;

pub fn routes() -> Routes {
    Routes::new().routes(routes!(create_invite, list_invites)).routes(routes!(preview_invite, revoke_invite))
}

/// Invites of the caller that can still be used.
#[derive(Serialize, ToSchema)]
struct InviteList {
    /// Invites, newest first; at most 5.
    items: Vec<Invite>,
}

/// Invite as named in a path: by its code, or by its ID. Only the user who created the invite can use the
/// ID.
#[derive(Clone, Debug)]
enum InviteRef {
    Code(InviteCode),
    Id(InviteId),
}

impl FromStr for InviteRef {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => InviteCode::parse(text).map(Self::Code).ok_or(()),
        }
    }
}

/// Purpose of the keyed hashes under which invite codes are stored.
const PSEUDONYM_PURPOSE: &str = "invite";

fn hashes(app: &App, code: &InviteCode) -> CodeHashes {
    CodeHashes {
        present: app.keyring.pseudonym(PSEUDONYM_PURPOSE, code.as_str()),
        previous: app.keyring.previous_pseudonym(PSEUDONYM_PURPOSE, code.as_str()),
    }
}

/// Builds the attempt of `user` to use `code`. Unless rate limits are disabled, failed attempts are counted
/// for the user and for the network of `client`.
pub fn invite_attempt(app: &App, user: UserId, client: &Client, code: &InviteCode) -> InviteAttempt {
    let by = (!app.are_limits_disabled()).then(|| {
        let network = client.address.network();
        [app.keyring.pseudonym("user", &user.to_string()), app.keyring.pseudonym("network", &network)]
    });
    InviteAttempt { code: hashes(app, code), by }
}

/// Create an invite
///
/// Creates an invite code that another user can redeem to send the caller a partner request. The caller still
/// decides whether to accept it. The code and the link are returned once. A code works once and expires after
/// 7 days. A user can have 5 invites that are neither used nor expired.
#[utoipa::path(
    post, path = "/api/v1/partners/invites", security(("bearer" = [])),
    responses(
        (status = 201, body = NewInvite),
        (status = 409, description = "`too_many_invites`"),
    )
)]
async fn create_invite(State(app): State<App>, caller: SignedIn) -> ApiResult<Response> {
    let code = InviteCode::from_random(caller.ctx.random());
    let code_hash = hashes(&app, &code).present;
    let link = app.config.section::<BondSettings>().invite_link.replace("{code}", code.as_str());
    let inviter = caller.user_id;
    app.change(&caller, move |tx, ctx| {
        let created = commands::create_invite(tx, ctx, inviter, &code_hash);
        created.map(|(id, expires_at)| {
            let (code, link) = (code.as_str().to_owned(), link.clone());
            WriteResponse::created(NewInvite { id, code, link, expires_at })
        })
    })
    .await
}

/// List invites
///
/// Returns the caller's invites that can still be used, newest first. Codes are not included.
#[utoipa::path(
    get, path = "/api/v1/partners/invites", security(("bearer" = [])),
    responses((status = 200, body = InviteList))
)]
async fn list_invites(
    State(app): State<App>,
    SignedIn { ctx, user_id, .. }: SignedIn,
) -> ApiResult<Json<InviteList>> {
    let items = app.db.read(move |q| queries::list_invites(q, user_id, ctx.now)).await?;
    Ok(Json(InviteList { items }))
}

/// Preview an invite
///
/// Returns the display name of the user who created the invite. The preview does not use up the code.
/// Attempts with codes that cannot be used are limited to 10 per minute for each user and each client
/// network.
#[utoipa::path(
    get, path = "/api/v1/partners/invites/{code}", security(("bearer" = [])),
    params((
        "code" = String, Path,
        description = "Invite code, 10 letters and digits. Letter case and hyphens are ignored."
    )),
    responses(
        (status = 200, body = InvitePreview),
        (status = 404, description = "The invite does not exist or can no longer be used."),
    )
)]
async fn preview_invite(
    State(app): State<App>,
    caller: SignedIn,
    client: Client,
    PathId(name): PathId<InviteRef>,
) -> ApiResult<Json<InvitePreview>> {
    let InviteRef::Code(code) = name else {
        return Err(kith_kernel::Problem::from(super::BondError::InviteNotFound).into());
    };
    let (user, attempt) = (caller.user_id, invite_attempt(&app, caller.user_id, &client, &code));
    let preview = app.write(&caller.ctx, move |tx, ctx| commands::preview_invite(tx, ctx, user, &attempt));
    Ok(Json(preview.await?))
}

/// Revoke an invite
///
/// Revokes an invite of the caller that has not been used. Its code stops working at once.
#[utoipa::path(
    delete, path = "/api/v1/partners/invites/{code}", security(("bearer" = [])),
    params((
        "code" = String, Path,
        description = "Invite code, or ID of the invite. Letter case and hyphens of a code are ignored."
    )),
    responses(
        (status = 204, description = "The invite is revoked."),
        (status = 404, description = "The caller has no usable invite with this code or ID."),
    )
)]
async fn revoke_invite(
    State(app): State<App>,
    caller: SignedIn,
    PathId(name): PathId<InviteRef>,
) -> ApiResult<Response> {
    let (code, id) = match &name {
        InviteRef::Code(code) => (Some(hashes(&app, code)), None),
        InviteRef::Id(id) => (None, Some(*id)),
    };
    let inviter = caller.user_id;
    app.change(&caller, move |tx, ctx| {
        commands::revoke_invite(tx, ctx, inviter, code, id).map(|()| WriteResponse::no_content())
    })
    .await
}
