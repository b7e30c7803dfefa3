//! Checks of the audit log: every action has its entries, rejected actions have none, and the chain is
//! intact.

use kith_readiness::{Check, Run, Shortfall, SyntheticAccount};
use serde_json::{Value, json};

use crate::synthetic_accounts::{REQUESTS, ensure, unbonded_account};

pub(super) const CHECKS: &[Check] = &[Check {
    row: "SEC-24",
    description: "signs in, fails to sign in, signs out, sends and accepts a request, breaks up, blocks and sets a \
           role; looks up each action in the audit log by its request id; reads the server's verification of \
           the newest links of the chain and of the head stored outside the database",
    remediation: "run `kith audit verify`; if the chain is broken, compare it with the last backup before you change anything",
    runs_last: false,
    run: |run| Box::pin(check_audit_log(run)),
}];

const ANONYMOUS: &str = "anonymous";

/// Record of the actions that the check performed. Each action has a request id of its own.
struct ActionLog<'r> {
    run: &'r Run,
    actions: Vec<RecordedAction>,
}

/// Performed action, with the audit entries that must exist for it, in order.
struct RecordedAction {
    request_id: String,
    entries: Vec<(String, &'static str, String)>,
}

impl<'r> ActionLog<'r> {
    fn id(&self, what: &str) -> String {
        self.run.marker(what)
    }

    fn note(&mut self, request_id: String, entries: &[(&str, &'static str, &str)]) {
        let entries = entries
            .iter()
            .map(|(actor, action, object)| ((*actor).to_owned(), *action, (*object).to_owned()));
        self.actions.push(RecordedAction { request_id, entries: entries.collect() });
    }

    /// Fails unless the audit log contains exactly the expected entries for each action. Returns their total
    /// number.
    async fn compare(&self) -> Result<usize, Shortfall> {
        let mut found = 0;
        for RecordedAction { request_id, entries } in &self.actions {
            let logged = self.run.audit_entries(request_id).await?;
            let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let logged: Vec<_> = logged
                .iter()
                .map(|one| (text(one, "actor"), text(one, "action"), text(one, "object")))
                .collect();
            let same = logged.len() == entries.len()
                && logged.iter().zip(entries).all(|(one, (actor, action, object))| {
                    one.0 == *actor && one.1 == *action && (object.is_empty() || one.2 == *object)
                });
            ensure(same, || {
                format!("for request {request_id} the audit log has {logged:?} instead of {entries:?}")
            })?;
            found += logged.len();
        }
        Ok(found)
    }
}

async fn check_audit_log(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (unbonded_account(run, 2).await?, unbonded_account(run, 6).await?);
    // Only an administrator can read the audit log.
    run.facts().await?;
    let mut log = ActionLog { run, actions: Vec::new() };
    sign_in_and_out(&mut log, &ada).await?;
    record_bond_and_breakup(&mut log, &ada, &ben).await?;
    record_block(&mut log, &ada, &ben).await?;
    let actions = log.actions.len();
    let entries = log.compare().await?;
    run.record("actions", actions);
    run.record("entries", entries);

    let facts = run.facts().await?;
    let chain = &facts["modules"]["audit.chain"];
    run.record("chain", chain.clone());
    let (Some(links), Some(recomputed)) = (chain["links"].as_i64(), chain["recomputed"].as_i64()) else {
        return Err(Shortfall::unmeasured("the server does not report its audit chain", "deploy this build"));
    };
    ensure(chain["fault"].is_null(), || format!("the audit chain is invalid: {}", chain["fault"]))?;
    let head = &chain["remembered_head"];
    ensure(head["fault"].is_null(), || {
        format!("the audit chain does not contain the stored head: {}", head["fault"])
    })?;
    Ok(format!(
        "{actions} actions created {entries} entries with the expected actor, object and request id; the \
         newest {recomputed} of {links} links are valid, and the chain contains the head stored outside the \
         database"
    ))
}

async fn sign_in_and_out(log: &mut ActionLog<'_>, ada: &SyntheticAccount) -> Result<(), Shortfall> {
    let anonymous = log.run.anonymous().with_base_url(log.run.node());
    let under = |id: &str| anonymous.with("x-request-id", id);
    let credentials = |password: &str| json!({ "email": ada.email, "password": password });
    let id = log.id("refused");
    under(&id).post("/api/v1/auth/login", credentials("not this one")).await?.expect(401)?;
    log.note(id, &[(ANONYMOUS, "session.refused", &ada.id)]);

    let id = log.id("enters");
    let session = under(&id).post("/api/v1/auth/login", credentials(&ada.password)).await?.expect(200)?;
    log.note(id, &[(ANONYMOUS, "session.started", "")]);

    let id = log.id("renews");
    let body = json!({ "refresh_token": session.text_at("/refresh_token")? });
    let refreshed = under(&id).post("/api/v1/auth/refresh", body).await?.expect(200)?;
    log.note(id, &[(ANONYMOUS, "session.refreshed", "")]);

    let id = log.id("leaves");
    let token = json!({ "refresh_token": refreshed.text_at("/refresh_token")? });
    under(&id).post("/api/v1/auth/logout", token).await?.expect(204)?;
    log.note(id, &[(ANONYMOUS, "session.ended", "")]);
    Ok(())
}

async fn record_bond_and_breakup(
    log: &mut ActionLog<'_>,
    ada: &SyntheticAccount,
    ben: &SyntheticAccount,
) -> Result<(), Shortfall> {
    let by = |account: &SyntheticAccount| format!("user:{}", account.id);
    let request = async |log: &ActionLog<'_>, name: &str| {
        let id = log.id(name);
        let client = ada.client.with("x-request-id", &id);
        let sent = client.post(REQUESTS, json!({ "to": { "user_id": ben.id } })).await?.expect(201)?;
        Ok::<_, Shortfall>((id, sent.text_at("/id")?))
    };
    let (id, first) = request(log, "asks").await?;
    log.note(id, &[(&by(ada), "partner_request.created", &first)]);

    let id = log.id("may-not");
    let refused = ada.client.with("x-request-id", &id);
    refused.post(&format!("{REQUESTS}/{first}/accept"), Value::Null).await?.expect(403)?;
    log.note(id, &[]);

    let id = log.id("takes-back");
    let client = ada.client.with("x-request-id", &id);
    client.post(&format!("{REQUESTS}/{first}/cancel"), Value::Null).await?.expect(200)?;
    log.note(id, &[(&by(ada), "partner_request.cancelled", &first)]);

    let (id, second) = request(log, "asks-again").await?;
    log.note(id, &[(&by(ada), "partner_request.created", &second)]);
    let id = log.id("accepts");
    let client = ben.client.with("x-request-id", &id);
    let accepted = client.post(&format!("{REQUESTS}/{second}/accept"), Value::Null).await?.expect(200)?;
    let bond = accepted.text_at("/bond/id")?;
    let entries = [(&*by(ben), "partner_request.accepted", &*second), (&by(ben), "bond.created", &bond)];
    log.note(id, &entries);

    let id = log.id("parts");
    let client = ben.client.with("x-request-id", &id);
    client.post("/api/v1/partners/breakup", json!({})).await?.expect(200)?;
    log.note(id, &[(&by(ben), "bond.ended", &bond)]);
    Ok(())
}

async fn record_block(
    log: &mut ActionLog<'_>,
    ada: &SyntheticAccount,
    ben: &SyntheticAccount,
) -> Result<(), Shortfall> {
    let by = format!("user:{}", ada.id);
    let block = format!("/api/v1/blocks/{}", ben.id);
    let id = log.id("blocks");
    ada.client.with("x-request-id", &id).put(&block, Value::Null).await?.expect(200)?;
    log.note(id, &[(&by, "block.created", &ben.id)]);
    let id = log.id("unblocks");
    ada.client.with("x-request-id", &id).delete(&block, Value::Null).await?.expect(204)?;
    log.note(id, &[(&by, "block.removed", &ben.id)]);

    let admin = log.run.admin().await?;
    let me = admin.get("/api/v1/me").await?.expect(200)?.text_at("/id")?;
    let role = format!("/api/v1/admin/users/{}/role", ben.id);
    for (name, role_now) in [("promotes", "business"), ("demotes", "user")] {
        let id = log.id(name);
        admin.with("x-request-id", &id).put(&role, json!({ "role": role_now })).await?.expect(200)?;
        log.note(id, &[(&format!("user:{me}"), "account.role_changed", &ben.id)]);
    }
    Ok(())
}
