//! Checks that other users cannot access the resources of a user. A stranger sends every operation with ids
//! of another user.

use http::Method;
use kith_readiness::{Check, Run, Shortfall, SyntheticAccount};
use serde_json::{Value, json};

use super::DEFAULT_REMEDIATION;
use super::operations::{Operation, operations};
use crate::synthetic_accounts::{
    REQUESTS, bond, break_up, current, decide, ensure, items, send_request, signed_in, unbonded_account,
};

pub(super) const CHECKS: &[Check] = &[Check {
    row: "ACC-10",
    description: "creates one resource of each kind; calls every operation as another user with the ids of these \
           resources, searches all responses for their contents, and checks that the resources are unchanged",
    remediation: DEFAULT_REMEDIATION,
    runs_last: false,
    run: |run| Box::pin(check_ownership(run)),
}];

/// Resources of the owner that a stranger must not access.
struct OwnedResources {
    owner: SyntheticAccount,
    partner: SyntheticAccount,
    requester: SyntheticAccount,
    /// Id of the partner request from `requester` to `owner`.
    request: String,
    session: String,
    invite: String,
    invite_id: String,
    own_item: String,
    bond: String,
    bond_item: String,
    /// Id of the user whom the owner has blocked.
    blocked: String,
    marker: String,
}

const NOTES: &str = "notes";

impl OwnedResources {
    async fn by(run: &Run) -> Result<Self, Shortfall> {
        let (owner, partner, requester) = (
            unbonded_account(run, 1).await?,
            unbonded_account(run, 9).await?,
            unbonded_account(run, 8).await?,
        );
        let (marker, blocked) = (run.marker("owned"), signed_in(run).await?.id);
        let bond = bond(&partner, &owner).await?;
        let request = send_request(&requester, &owner).await?;
        let invite = owner.client.post("/api/v1/partners/invites", Value::Null).await?.expect(201)?;
        let keep = async |space: &str| {
            let path = format!("/api/v1/spaces/{space}/{NOTES}");
            owner.client.post(&path, json!({ "data": { "text": marker } })).await?.expect(201)?.text_at("/id")
        };
        let (own_item, bond_item) = (keep("me").await?, keep("bond").await?);
        let nickname = json!({ "nickname": marker });
        owner.client.put(&format!("/api/v1/nicknames/{}", partner.id), nickname).await?.expect(200)?;
        owner.client.put(&format!("/api/v1/blocks/{blocked}"), Value::Null).await?.expect(200)?;
        let sessions = items(&owner, "/api/v1/auth/sessions").await?;
        let session = sessions.iter().find(|session| session["current"] == true);
        let session = session.and_then(|session| session["id"].as_str()).unwrap_or_default().to_owned();
        let (invite, invite_id) = (invite.text_at("/code")?, invite.text_at("/id")?);
        Ok(Self {
            owner,
            partner,
            requester,
            request,
            session,
            invite,
            invite_id,
            own_item,
            bond,
            bond_item,
            blocked,
            marker,
        })
    }

    /// Returns the requests that a stranger sends for `operation` with the owner's ids. Empty if the
    /// operation cannot refer to resources of the owner.
    fn stranger_requests(&self, operation: &Operation) -> Result<Vec<StrangerRequest<'_>>, Shortfall> {
        const GONE: &[u16] = &[404];
        let about = |given: &[&'static str], id, body, wanted| {
            let given: Vec<&str> = given.iter().copied().chain([id]).collect();
            StrangerRequest { given, body, wanted }
        };
        let data = || json!({ "data": { "text": "taken over" } });
        Ok(match operation.canonical_operation_id() {
            "getPartnerRequest"
            | "acceptPartnerRequest"
            | "rejectPartnerRequest"
            | "cancelPartnerRequest" => {
                vec![about(&[], &self.request, Value::Null, GONE)]
            }
            "reportPartnerRequest" => vec![about(&[], &self.request, json!({ "reason": "spam" }), GONE)],
            "endSession" => vec![about(&[], &self.session, Value::Null, GONE)],
            "revokeInvite" => {
                vec![
                    about(&[], &self.invite, Value::Null, GONE),
                    about(&[], &self.invite_id, Value::Null, GONE),
                ]
            }
            "getNickname" => vec![about(&[], &self.partner.id, Value::Null, GONE)],
            "getBlock" => vec![about(&[], &self.blocked, Value::Null, GONE)],
            // These operations delete a nickname or block of the stranger, who has none for this user, so
            // they return 204.
            "removeNickname" => vec![about(&[], &self.partner.id, Value::Null, &[204])],
            "unblockUser" => vec![about(&[], &self.blocked, Value::Null, &[204])],
            "getItem" | "deleteItem" => vec![
                about(&["me", NOTES], &self.own_item, Value::Null, GONE),
                about(&["bond", NOTES], &self.bond_item, Value::Null, GONE),
                about(&["me", NOTES], &self.bond_item, Value::Null, GONE),
            ],
            "replaceItem" | "patchItem" => vec![
                about(&["me", NOTES], &self.own_item, data(), GONE),
                about(&["bond", NOTES], &self.bond_item, data(), GONE),
            ],
            "listItems" => {
                vec![about(&["me"], NOTES, Value::Null, &[200]), about(&["bond"], NOTES, Value::Null, &[200])]
            }
            "exportBondSpace" => vec![about(&[], &self.bond, Value::Null, GONE)],
            "getAccount" | "setRole" | "suspendAccount" | "reinstateAccount" | "verifyEmail"
            | "releaseEmail" => {
                let body = if operation.name == "setRole" { json!({ "role": "admin" }) } else { json!({}) };
                let body = if operation.takes_body { body } else { Value::Null };
                vec![about(&[], &self.owner.id, body, &[403])]
            }
            // An invite code works for anyone who has it. The other operations access data of the stranger or
            // create new data.
            "previewInvite" | "setNickname" | "blockUser" | "createItem" => vec![],
            "declareCollection" | "getCollection" | "withdrawCollection" => vec![],
            _ if !operation.path.contains('{') && operation.method == Method::GET => {
                let wanted: &[u16] =
                    if operation.permissions.as_ref().is_some_and(Vec::is_empty) { &[200] } else { &[403] };
                vec![StrangerRequest { given: Vec::new(), body: Value::Null, wanted }]
            }
            _ if !operation.path.contains('{') => vec![],
            // The server checks permissions before it looks up the resource.
            _ if operation.permissions.as_ref().is_some_and(|needed| !needed.is_empty()) => {
                let given = vec![&*self.owner.id; operation.path.matches('{').count()];
                let body = if operation.takes_body { json!({}) } else { Value::Null };
                vec![StrangerRequest { given, body, wanted: &[403] }]
            }
            new => {
                let reason = format!(
                    "this check does not know the operation {new} and which resources its parameters identify"
                );
                return Err(Shortfall::unmeasured(reason, "run `kith verify` of the build that is deployed"));
            }
        })
    }

    /// Fails unless all resources of the owner still exist unchanged.
    async fn ensure_untouched(&self) -> Result<(), Shortfall> {
        let Self { owner, partner, marker, .. } = self;
        let is_there = |all: &[Value], id: &str| all.iter().any(|one| one["id"] == *id);
        let waiting = items(owner, &format!("{REQUESTS}?direction=incoming&status=pending")).await?;
        let invites = items(owner, "/api/v1/partners/invites").await?;
        let sessions = items(owner, "/api/v1/auth/sessions").await?;
        let nickname = owner.client.get(&format!("/api/v1/nicknames/{}", partner.id)).await?;
        let block = owner.client.get(&format!("/api/v1/blocks/{}", self.blocked)).await?;
        let me = owner.client.get("/api/v1/me").await?.expect(200)?;
        let mut faults = vec![
            ("the request", is_there(&waiting, &self.request)),
            ("the invite", is_there(&invites, &self.invite_id)),
            ("the session", is_there(&sessions, &self.session)),
            ("the nickname", nickname.json()["nickname"] == *marker),
            ("the block", block.status == 200),
            ("the role", me.json()["role"] == "user"),
            ("the bond", current(owner).await?["id"] == *self.bond),
        ];
        for (space, item) in [("me", &self.own_item), ("bond", &self.bond_item)] {
            let read = owner.client.get(&format!("/api/v1/spaces/{space}/{NOTES}/{item}")).await?;
            faults.push(("an item", read.json()["data"]["text"] == *marker));
        }
        let changed = faults.iter().find(|(_, as_it_was)| !as_it_was);
        ensure(changed.is_none(), || {
            format!("{} of the owner was changed", changed.map_or("nothing", |(what, _)| what))
        })
    }

    /// Removes the resources that would affect other checks. All others are deleted with the owner's account.
    async fn clean_up(&self) -> Result<(), Shortfall> {
        let Self { owner, requester, .. } = self;
        decide(requester, &self.request, "cancel").await?.expect(200)?;
        break_up(owner).await?;
        owner.client.delete(&format!("/api/v1/blocks/{}", self.blocked), Value::Null).await?.expect(204)?;
        owner
            .client
            .delete(&format!("/api/v1/partners/invites/{}", self.invite_id), Value::Null)
            .await?
            .expect(204)?;
        Ok(())
    }
}

/// Request that a stranger sends: the values of its path parameters, its body, and the accepted statuses.
struct StrangerRequest<'k> {
    given: Vec<&'k str>,
    body: Value,
    wanted: &'static [u16],
}

async fn check_ownership(run: &Run) -> Result<String, Shortfall> {
    let operations = operations(run).await?;
    let (resources, stranger, other) =
        (OwnedResources::by(run).await?, unbonded_account(run, 4).await?, unbonded_account(run, 6).await?);
    // The stranger has a partner too, so that requests for `bond` as the space refer to an existing space.
    bond(&other, &stranger).await?;
    let (mut cells, mut names_nothing) = (0, 0);
    for operation in operations.iter().filter(|one| one.permissions.is_some() && !one.is_for_development()) {
        let requests = resources.stranger_requests(operation)?;
        names_nothing += usize::from(requests.is_empty());
        for StrangerRequest { given, body, wanted } in requests {
            let path = operation.path_with(&given);
            let bytes = if body.is_null() { String::new() } else { body.to_string() };
            let response = stranger.client.send(operation.method.clone(), &path, bytes.into()).await?;
            let text = response.text();
            ensure(!text.contains(&resources.marker) && !text.contains(&resources.owner.email), || {
                format!("{} {} returns data of the owner to another user", operation.method, operation.path)
            })?;
            ensure(wanted.contains(&response.status), || {
                let (method, path, status) = (&operation.method, &operation.path, response.status);
                format!("{method} {path} with another user's ids returned {status} instead of {wanted:?}")
            })?;
            cells += 1;
        }
    }
    resources.ensure_untouched().await?;
    resources.clean_up().await?;
    break_up(&stranger).await?;
    run.record("cells", cells);
    run.record("operations_that_name_nothing_of_anybodys", names_nothing);
    Ok(format!(
        "{cells} of {cells} calls revealed nothing to another user: 403 or 404 for ids of others, own data \
         without an id; all resources are unchanged"
    ))
}
