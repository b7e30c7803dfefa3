//! Checks of secrets: confidentiality, length, age, and default passwords.

use kith_kernel::{Clock as _, SystemClock, Timestamp, days};
use kith_readiness::{Check, Run, Shortfall};
use serde_json::{Value, json};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "SEC-15",
        description: "reads what the server says of each of its secrets, and tries to sign in with passwords that everybody knows",
        remediation: "set secrets of your own (`kith secrets generate` makes them), and change the password that opened",
        runs_last: false,
        run: |run| Box::pin(check_default_credentials(run)),
    },
    Check {
        row: "SEC-16",
        description: "reads the length classes of the token secrets, whether they differ, and the kinds of the published keys",
        remediation: "set JWT_SECRET and JWT_REFRESH_SECRET to two values of `kith secrets generate`",
        runs_last: false,
        run: |run| Box::pin(check_secret_lengths(run)),
    },
    Check {
        row: "SEC-17",
        description: "reads since when each secret and each signing key is in use",
        remediation: "make a new signing key with `kith keys rotate`, and put new secrets into their files, at least every 90 days",
        runs_last: false,
        run: |run| Box::pin(check_secret_ages(run)),
    },
];

/// Default credentials of common products. Each is tried once, so that no account is locked.
const WELL_KNOWN: &[(&str, &str)] = &[
    ("admin@example.com", "admin"),
    ("admin@example.org", "password"),
    ("admin@localhost.localdomain", "changeme"),
    ("root@example.com", "root"),
    ("test@example.com", "password123"),
    ("demo@example.com", "demo"),
];

/// Maximum age of a secret in days.
const MAX_SECRET_AGE_DAYS: u64 = 90;

fn secrets(facts: &Value) -> Result<&Vec<Value>, Shortfall> {
    let secrets = facts["secrets"].as_array().filter(|secrets| !secrets.is_empty());
    secrets.ok_or_else(|| Shortfall::fails("the server says nothing of its secrets"))
}

fn is_set(secret: &Value) -> bool {
    secret["length"] != "not set"
}

async fn check_default_credentials(run: &Run) -> Result<String, Shortfall> {
    let facts = run.facts().await?;
    let secrets = secrets(&facts)?;
    run.record("secrets", secrets.clone());
    if let Some(known) = secrets.iter().find(|secret| secret["well_known"] != false) {
        return Err(Shortfall::fails(format!("{} is a value that everybody knows", known["key"])));
    }
    let weak = |secret: &&Value| is_set(secret) && secret["entropy"] == "under 64 bits";
    if let Some(weak) = secrets.iter().find(weak) {
        return Err(Shortfall::fails(format!("{} can be guessed: {}", weak["key"], weak["entropy"])));
    }
    for (email, password) in WELL_KNOWN {
        let body = json!({ "email": email, "password": password });
        let response = run.anonymous().post("/api/v1/auth/login", body).await?;
        if response.status == 200 {
            return Err(Shortfall::fails(format!("{email} signs in with a password that everybody knows")));
        }
        // 423: the account was locked by others. The password was not tried.
        response.expect_any(&[401, 423])?;
    }
    let (set, made) = (
        secrets.iter().filter(|secret| is_set(secret)).count(),
        secrets.iter().filter(|secret| secret["made_for_development"] == true).count(),
    );
    let made = if made > 0 {
        format!(", {made} of them made at random by development mode for its data folder")
    } else {
        String::new()
    };
    Ok(format!(
        "{set} of {} secrets are set{made}, none to a known value; {} default log-ins were refused",
        secrets.len(),
        WELL_KNOWN.len()
    ))
}

async fn check_secret_lengths(run: &Run) -> Result<String, Shortfall> {
    let facts = run.facts().await?;
    for key in ["auth.jwt_secret", "auth.jwt_refresh_secret"] {
        let found = secrets(&facts)?.iter().find(|secret| secret["key"] == key);
        let length = found.map_or("not there", |secret| secret["length"].as_str().unwrap_or_default());
        run.record(key, length);
        if length != "32 bytes or more" {
            return Err(Shortfall::fails(format!("{key} has {length}, and not 32 bytes")));
        }
    }
    if facts["token_secrets_differ"] != true {
        return Err(Shortfall::fails("auth.jwt_secret and auth.jwt_refresh_secret are the same"));
    }
    let keys = run.anonymous().get("/.well-known/jwks.json").await?.expect(200)?.json();
    let keys = keys["keys"].as_array().filter(|keys| !keys.is_empty()).cloned();
    let keys = keys.ok_or_else(|| Shortfall::fails("no signing key is published"))?;
    // Policy: Ed25519, whose keys have a fixed size (RFC 8037).
    let other = keys.iter().find(|key| key["kty"] != "OKP" || key["crv"] != "Ed25519");
    if let Some(key) = other {
        return Err(Shortfall::fails(format!("signing key {} is no Ed25519 key", key["kid"])));
    }
    Ok(format!(
        "both token secrets have 32 bytes or more and differ; {} signing keys, all Ed25519",
        keys.len()
    ))
}

async fn check_secret_ages(run: &Run) -> Result<String, Shortfall> {
    let facts = run.facts().await?;
    let now = SystemClock.now();
    let age_days = |at: &Value| {
        let at: Timestamp = at.as_str()?.parse().ok()?;
        Some(now.since(at).as_secs() / days(1).as_secs())
    };
    let mut oldest = 0;
    // A retiring key does not sign, so only the newest key counts.
    let keys: Vec<_> = facts["signing_keys"].as_array().into_iter().flatten().collect();
    let newest = keys.iter().filter_map(|key| age_days(&key["created_at"])).min();
    let newest = newest.ok_or_else(|| Shortfall::fails("the server names no signing key with an age"))?;
    run.record("signing_key_days", newest);
    if newest > MAX_SECRET_AGE_DAYS {
        return Err(Shortfall::fails(format!(
            "the newest signing key is {newest} days old, more than {MAX_SECRET_AGE_DAYS}"
        )));
    }
    let mut unknown = Vec::new();
    for secret in secrets(&facts)?.iter().filter(|secret| is_set(secret)) {
        let key = secret["key"].as_str().unwrap_or_default();
        match age_days(&secret["unchanged_since"]) {
            Some(age) if age > MAX_SECRET_AGE_DAYS => {
                let reason = format!("{key} has not changed for {age} days, more than {MAX_SECRET_AGE_DAYS}");
                return Err(Shortfall::fails(reason));
            }
            Some(age) => oldest = oldest.max(age),
            None => unknown.push(key),
        }
    }
    if !unknown.is_empty() {
        return Err(Shortfall::unmeasured(
            format!("nobody can tell since when {} did not change", unknown.join(", ")),
            "give each secret in a file of its own, by a variable that ends in _FILE: its date then tells",
        ));
    }
    Ok(format!(
        "the newest signing key is {newest} days old, and the oldest secret {oldest}, of at most {MAX_SECRET_AGE_DAYS}"
    ))
}
