//! Checks of cross-origin access: CORS and cross-site request forgery.

use bytes::Bytes;
use http::Method;
use kith_readiness::{Check, CheckResponse, Client, Operation, Run, Shortfall};
use serde_json::{Value, json};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "SEC-08",
        description: "sends plain and preflight requests with the listed origins and with ten unlisted ones",
        remediation: "list exactly the origins of your own pages in server.cors_origins, and let no proxy add CORS headers",
        runs_last: false,
        run: |run| Box::pin(check_cors(run)),
    },
    Check {
        row: "SEC-13",
        description: "sends tokens in cookies only and requests that a form of another site could send, and checks \
               that no response sets a cookie",
        remediation: "let nothing in front of Kith turn a cookie into a token, or set cookies",
        runs_last: false,
        run: |run| Box::pin(check_cross_site_requests(run)),
    },
];

const UNLISTED_ORIGIN: &str = "https://evil.example";

/// Returns the allowed origins in the settings.
async fn listed(run: &Run) -> Result<Vec<String>, Shortfall> {
    let facts = run.facts().await?;
    let listed = facts.pointer("/configuration/settings/server/cors_origins").and_then(Value::as_array);
    let Some(listed) = listed else {
        return Err(Shortfall::unmeasured(
            "the server does not report the listed origins",
            "deploy a build that reports them",
        ));
    };
    Ok(listed.iter().filter_map(|origin| origin.as_str().map(str::to_owned)).collect())
}

/// Returns origins that resemble the allowed origin `good` but are not allowed.
fn unlisted_origins(good: &str) -> Vec<String> {
    let (scheme, host) = good.split_once("://").unwrap_or(("https", good));
    let other = if scheme == "https" { "http" } else { "https" };
    vec![
        "null".to_owned(),
        UNLISTED_ORIGIN.to_owned(),
        format!("{good}.evil.example"),
        format!("{scheme}://evil-{host}"),
        format!("{scheme}://evil{host}"),
        format!("{scheme}://sub.{host}"),
        format!("{other}://{host}"),
        format!("{scheme}://{host}@evil.example"),
        format!("{good}/"),
        "*".to_owned(),
        format!("{good}, {UNLISTED_ORIGIN}"),
        good.to_uppercase(),
    ]
}

async fn check_cors(run: &Run) -> Result<String, Shortfall> {
    let listed = listed(run).await?;
    for origin in &listed {
        if origin == "*" || origin == "null" {
            return Err(Shortfall::fails(format!("{origin} is listed")));
        }
        for response in read_and_preflight(run, origin).await? {
            ensure_origin_allowed(&response, origin)?;
        }
    }
    // In development mode, origins on the server's own machine are also allowed.
    let mode = run.facts().await?.pointer("/configuration/settings/server/mode").cloned();
    let good = match listed.first() {
        Some(listed) => listed.clone(),
        None if mode == Some(json!("development")) => "https://app.example.org".to_owned(),
        None => run.anonymous().base().to_owned(),
    };
    let hostile: Vec<_> =
        unlisted_origins(&good).into_iter().filter(|origin| !listed.contains(origin)).collect();
    for origin in &hostile {
        for response in read_and_preflight(run, origin).await? {
            let allowed =
                response.headers.iter().find(|(name, _)| name.as_str().starts_with("access-control-allow"));
            if let Some((name, value)) = allowed {
                return Err(Shortfall::fails(format!(
                    "{} returned {name}: {value:?} to {origin:?}",
                    response.request
                )));
            }
        }
    }
    run.record("listed", listed.len());
    run.record("hostile", hostile.len());
    let of_listed = match listed.len() {
        0 => "no origin is listed".to_owned(),
        n => format!("each of {n} listed origins is allowed"),
    };
    Ok(format!(
        "{of_listed}, and none of {} other origins is allowed, in plain or preflight requests; credentials \
         are never allowed",
        hostile.len()
    ))
}

/// Sends a cross-origin GET request, and a preflight request for a write. Returns both responses.
async fn read_and_preflight(run: &Run, origin: &str) -> Result<[CheckResponse; 2], Shortfall> {
    const ME: &str = "/api/v1/me";
    let page = run.anonymous().with("origin", origin);
    let asks = page
        .with("access-control-request-method", "PATCH")
        .with("access-control-request-headers", "authorization");
    Ok([page.get(ME).await?, asks.send(Method::OPTIONS, ME, Bytes::new()).await?])
}

fn ensure_origin_allowed(response: &CheckResponse, origin: &str) -> Result<(), Shortfall> {
    let fails =
        |what: &str| Err(Shortfall::fails(format!("{} {what} for the listed {origin}", response.request)));
    let allowed: Vec<_> = response.headers.get_all("access-control-allow-origin").iter().collect();
    if !matches!(allowed[..], [one] if one == origin) {
        return fails(&format!("returned Access-Control-Allow-Origin {allowed:?}"));
    }
    if response.headers.contains_key("access-control-allow-credentials") {
        return fails("allows credentials");
    }
    let varies = response.headers.get_all("vary").iter().filter_map(|value| value.to_str().ok());
    if !varies.into_iter().any(|value| value.to_lowercase().contains("origin")) {
        return fails("lacks Vary: Origin");
    }
    Ok(())
}

async fn check_cross_site_requests(run: &Run) -> Result<String, Shortfall> {
    const ME: &str = "/api/v1/me";
    let account = run.account("is-framed").await?;
    let (token, refresh) = (&account.access_token, &account.refresh_token);
    let names = ["access_token", "token", "session", "jwt", "Authorization", "refresh_token"];
    let mut cookies = names.map(|name| format!("{name}={token}")).join("; ");
    cookies.push_str(&format!("; bearer=Bearer {token}; kith_refresh={refresh}"));
    let framed = run.anonymous().with("cookie", &cookies);
    let before = account.client.get(ME).await?.expect(200)?.json();
    let mut responses = vec![framed.get(ME).await?.expect(401)?];
    let document = run.document().await?;
    let mut writes = 0;
    for operation in Operation::all(&document).iter().filter(|operation| !operation.method.is_safe()) {
        if operation.is_for_development() {
            continue;
        }
        responses.extend(cross_site(&framed, operation).await?);
        writes += 1;
    }
    // These bodies are valid except for their media type. The server must reject them because of it, even if
    // the caller is allowed.
    let theme = Bytes::from(json!({ "theme": "framed" }).to_string());
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let with_type = account.client.with("content-type", kind).with("origin", UNLISTED_ORIGIN);
        responses.push(with_type.send(Method::PATCH, ME, theme.clone()).await?.expect(415)?);
    }
    let credentials = json!({ "email": account.email, "password": account.password });
    let text = run.anonymous().with("content-type", "text/plain").with("origin", UNLISTED_ORIGIN);
    responses.push(
        text.send(Method::POST, "/api/v1/auth/login", credentials.to_string().into()).await?.expect(415)?,
    );
    responses.push(run.anonymous().post("/api/v1/auth/login", credentials).await?.expect(200)?);
    if let Some(sets) = responses.iter().find(|response| response.headers.contains_key("set-cookie")) {
        return Err(Shortfall::fails(format!("{} sets a cookie", sets.request)));
    }
    if account.client.get(ME).await?.expect(200)?.json() != before {
        return Err(Shortfall::fails("a request with cookies only changed a profile"));
    }
    run.record("writes", writes);
    run.record("answers", responses.len());
    Ok(format!(
        "cookies do not authenticate: {writes} kinds of writes with tokens in cookies only were rejected as \
         forms, as text and as JSON; bodies with another content type than JSON are rejected even with a \
         token; none of {} responses sets a cookie",
        responses.len()
    ))
}

/// Sends requests that a page of another site could make a browser send. Fails unless they are rejected.
async fn cross_site(framed: &Client, operation: &Operation<'_>) -> Result<Vec<CheckResponse>, Shortfall> {
    let body = operation.body().map_or_else(|| json!({}), |schema| operation.sample(schema)).to_string();
    let mut responses = Vec::new();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json"] {
        let is_json = kind == "application/json";
        if is_json && !operation.requires_token() {
            // An operation without a token has no user on whose behalf a request could be forged.
            continue;
        }
        let mut page = framed.with("content-type", kind);
        if kind == "text/plain" {
            page = page.with("origin", UNLISTED_ORIGIN).with("sec-fetch-site", "cross-site");
        }
        let response =
            page.send(operation.method.clone(), &operation.sample_path(), body.clone().into()).await?;
        let wanted = if operation.requires_token() { 401 } else { 415 };
        responses.push(response.expect(wanted)?);
    }
    Ok(responses)
}
