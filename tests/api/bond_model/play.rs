//! Runs a story on a server and in the model, and reports differences.

use futures_util::future::try_join_all;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::faults::find_faults;
use super::model::{Model, ModelUser, RequestPolicy};
use super::rules::{Addressing, Expected, Step};
use super::steps::{DecidingUser, Story, StoryStep};
use crate::support::{PASSWORD, REQUESTS, TestApp, TestResponse, TestUser};

const INVITES: &str = "/api/v1/partners/invites";
/// Id that identifies no user.
const UNKNOWN_USER_ID: &str = "01900000-0000-7000-8000-000000000000";

/// Statistics of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoryStatistics {
    pub ops: usize,
    pub bonds: usize,
    pub restorations: usize,
    pub refusals: usize,
}

impl std::ops::Add for StoryStatistics {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            ops: self.ops + other.ops,
            bonds: self.bonds + other.bonds,
            restorations: self.restorations + other.restorations,
            refusals: self.refusals + other.refusals,
        }
    }
}

struct Player<'a> {
    app: &'a TestApp,
    world: Model,
    people: Vec<TestUser>,
    played: StoryStatistics,
}

/// Runs a story with new accounts.
///
/// # Errors
/// Returns a description of the first difference between server and model.
pub async fn play(app: &TestApp, name: &str, story: &Story) -> Result<StoryStatistics, String> {
    let people = app.register_users(name, story.people).await;
    // Most addresses are verified before others request them.
    for proven in people.iter().skip(1) {
        app.verify_address(proven).await;
    }
    let human = |(at, person): (usize, &TestUser)| ModelUser {
        id: person.id.clone(),
        name: person.name.clone(),
        is_verified: at > 0,
        ..ModelUser::default()
    };
    let world = Model {
        now: app.now(),
        people: people.iter().enumerate().map(human).collect(),
        requests: Vec::new(),
        bonds: Vec::new(),
        invites: Vec::new(),
        refusal_counters: Default::default(),
        failed_codes: Vec::new(),
    };
    let mut player = Player { app, world, people, played: StoryStatistics::default() };
    for (at, op) in story.ops.iter().enumerate() {
        let place = |difference| format!("step {at}, {op:?}: {difference}");
        player.world.now = app.now();
        player.world.count_expired();
        player.step(op).await.map_err(place)?;
        player.compare_views().await.map_err(place)?;
    }
    player.check_tables().await?;
    player.played.bonds = player.world.bonds.len();
    player.played.restorations = player.world.bonds.iter().map(|bond| bond.restorations as usize).sum();
    Ok(player.played)
}

impl Player<'_> {
    async fn step(&mut self, op: &StoryStep) -> Result<(), String> {
        self.played.ops += 1;
        match op {
            StoryStep::Wait(time) => self.app.advance(*time),
            StoryStep::Upkeep => {
                self.app.run_maintenance().await;
                self.world.run_maintenance();
            }
            StoryStep::Return { who } => return self.undo_deletion(*who).await,
            StoryStep::Rename { who } => return self.rename(*who).await,
            StoryStep::Prove { who } if self.world.people[*who].deleted_at.is_none() => {
                self.app.verify_address(&self.people[*who]).await;
                self.world.people[*who].is_verified = true;
            }
            _ => {
                if let Some((expected, response)) = self.ask(op).await {
                    self.compare(expected, &response)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the model's expectation and the server's response. Returns `None` if the step is impossible.
    async fn ask(&mut self, op: &StoryStep) -> Option<(Expected, TestResponse)> {
        let here = |who: &usize| self.world.people[*who].deleted_at.is_none();
        Some(match op {
            StoryStep::Ask { from, to, message } if here(from) => {
                let body = json!({ "to": { "user_id": self.people[*to].id }, "message": message });
                (
                    self.world.send(*from, Some(*to), &Addressing::Id, *message),
                    self.post(*from, REQUESTS, body).await,
                )
            }
            StoryStep::AskByAddress { from, to, message } if here(from) => {
                let address = self.people[*to].email.clone();
                // The address of a purged account belongs to no user, and an unverified one only leads to its
                // own user.
                let leads = |to: &usize| self.world.people[*to].is_verified || to == from;
                let to = Some(*to).filter(|to| !self.world.people[*to].purged && leads(to));
                self.ask_address(*from, to, address, *message).await
            }
            StoryStep::AskUnknownAddress { from } if here(from) => {
                self.ask_address(*from, None, "nobody@example.com".to_owned(), None).await
            }
            StoryStep::AskNobody { from } if here(from) => {
                let body = json!({ "to": { "user_id": UNKNOWN_USER_ID } });
                (self.world.send(*from, None, &Addressing::Id, None), self.post(*from, REQUESTS, body).await)
            }
            StoryStep::Redeem { from, invite, message } if here(from) && !self.world.invites.is_empty() => {
                let invite = invite.index(self.world.invites.len());
                let body =
                    json!({ "to": { "invite_code": self.world.invites[invite].code }, "message": message });
                let to = Some(self.world.invites[invite].inviter);
                let expected = self.world.send(*from, to, &Addressing::Invite(invite), *message);
                (expected, self.post(*from, REQUESTS, body).await)
            }
            StoryStep::Decide { role, back, step } if *back < self.world.requests.len() => {
                return self.decide(*role, self.world.requests.len() - 1 - back, *step).await;
            }
            StoryStep::BreakUp { who, reason } if here(who) => {
                let body = reason.map_or(Value::Null, |reason| json!({ "reason": reason }));
                (self.world.break_up(*who, *reason), self.post(*who, "/api/v1/partners/breakup", body).await)
            }
            StoryStep::Block { who, whom } if here(who) => {
                let path = format!("/api/v1/blocks/{}", self.people[*whom].id);
                (self.world.block(*who, *whom), self.people[*who].put(&path, Value::Null).await)
            }
            StoryStep::Unblock { who, whom } if here(who) => {
                let path = format!("/api/v1/blocks/{}", self.people[*whom].id);
                self.world.unblock(*who, *whom);
                (Expected::Status(204), self.people[*who].delete(&path, Value::Null).await)
            }
            StoryStep::Set { who, who_may_ask, found_by_email } if here(who) => {
                self.set(*who, *who_may_ask, *found_by_email).await
            }
            StoryStep::Leave { who } if here(who) => {
                let response = self.people[*who].delete("/api/v1/me", json!({ "password": PASSWORD })).await;
                (self.world.leave(*who), response)
            }
            StoryStep::Nickname { who, whom } if here(who) => {
                let path = format!("/api/v1/nicknames/{}", self.people[*whom].id);
                let name = format!("bear {}", self.played.ops);
                let response = self.people[*who].put(&path, json!({ "nickname": name })).await;
                self.world.people[*who].nicknames.insert(*whom, name);
                (Expected::Status(200), response)
            }
            _ => return self.ask_about_invites(op).await,
        })
    }

    async fn ask_about_invites(&mut self, op: &StoryStep) -> Option<(Expected, TestResponse)> {
        let here = |who: &usize| self.world.people[*who].deleted_at.is_none();
        let any = !self.world.invites.is_empty();
        Some(match op {
            StoryStep::Invite { who } if here(who) => {
                (self.world.invite(*who), self.post(*who, INVITES, Value::Null).await)
            }
            StoryStep::Revoke { who, invite } if here(who) && any => {
                let invite = invite.index(self.world.invites.len());
                let path = format!("{INVITES}/{}", self.world.invites[invite].code);
                (self.world.revoke(*who, invite), self.people[*who].delete(&path, Value::Null).await)
            }
            StoryStep::Preview { who, invite } if here(who) && any => {
                let invite = invite.index(self.world.invites.len());
                let path = format!("{INVITES}/{}", self.world.invites[invite].code);
                (self.world.preview(*who, invite), self.people[*who].get(&path).await)
            }
            StoryStep::Guess { who } if here(who) => {
                (self.world.guess(*who), self.people[*who].get(&format!("{INVITES}/0000000000")).await)
            }
            _ => return None,
        })
    }

    async fn ask_address(
        &mut self,
        from: usize,
        to: Option<usize>,
        address: String,
        message: Option<&str>,
    ) -> (Expected, TestResponse) {
        let body = json!({ "to": { "email": address }, "message": message });
        (
            self.world.send(from, to, &Addressing::Address(address), message),
            self.post(from, REQUESTS, body).await,
        )
    }

    async fn decide(
        &mut self,
        role: DecidingUser,
        at: usize,
        step: Step,
    ) -> Option<(Expected, TestResponse)> {
        let request = &self.world.requests[at];
        let (from, to) = (request.from, request.to);
        let receiver = to.unwrap_or(from);
        let who = match (role, step == Step::Cancel) {
            (DecidingUser::Right, true) | (DecidingUser::Wrong, false) => from,
            (DecidingUser::Right, false) | (DecidingUser::Wrong, true) => receiver,
            (DecidingUser::Somebody(who), _) => who,
        };
        if self.world.people[who].deleted_at.is_some() {
            return None;
        }
        let verb = match step {
            Step::Accept => "accept",
            Step::Reject => "reject",
            Step::Cancel => "cancel",
        };
        let path = format!("{REQUESTS}/{}/{verb}", request.id);
        Some((self.world.decide(who, at, step), self.post(who, &path, Value::Null).await))
    }

    async fn set(
        &mut self,
        who: usize,
        who_may_ask: RequestPolicy,
        found_by_email: bool,
    ) -> (Expected, TestResponse) {
        let human = &mut self.world.people[who];
        (human.who_may_ask, human.found_by_email) = (who_may_ask, found_by_email);
        let who_may_ask = match who_may_ask {
            RequestPolicy::Anyone => "anyone",
            RequestPolicy::Invited => "invited",
            RequestPolicy::Nobody => "nobody",
        };
        let body = json!({ "who_may_ask": who_may_ask, "found_by_email": found_by_email });
        let response = self.people[who]
            .send(Method::PATCH, "/api/v1/partners/settings", Bytes::from(body.to_string()))
            .await;
        (Expected::Status(200), response)
    }

    async fn undo_deletion(&mut self, who: usize) -> Result<(), String> {
        if self.world.people[who].deleted_at.is_none() {
            return Ok(());
        }
        let body = json!({ "email": self.people[who].email, "password": PASSWORD });
        let response = self.app.anonymous().post("/api/v1/auth/restore", body).await;
        let expected = self.world.undo_deletion(who);
        let is_back = matches!(expected, Expected::Status(_));
        self.compare(expected, &response)?;
        if is_back {
            let (local, _) = self.people[who].email.split_once('@').expect("an address");
            self.people[who] = self.app.sign_in(local).await;
        }
        Ok(())
    }

    async fn rename(&mut self, who: usize) -> Result<(), String> {
        if self.world.people[who].deleted_at.is_some() {
            return Ok(());
        }
        let name = format!("Renamed {}", self.played.ops);
        let body = json!({ "display_name": name });
        let response =
            self.people[who].send(Method::PATCH, "/api/v1/me", Bytes::from(body.to_string())).await;
        self.world.people[who].name = name;
        self.compare(Expected::Status(200), &response)
    }

    async fn post(&self, who: usize, path: &str, body: Value) -> TestResponse {
        self.people[who].post(path, body).await
    }

    fn compare(&mut self, expected: Expected, response: &TestResponse) -> Result<(), String> {
        let (status, body) = match expected {
            Expected::Refusal(status, code) => {
                self.played.refusals += 1;
                let found = (response.status, response.body["code"].as_str());
                return same("the refusal", &(status, Some(code)), &found, response);
            }
            Expected::Status(status) => return same("the status", &status, &response.status, response),
            Expected::Body(status, body) => (status, body),
            Expected::Request(status, at, viewer) => {
                self.name_request(at, &response.body);
                (status, self.world.request_with_bond(at, viewer))
            }
            Expected::Ended(at, viewer) => (200, json!({ "bond": self.world.history_item(at, viewer) })),
            Expected::Invite(at) => {
                let text = |key: &str| response.body[key].as_str().unwrap_or_default().to_owned();
                let invite = &mut self.world.invites[at];
                (invite.id, invite.code) = (text("id"), text("code"));
                (201, response.body.clone())
            }
        };
        same("the status", &status, &response.status, response)?;
        same("the body", &body, &response.body, response)
    }

    /// Adopts the ids that the server assigned.
    fn name_request(&mut self, at: usize, body: &Value) {
        let text = |id: &Value| id.as_str().unwrap_or_default().to_owned();
        let request = &mut self.world.requests[at];
        if request.id.is_empty() {
            request.id = text(&body["id"]);
        }
        if let Some(bond) = request.bond.map(|bond| &mut self.world.bonds[bond])
            && bond.id.is_empty()
        {
            bond.id = text(&body["bond"]["id"]);
        }
    }

    async fn compare_views(&mut self) -> Result<(), String> {
        self.world.now = self.app.now();
        let here = (0..self.people.len()).filter(|who| self.world.people[*who].deleted_at.is_none());
        try_join_all(here.map(|who| self.compare_view(who))).await.map(|_| ())
    }

    async fn compare_view(&self, who: usize) -> Result<(), String> {
        let viewer = self.people[who].signed_in().await;
        let all = format!("{REQUESTS}?limit=100");
        for (path, expected) in [
            ("/api/v1/partners/current", self.world.current(who)),
            (&all, self.world.list_requests(who)),
            ("/api/v1/partners/history?limit=100", self.world.history(who)),
            (INVITES, self.world.list_invites(who)),
        ] {
            let response = viewer.get(path).await;
            same(&format!("what {who} sees at {path}"), &expected, &response.body, &response)?;
        }
        Ok(())
    }

    /// Checks the tables' invariants, and lists that are read less often.
    async fn check_tables(&self) -> Result<(), String> {
        for (who, human) in
            self.world.people.iter().enumerate().filter(|(_, human)| human.deleted_at.is_none())
        {
            let blocks = self.people[who].get("/api/v1/blocks?limit=100").await;
            let found = blocks.body["items"].as_array().into_iter().flatten();
            let mut found: Vec<_> = found.cloned().collect();
            let mut expected: Vec<_> =
                human.blocks.keys().map(|whom| self.world.block_of(who, *whom)).collect();
            found.sort_by_key(Value::to_string);
            expected.sort_by_key(Value::to_string);
            same("the blocks", &expected, &found, &blocks)?;
            let nicknames = self.people[who].get("/api/v1/nicknames?limit=100").await;
            let found = nicknames.body["items"].as_array().into_iter().flatten();
            let mut found: Vec<_> = found.map(|item| item["nickname"].clone()).collect();
            let mut expected: Vec<_> = human.nicknames.values().map(|name| json!(name)).collect();
            found.sort_by_key(Value::to_string);
            expected.sort_by_key(Value::to_string);
            same("the nicknames", &expected, &found, &nicknames)?;
        }
        let faults = find_faults(self.app).await;
        if faults.is_empty() { Ok(()) } else { Err(format!("{faults:#?}")) }
    }
}

fn same<T: std::fmt::Debug + PartialEq>(
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
