//! Tests that the page at `/docs` is self-contained and shows the OpenAPI document that this server serves.

use std::collections::BTreeMap;

use hyper::header::IF_NONE_MATCH;
use kith::modules;
use kith_platform::config::Config;
use kith_platform::http::openapi;
use serde_json::Value;

use crate::support::{TestApp, TestResponse, on_every_engine};

on_every_engine! {
    docs_page_is_self_contained,
    old_documentation_paths_redirect,
}

fn text(response: TestResponse) -> String {
    response.expect(200).as_str().expect("text").to_owned()
}

/// Returns all values of an HTML attribute.
fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    html.split(&start).skip(1).map(|rest| rest.split('"').next().expect("a closing quote")).collect()
}

/// Proves the readiness requirement API-03.
async fn docs_page_is_self_contained(app: &TestApp) {
    let client = app.anonymous();
    let page = client.get("/docs").await;
    let policy = page.header("content-security-policy").expect("a policy").to_owned();
    let etag = page.header("etag").expect("an ETag").to_owned();
    let html = text(page);
    client.with_header(IF_NONE_MATCH, &etag).get("/docs").await.expect(304);

    let directives: BTreeMap<_, Vec<_>> = policy
        .split(';')
        .filter_map(|directive| directive.trim().split_once(' '))
        .map(|(name, sources)| (name, sources.split(' ').collect()))
        .collect();
    for (name, sources) in &directives {
        let legal =
            |source: &&str| ["'self'", "'none'"].contains(source) || (*name, *source) == ("img-src", "data:");
        assert!(sources.iter().all(legal), "{name}: {sources:?}");
    }
    for name in ["default-src", "base-uri", "form-action", "frame-ancestors"] {
        assert_eq!(directives[name], ["'none'"], "{name}");
    }

    // Nothing is inline, and nothing is loaded from other origins.
    assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onload="), "{html}");
    assert_eq!(html.matches("<script").count(), values(&html, "src").len(), "{html}");
    let links = [values(&html, "src"), values(&html, "href")].concat();
    assert!(links.iter().all(|link| link.starts_with('/') || *link == "data:,"), "{links:?}");
    for part in links.iter().filter(|link| link.starts_with("/docs/")) {
        let response = client.get(part).await;
        assert_eq!(response.header("cache-control"), Some("public, max-age=31536000, immutable"), "{part}");
        let etag = response.header("etag").expect("an ETag").to_owned();
        assert!(!text(response).is_empty(), "{part}");
        client.with_header(IF_NONE_MATCH, &etag).get(part).await.expect(304);
    }
    client.get("/docs/swagger-ui.css").await.expect_problem(404, "not_found");

    // The page shows the served document, which is the one that this build generates.
    let [shown] = values(&html, "data-document")[..] else {
        panic!("the page does not contain exactly one document: {html}")
    };
    let generated: Value = serde_json::from_slice(&openapi::to_json(&openapi::document(
        modules::served(&Config::default()).unwrap(),
    )))
    .expect("JSON");
    let etag = client.get("/openapi.json").await.header("etag").expect("an ETag").to_owned();
    let shown = client.get(shown).await;
    assert_eq!(shown.header("etag"), Some(&*etag));
    assert_eq!(shown.expect(200), generated);
}

async fn old_documentation_paths_redirect(app: &TestApp) {
    for old in ["/api-docs", "/swagger"] {
        let response = app.anonymous().get(old).await;
        assert_eq!((response.status, response.header("location")), (308, Some("/docs")), "{old}");
    }
}
