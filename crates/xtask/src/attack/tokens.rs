//! Attacks with access tokens that are forged, expired, or signed by another server.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::attacked_server::AttackedServer;
use super::report::{AttackReport, DEFAULT_TIME_LIMIT, status_in};
use super::wire::{request, send};

const ME: &str = "/api/v1/me";

/// Decoded parts of a token.
struct DecodedToken {
    header: Value,
    payload: Value,
    signature: String,
}

impl DecodedToken {
    fn of(token: &str) -> Result<Self> {
        let mut parts = token.split('.');
        let mut next = || parts.next().context("a token has three parts");
        let json =
            |part: &str| -> Result<Value> { Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?) };
        Ok(Self { header: json(next()?)?, payload: json(next()?)?, signature: next()?.to_owned() })
    }

    fn with(&self, header: Value, payload: Value, signature: &str) -> String {
        let merged = |base: &Value, more: Value| {
            let mut all = base.as_object().cloned().unwrap_or_default();
            all.extend(more.as_object().cloned().unwrap_or_default());
            URL_SAFE_NO_PAD.encode(Value::from(all).to_string())
        };
        format!("{}.{}.{signature}", merged(&self.header, header), merged(&self.payload, payload))
    }
}

/// Sends every forged token and fails if one is accepted. `foreign` is a token signed by another server.
pub fn run(server: &AttackedServer, foreign: &str, report: &mut AttackReport) {
    report.group("tokens");
    let forgeries = match forgeries(server, foreign) {
        Ok(forgeries) => forgeries,
        Err(error) => return report.attack("taking a token apart", DEFAULT_TIME_LIMIT, || Err(error)),
    };
    for (name, token) in forgeries {
        report.attack(name, DEFAULT_TIME_LIMIT, || {
            let response = server.call("GET", ME, Some(&token), &Value::Null)?;
            let summary = status_in(&response, &[401])?;
            let challenge = response.header("www-authenticate").unwrap_or_default();
            ensure!(challenge.starts_with("Bearer"), "a 401 without a challenge: {challenge:?}");
            Ok(summary)
        });
    }
    for (name, header) in [
        ("another scheme", format!("authorization: Basic {}", server.eve.token)),
        ("no scheme", format!("authorization: {}", server.eve.token)),
        ("an empty token", "authorization: Bearer ".to_owned()),
        (
            "two tokens",
            format!(
                "authorization: Bearer {}\r\nauthorization: Bearer {}",
                server.eve.token, server.ada.token
            ),
        ),
        ("a token in a cookie", format!("cookie: access_token={}", server.eve.token)),
    ] {
        report.attack(name, DEFAULT_TIME_LIMIT, || {
            let head = format!("GET {ME} HTTP/1.1\r\nhost: kith\r\nconnection: close\r\n{header}\r\n\r\n");
            status_in(&send(server.address(), head.as_bytes())?, &[400, 401])
        });
    }
    report.attack("a token in the address", DEFAULT_TIME_LIMIT, || {
        let path = format!("{ME}?access_token={}", server.eve.token);
        status_in(&send(server.address(), &request("GET", &path, None, &[], None))?, &[400, 401])
    });
    report.attack("an access token to refresh by", DEFAULT_TIME_LIMIT, || {
        let body = json!({ "refresh_token": server.eve.token });
        status_in(&server.call("POST", "/api/v1/auth/refresh", None, &body)?, &[401, 422])
    });
    report.attack("a refresh token with a letter changed", DEFAULT_TIME_LIMIT, || {
        let mut token = server.eve.refresh.clone();
        let middle = token.len() / 2;
        let other = if token.as_bytes()[middle] == b'A' { "B" } else { "A" };
        token.replace_range(middle..=middle, other);
        let body = json!({ "refresh_token": token });
        status_in(&server.call("POST", "/api/v1/auth/refresh", None, &body)?, &[401, 422])
    });
}

fn forgeries(server: &AttackedServer, foreign: &str) -> Result<Vec<(&'static str, String)>> {
    let token = &server.eve.token;
    let parts = DecodedToken::of(token)?;
    let none = json!({});
    let signature = parts.signature.as_str();
    let garbage = URL_SAFE_NO_PAD.encode([7_u8; 64]);
    let kid = |kid: &str| parts.with(json!({ "kid": kid }), none.clone(), &garbage);
    Ok(vec![
        ("alg none, no signature", parts.with(json!({ "alg": "none" }), none.clone(), "")),
        ("alg None, the old signature", parts.with(json!({ "alg": "None" }), none.clone(), signature)),
        ("alg HS256", parts.with(json!({ "alg": "HS256" }), none.clone(), &garbage)),
        ("another key of its own", parts.with(json!({ "jwk": { "kty": "OKP" } }), none.clone(), &garbage)),
        ("a key to fetch", parts.with(json!({ "jku": "http://127.0.0.1:1/keys" }), none.clone(), &garbage)),
        ("a kid that climbs folders", kid("../../../../dev/null")),
        ("a kid that is SQL", kid("' OR '1'='1")),
        ("a kid of 10,000 letters", kid(&"k".repeat(10_000))),
        ("another user's subject", parts.with(none.clone(), json!({ "sub": server.ada.id }), signature)),
        ("another audience", parts.with(none.clone(), json!({ "aud": "other" }), signature)),
        ("a later expiry", parts.with(none.clone(), json!({ "exp": 4_102_444_800_i64 }), signature)),
        ("a role", parts.with(none.clone(), json!({ "role": "admin" }), signature)),
        ("a signature cut short", token[..token.len() - 4].to_owned()),
        ("an empty signature", parts.with(none.clone(), none.clone(), "")),
        ("a signature of zeros", parts.with(none.clone(), none, &URL_SAFE_NO_PAD.encode([0_u8; 64]))),
        ("two parts", token.rsplit_once('.').context("three parts")?.0.to_owned()),
        ("four parts", format!("{token}.e30")),
        ("another server's key", foreign.to_owned()),
        ("a refresh token", server.eve.refresh.clone()),
        ("an API key that was never created", format!("kith_{}_{}", "0".repeat(26), "0".repeat(58))),
        ("a word", "null".to_owned()),
    ])
}

/// Moves the clock of a development server until all tokens have expired, checks that they are rejected, and
/// moves it back.
pub fn expired(server: &AttackedServer, report: &mut AttackReport) {
    report.attack("a token that has expired", DEFAULT_TIME_LIMIT, || {
        let by = json!({ "advance": "2d" });
        server.call("POST", "/dev/clock", None, &by)?.expect(200)?;
        let response = server.get(&server.eve, ME);
        server.call("DELETE", "/dev/clock", None, &Value::Null)?.expect(200)?;
        status_in(&response?, &[401])
    });
}
