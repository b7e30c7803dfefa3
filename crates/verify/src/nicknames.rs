//! Checks that a nickname is visible only to the user who set it.

use kith_readiness::{Check, Run, Shortfall};
use serde_json::{Value, json};

use crate::synthetic_accounts::{ensure, log_in, unbonded_account};

pub(crate) const CHECKS: &[Check] = &[Check {
    row: "PRT-09",
    description: "sets a nickname for another user, reads it back under both paths and after signing in again, sets \
           nickname and theme of the profile, and searches everything that the named user can read for the \
           nickname",
    remediation: "look up the request id of the step that failed in the log",
    runs_last: false,
    run: |run| Box::pin(check_nickname_privacy(run)),
}];

async fn check_nickname_privacy(run: &Run) -> Result<String, Shortfall> {
    let (ada, ben) = (unbonded_account(run, 1).await?, unbonded_account(run, 2).await?);
    let nickname = run.marker("bear");
    let (old, new) = (format!("/api/nicknames/{}", ben.id), format!("/api/v1/nicknames/{}", ben.id));
    ada.client.put(&old, json!({ "nickname": nickname })).await?.expect(200)?;
    let again = log_in(run, &ada).await?.text_at("/access_token")?;
    for (client, path) in [(&ada.client, &new), (&ada.client.with_token(&again), &old)] {
        let read = client.get(path).await?.expect(200)?.text_at("/nickname")?;
        ensure(read == nickname, || {
            format!("GET {path} returns another nickname than the one that was set")
        })?;
    }
    let profile = json!({ "nickname": "Countess", "theme": "dark" });
    ada.client.patch("/api/v1/me", profile.clone()).await?.expect(200)?;
    let me = ada.client.get("/api/v1/me").await?.expect(200)?.json();
    ensure(me["nickname"] == profile["nickname"] && me["theme"] == profile["theme"], || {
        "the profile does not contain the nickname and theme that were set".to_owned()
    })?;

    let paths = readable_paths(&*run.document().await?);
    for path in &paths {
        let read = ben.client.get(path).await?.expect(200)?;
        ensure(!read.text().contains(&nickname), || {
            format!("GET {path} shows the nickname to the user it names")
        })?;
    }
    ben.client.get(&format!("/api/v1/nicknames/{}", ada.id)).await?.expect_problem(404, "not_found")?;
    ada.client.delete(&new, Value::Null).await?.expect(204)?;
    ada.client.get(&old).await?.expect_problem(404, "not_found")?;
    run.record("answers_searched", paths.len());
    Ok(format!(
        "read back under both paths and in a new session; absent from all {} responses to the user it names",
        paths.len()
    ))
}

/// Returns the paths of all GET operations without path parameters that any signed-in user may read.
fn readable_paths(document: &Value) -> Vec<String> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let own = paths.filter(|(path, item)| {
        let permissions = &item["get"]["security"][0]["bearer"];
        !path.contains('{') && permissions.as_array().is_some_and(Vec::is_empty)
    });
    own.map(|(path, _)| path.clone()).collect()
}
