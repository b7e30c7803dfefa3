//! Checks that state transitions that are not allowed are rejected with the documented error and change
//! nothing.

use kith_readiness::{Check, Run, Shortfall, SyntheticAccount};
use serde_json::{Value, json};

use super::DEFAULT_REMEDIATION;
use crate::synthetic_accounts::{
    REQUESTS, bond, break_up, current, decide, ensure, ensure_status, items, send_request, unbonded_account,
};

pub(super) const CHECKS: &[Check] = &[Check {
    row: "PRT-02",
    description: "has three users try illegal transitions: by the wrong user, on decided requests, and to invalid recipients",
    remediation: DEFAULT_REMEDIATION,
    runs_last: false,
    run: |run| Box::pin(check_invalid_steps(run)),
}];

const UNKNOWN_USER: &str = "01900000-0000-7000-8000-000000000000";

struct Accounts<'r> {
    run: &'r Run,
    ada: SyntheticAccount,
    ben: SyntheticAccount,
    eve: SyntheticAccount,
}

async fn check_invalid_steps(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben, eve) =
        (unbonded_account(run, 3).await?, unbonded_account(run, 4).await?, unbonded_account(run, 5).await?);
    let accounts = Accounts { run, ada, ben, eve };
    let counts = [
        accounts.steps_on_pending_request().await?,
        accounts.steps_on_decided_request().await?,
        accounts.steps_on_withheld_request().await?,
        accounts.steps_of_bonded_user().await?,
    ];
    let all: usize = counts.iter().sum();
    run.record("illegal_steps", all);
    Ok(format!("{all} illegal transitions were rejected as declared, and the state did not change"))
}

impl Accounts<'_> {
    /// Tries transitions of a pending request by users in the wrong role, and requests to invalid recipients.
    /// Returns the number of attempts.
    async fn steps_on_pending_request(&self) -> Result<usize, Shortfall> {
        let Self { ada, ben, eve, .. } = self;
        let id = send_request(ada, ben).await?;
        let steps = [
            (ada, "accept", 403, "forbidden"),
            (ada, "reject", 403, "forbidden"),
            (ben, "cancel", 403, "forbidden"),
            (eve, "accept", 404, "not_found"),
            (eve, "reject", 404, "not_found"),
            (eve, "cancel", 404, "not_found"),
        ];
        for (by, step, status, code) in steps {
            decide(by, &id, step).await?.expect_problem(status, code)?;
        }
        let requests = [
            (json!({ "to": { "user_id": ada.id } }), 422, "validation_failed"),
            (json!({ "to": { "email": ada.email } }), 422, "validation_failed"),
            (json!({ "to": { "user_id": UNKNOWN_USER } }), 404, "not_found"),
            (json!({ "to": {} }), 422, "validation_failed"),
            (json!({ "to": { "user_id": ben.id }, "message": "In other words" }), 409, "request_pending"),
        ];
        for (body, status, code) in &requests {
            ada.client.post(REQUESTS, body.clone()).await?.expect_problem(*status, code)?;
        }
        ensure_status(ada, &id, "pending").await?;
        ensure_status(ben, &id, "pending").await?;
        self.ensure_pending_count(ada, 1).await?;
        decide(ada, &id, "cancel").await?.expect(200)?;
        let late = [(ben, "accept"), (ben, "reject")];
        for (by, step) in late {
            decide(by, &id, step).await?.expect_problem(409, "request_not_pending")?;
        }
        ensure_status(ben, &id, "cancelled").await?;
        Ok(steps.len() + requests.len() + late.len())
    }

    /// Tries transitions of a decided request, and a new request within the cooldown. Returns the number of
    /// attempts.
    async fn steps_on_decided_request(&self) -> Result<usize, Shortfall> {
        let Self { ada, ben, .. } = self;
        let id = send_request(ada, ben).await?;
        decide(ben, &id, "reject").await?.expect(200)?;
        decide(ben, &id, "accept").await?.expect_problem(409, "request_not_pending")?;
        decide(ada, &id, "cancel").await?.expect_problem(409, "request_not_pending")?;
        let body = json!({ "to": { "user_id": ben.id } });
        ada.client.post(REQUESTS, body).await?.expect_problem(409, "request_cooldown_active")?;
        ensure_status(ada, &id, "rejected").await?;
        for account in [ada, ben] {
            ensure(current(account).await?.is_null(), || "a rejected transition created a bond".to_owned())?;
        }
        Ok(3)
    }

    /// Tries requests between two users in both directions while one has blocked the other. Returns the
    /// number of attempts.
    async fn steps_on_withheld_request(&self) -> Result<usize, Shortfall> {
        let Self { ben, eve, .. } = self;
        let block = format!("/api/v1/blocks/{}", eve.id);
        ben.client.put(&block, Value::Null).await?.expect(200)?;
        let (to_ben, to_eve) =
            (json!({ "to": { "user_id": ben.id } }), json!({ "to": { "user_id": eve.id } }));
        eve.client.post(REQUESTS, to_ben).await?.expect_problem(404, "not_found")?;
        ben.client.post(REQUESTS, to_eve).await?.expect_problem(404, "not_found")?;
        self.ensure_pending_count(eve, 0).await?;
        ben.client.delete(&block, Value::Null).await?.expect(204)?;
        Ok(2)
    }

    /// Tries requests and acceptances by users with a bond, and transitions of the request that created the
    /// bond. Returns the number of attempts.
    async fn steps_of_bonded_user(&self) -> Result<usize, Shortfall> {
        let Self { ada, ben, eve, .. } = self;
        eve.client.post("/api/v1/partners/breakup", json!({})).await?.expect_problem(409, "not_bonded")?;
        let bond = bond(ben, ada).await?;
        let body = json!({ "to": { "user_id": eve.id } });
        ada.client.post(REQUESTS, body).await?.expect_problem(409, "slot_occupied")?;
        let waiting = send_request(eve, ada).await?;
        decide(ada, &waiting, "accept").await?.expect_problem(409, "slot_occupied")?;
        ensure_status(eve, &waiting, "pending").await?;
        let accepted = items(ben, &format!("{REQUESTS}?direction=outgoing&status=accepted")).await?;
        let accepted = accepted.iter().find(|item| item["to"]["id"] == *ada.id);
        let accepted = accepted.and_then(|item| item["id"].as_str()).unwrap_or(UNKNOWN_USER);
        for (by, step) in [(ben, "cancel"), (ada, "reject")] {
            decide(by, accepted, step).await?.expect_problem(409, "request_not_pending")?;
        }
        let after = current(ada).await?;
        ensure(after["id"] == *bond, || format!("after rejected transitions the bond is {}", after["id"]))?;
        decide(eve, &waiting, "cancel").await?.expect(200)?;
        break_up(ada).await?;
        Ok(5)
    }

    /// Fails unless the user has exactly `wanted` pending outgoing requests.
    async fn ensure_pending_count(&self, account: &SyntheticAccount, wanted: usize) -> Result<(), Shortfall> {
        let waiting = items(account, &format!("{REQUESTS}?direction=outgoing&status=pending")).await?.len();
        self.run.record("waiting_after_refusals", waiting);
        ensure(waiting == wanted, || {
            format!("after rejected transitions {waiting} requests are pending instead of {wanted}")
        })
    }
}
