//! Runs a sequence on a server and in the model, and reports differences.

use futures_util::future::try_join_all;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::faults::find_faults;
use super::model::{Model, ModelUser, RequestPolicy};
use super::rules::{Addressing, Expected, Step};
use super::steps::{DecidingUser, Sequence, SequenceStep};
use crate::support::{PASSWORD, REQUESTS, TestApp, TestResponse, TestUser};

const INVITES: &str = "/api/v1/partners/invites";
/// Id that identifies no user.
const UNKNOWN_USER_ID: &str = "01900000-0000-7000-8000-000000000000";

/// Statistics of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceStatistics {
    pub steps: usize,
    pub bonds: usize,
    pub restorations: usize,
    pub refusals: usize,
}

impl std::ops::Add for SequenceStatistics {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            bonds: self.bonds + other.bonds,
            restorations: self.restorations + other.restorations,
            refusals: self.refusals + other.refusals,
        }
    }
}

struct Player<'a> {
    app: &'a TestApp,
    model: Model,
    users: Vec<TestUser>,
    statistics: SequenceStatistics,
}

/// Runs a sequence with new accounts.
///
/// # Errors
/// Returns a description of the first difference between server and model.
pub async fn play(app: &TestApp, name: &str, sequence: &Sequence) -> Result<SequenceStatistics, String> {
    let users = app.register_users(name, sequence.users).await;
    // Verifies all addresses except that of the first user, so that requests by address can be delivered.
    for proven in users.iter().skip(1) {
        app.verify_address(proven).await;
    }
    let model_user = |(at, user): (usize, &TestUser)| ModelUser {
        id: user.id.clone(),
        name: user.name.clone(),
        is_verified: at > 0,
        ..ModelUser::default()
    };
    let model = Model {
        now: app.now(),
        users: users.iter().enumerate().map(model_user).collect(),
        requests: Vec::new(),
        bonds: Vec::new(),
        invites: Vec::new(),
        refusal_counters: Default::default(),
        failed_codes: Vec::new(),
    };
    let mut player = Player { app, model, users, statistics: SequenceStatistics::default() };
    for (at, sequence_step) in sequence.steps.iter().enumerate() {
        let place = |difference| format!("step {at}, {sequence_step:?}: {difference}");
        player.model.now = app.now();
        player.model.count_expired();
        player.step(sequence_step).await.map_err(place)?;
        player.compare_views().await.map_err(place)?;
    }
    player.check_tables().await?;
    player.statistics.bonds = player.model.bonds.len();
    player.statistics.restorations = player.model.bonds.iter().map(|bond| bond.restorations as usize).sum();
    Ok(player.statistics)
}

impl Player<'_> {
    async fn step(&mut self, sequence_step: &SequenceStep) -> Result<(), String> {
        self.statistics.steps += 1;
        match sequence_step {
            SequenceStep::Wait(time) => self.app.advance(*time),
            SequenceStep::Maintenance => {
                self.app.run_maintenance().await;
                self.model.run_maintenance();
            }
            SequenceStep::UndoDeletion { user } => return self.undo_deletion(*user).await,
            SequenceStep::Rename { user } => return self.rename(*user).await,
            SequenceStep::VerifyAddress { user } if self.model.users[*user].deleted_at.is_none() => {
                self.app.verify_address(&self.users[*user]).await;
                self.model.users[*user].is_verified = true;
            }
            _ => {
                if let Some((expected, response)) = self.perform(sequence_step).await {
                    self.compare(expected, &response)?;
                }
            }
        }
        Ok(())
    }

    /// Executes a step in the model and on the server. Returns the expected and the actual response, or
    /// `None` if the step is impossible in this state.
    async fn perform(&mut self, sequence_step: &SequenceStep) -> Option<(Expected, TestResponse)> {
        let here = |user: &usize| self.model.users[*user].deleted_at.is_none();
        Some(match sequence_step {
            SequenceStep::SendRequest { from, to, message } if here(from) => {
                let body = json!({ "to": { "user_id": self.users[*to].id }, "message": message });
                (
                    self.model.send(*from, Some(*to), &Addressing::Id, *message),
                    self.post(*from, REQUESTS, body).await,
                )
            }
            SequenceStep::SendByAddress { from, to, message } if here(from) => {
                let address = self.users[*to].email.clone();
                // The address of a purged account belongs to no user. An unverified address identifies its
                // user only in requests of that user.
                let leads = |to: &usize| self.model.users[*to].is_verified || to == from;
                let to = Some(*to).filter(|to| !self.model.users[*to].purged && leads(to));
                self.send_by_address(*from, to, address, *message).await
            }
            SequenceStep::SendToUnknownAddress { from } if here(from) => {
                self.send_by_address(*from, None, "nobody@example.com".to_owned(), None).await
            }
            SequenceStep::SendToUnknownUser { from } if here(from) => {
                let body = json!({ "to": { "user_id": UNKNOWN_USER_ID } });
                (self.model.send(*from, None, &Addressing::Id, None), self.post(*from, REQUESTS, body).await)
            }
            SequenceStep::Redeem { from, invite, message }
                if here(from) && !self.model.invites.is_empty() =>
            {
                let invite = invite.index(self.model.invites.len());
                let body =
                    json!({ "to": { "invite_code": self.model.invites[invite].code }, "message": message });
                let to = Some(self.model.invites[invite].inviter);
                let expected = self.model.send(*from, to, &Addressing::Invite(invite), *message);
                (expected, self.post(*from, REQUESTS, body).await)
            }
            SequenceStep::Decide { role, back, step } if *back < self.model.requests.len() => {
                return self.decide(*role, self.model.requests.len() - 1 - back, *step).await;
            }
            SequenceStep::BreakUp { user, reason } if here(user) => {
                let body = reason.map_or(Value::Null, |reason| json!({ "reason": reason }));
                (
                    self.model.break_up(*user, *reason),
                    self.post(*user, "/api/v1/partners/breakup", body).await,
                )
            }
            SequenceStep::Block { user, other } if here(user) => {
                let path = format!("/api/v1/blocks/{}", self.users[*other].id);
                (self.model.block(*user, *other), self.users[*user].put(&path, Value::Null).await)
            }
            SequenceStep::Unblock { user, other } if here(user) => {
                let path = format!("/api/v1/blocks/{}", self.users[*other].id);
                self.model.unblock(*user, *other);
                (Expected::Status(204), self.users[*user].delete(&path, Value::Null).await)
            }
            SequenceStep::ChangeSettings { user, accepts_requests_from, discoverable_by_email }
                if here(user) =>
            {
                self.set(*user, *accepts_requests_from, *discoverable_by_email).await
            }
            SequenceStep::DeleteAccount { user } if here(user) => {
                let response = self.users[*user].delete("/api/v1/me", json!({ "password": PASSWORD })).await;
                (self.model.delete_account(*user), response)
            }
            SequenceStep::Nickname { user, other } if here(user) => {
                let path = format!("/api/v1/nicknames/{}", self.users[*other].id);
                let name = format!("bear {}", self.statistics.steps);
                let response = self.users[*user].put(&path, json!({ "nickname": name })).await;
                self.model.users[*user].nicknames.insert(*other, name);
                (Expected::Status(200), response)
            }
            _ => return self.perform_invite_step(sequence_step).await,
        })
    }

    async fn perform_invite_step(
        &mut self,
        sequence_step: &SequenceStep,
    ) -> Option<(Expected, TestResponse)> {
        let here = |user: &usize| self.model.users[*user].deleted_at.is_none();
        let any = !self.model.invites.is_empty();
        Some(match sequence_step {
            SequenceStep::Invite { user } if here(user) => {
                (self.model.invite(*user), self.post(*user, INVITES, Value::Null).await)
            }
            SequenceStep::Revoke { user, invite } if here(user) && any => {
                let invite = invite.index(self.model.invites.len());
                let path = format!("{INVITES}/{}", self.model.invites[invite].code);
                (self.model.revoke(*user, invite), self.users[*user].delete(&path, Value::Null).await)
            }
            SequenceStep::Preview { user, invite } if here(user) && any => {
                let invite = invite.index(self.model.invites.len());
                let path = format!("{INVITES}/{}", self.model.invites[invite].code);
                (self.model.preview(*user, invite), self.users[*user].get(&path).await)
            }
            SequenceStep::TryUnknownCode { user } if here(user) => (
                self.model.try_unknown_code(*user),
                self.users[*user].get(&format!("{INVITES}/0000000000")).await,
            ),
            _ => return None,
        })
    }

    async fn send_by_address(
        &mut self,
        from: usize,
        to: Option<usize>,
        address: String,
        message: Option<&str>,
    ) -> (Expected, TestResponse) {
        let body = json!({ "to": { "email": address }, "message": message });
        (
            self.model.send(from, to, &Addressing::Address(address), message),
            self.post(from, REQUESTS, body).await,
        )
    }

    async fn decide(
        &mut self,
        role: DecidingUser,
        at: usize,
        step: Step,
    ) -> Option<(Expected, TestResponse)> {
        let request = &self.model.requests[at];
        let (from, to) = (request.from, request.to);
        let receiver = to.unwrap_or(from);
        let user = match (role, step == Step::Cancel) {
            (DecidingUser::Allowed, true) | (DecidingUser::OtherParticipant, false) => from,
            (DecidingUser::Allowed, false) | (DecidingUser::OtherParticipant, true) => receiver,
            (DecidingUser::Any(user), _) => user,
        };
        if self.model.users[user].deleted_at.is_some() {
            return None;
        }
        let verb = match step {
            Step::Accept => "accept",
            Step::Reject => "reject",
            Step::Cancel => "cancel",
        };
        let path = format!("{REQUESTS}/{}/{verb}", request.id);
        Some((self.model.decide(user, at, step), self.post(user, &path, Value::Null).await))
    }

    async fn set(
        &mut self,
        user: usize,
        accepts_requests_from: RequestPolicy,
        discoverable_by_email: bool,
    ) -> (Expected, TestResponse) {
        let model_user = &mut self.model.users[user];
        (model_user.accepts_requests_from, model_user.discoverable_by_email) =
            (accepts_requests_from, discoverable_by_email);
        let accepts_requests_from = match accepts_requests_from {
            RequestPolicy::Anyone => "anyone",
            RequestPolicy::Invited => "invited",
            RequestPolicy::Nobody => "nobody",
        };
        let body = json!({ "accepts_requests_from": accepts_requests_from, "discoverable_by_email": discoverable_by_email });
        let response = self.users[user]
            .send(Method::PATCH, "/api/v1/partners/settings", Bytes::from(body.to_string()))
            .await;
        (Expected::Status(200), response)
    }

    async fn undo_deletion(&mut self, user: usize) -> Result<(), String> {
        if self.model.users[user].deleted_at.is_none() {
            return Ok(());
        }
        let body = json!({ "email": self.users[user].email, "password": PASSWORD });
        let response = self.app.anonymous().post("/api/v1/auth/restore", body).await;
        let expected = self.model.undo_deletion(user);
        let is_back = matches!(expected, Expected::Status(_));
        self.compare(expected, &response)?;
        if is_back {
            let (local, _) = self.users[user].email.split_once('@').expect("an address");
            self.users[user] = self.app.sign_in(local).await;
        }
        Ok(())
    }

    async fn rename(&mut self, user: usize) -> Result<(), String> {
        if self.model.users[user].deleted_at.is_some() {
            return Ok(());
        }
        let name = format!("Renamed {}", self.statistics.steps);
        let body = json!({ "display_name": name });
        let response =
            self.users[user].send(Method::PATCH, "/api/v1/me", Bytes::from(body.to_string())).await;
        self.model.users[user].name = name;
        self.compare(Expected::Status(200), &response)
    }

    async fn post(&self, user: usize, path: &str, body: Value) -> TestResponse {
        self.users[user].post(path, body).await
    }

    fn compare(&mut self, expected: Expected, response: &TestResponse) -> Result<(), String> {
        let (status, body) = match expected {
            Expected::Refusal(status, code) => {
                self.statistics.refusals += 1;
                let found = (response.status, response.body["code"].as_str());
                return compare_values("the refusal", &(status, Some(code)), &found, response);
            }
            Expected::Status(status) => {
                return compare_values("the status", &status, &response.status, response);
            }
            Expected::Body(status, body) => (status, body),
            Expected::Request(status, at, viewer) => {
                self.name_request(at, &response.body);
                (status, self.model.request_with_bond(at, viewer))
            }
            Expected::Ended(at, viewer) => (200, json!({ "bond": self.model.history_item(at, viewer) })),
            Expected::Invite(at) => {
                let text = |key: &str| response.body[key].as_str().unwrap_or_default().to_owned();
                let invite = &mut self.model.invites[at];
                (invite.id, invite.code) = (text("id"), text("code"));
                (201, response.body.clone())
            }
        };
        compare_values("the status", &status, &response.status, response)?;
        compare_values("the body", &body, &response.body, response)
    }

    /// Copies the ids that the server assigned into the model.
    fn name_request(&mut self, at: usize, body: &Value) {
        let text = |id: &Value| id.as_str().unwrap_or_default().to_owned();
        let request = &mut self.model.requests[at];
        if request.id.is_empty() {
            request.id = text(&body["id"]);
        }
        if let Some(bond) = request.bond.map(|bond| &mut self.model.bonds[bond])
            && bond.id.is_empty()
        {
            bond.id = text(&body["bond"]["id"]);
        }
    }

    async fn compare_views(&mut self) -> Result<(), String> {
        self.model.now = self.app.now();
        let here = (0..self.users.len()).filter(|user| self.model.users[*user].deleted_at.is_none());
        try_join_all(here.map(|user| self.compare_view(user))).await.map(|_| ())
    }

    async fn compare_view(&self, user: usize) -> Result<(), String> {
        let viewer = self.users[user].signed_in().await;
        let all = format!("{REQUESTS}?limit=100");
        for (path, expected) in [
            ("/api/v1/partners/current", self.model.current(user)),
            (&all, self.model.list_requests(user)),
            ("/api/v1/partners/history?limit=100", self.model.history(user)),
            (INVITES, self.model.list_invites(user)),
        ] {
            let response = viewer.get(path).await;
            compare_values(&format!("what {user} sees at {path}"), &expected, &response.body, &response)?;
        }
        Ok(())
    }

    /// Compares the lists of blocks and nicknames, and checks the invariants of the tables.
    async fn check_tables(&self) -> Result<(), String> {
        for (user, model_user) in
            self.model.users.iter().enumerate().filter(|(_, model_user)| model_user.deleted_at.is_none())
        {
            let blocks = self.users[user].get("/api/v1/blocks?limit=100").await;
            let found = blocks.body["items"].as_array().into_iter().flatten();
            let mut found: Vec<_> = found.cloned().collect();
            let mut expected: Vec<_> =
                model_user.blocks.keys().map(|other| self.model.block_of(user, *other)).collect();
            found.sort_by_key(Value::to_string);
            expected.sort_by_key(Value::to_string);
            compare_values("the blocks", &expected, &found, &blocks)?;
            let nicknames = self.users[user].get("/api/v1/nicknames?limit=100").await;
            let found = nicknames.body["items"].as_array().into_iter().flatten();
            let mut found: Vec<_> = found.map(|item| item["nickname"].clone()).collect();
            let mut expected: Vec<_> = model_user.nicknames.values().map(|name| json!(name)).collect();
            found.sort_by_key(Value::to_string);
            expected.sort_by_key(Value::to_string);
            compare_values("the nicknames", &expected, &found, &nicknames)?;
        }
        let faults = find_faults(self.app).await;
        if faults.is_empty() { Ok(()) } else { Err(format!("{faults:#?}")) }
    }
}

fn compare_values<T: std::fmt::Debug + PartialEq>(
    what: &str,
    expected: &T,
    found: &T,
    response: &TestResponse,
) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    Err(format!(
        "{what} should be\n{expected:#?}\nbut is\n{found:#?}\nin {} {:#}",
        response.status, response.body
    ))
}
