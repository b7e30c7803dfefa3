//! The twins.

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use kith_readiness::NO_ID;
use serde_json::{Value, json};

use super::{Break, Twin};

/// All of them, by row.
pub const TWINS: &[Twin] = &[
    Twin {
        row: "API-01",
        broken: "that answers 410 where it declares 404",
        by: Break::Answered(|asked, answer| {
            if asked.path().ends_with(NO_ID) && answer.status == 404 {
                answer.status = StatusCode::GONE;
            }
        }),
        also: &[],
    },
    Twin {
        row: "API-02",
        broken: "whose document leaves an operation out",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/openapi.json" {
                let mut document = answer.json();
                document["paths"].as_object_mut().map(|paths| paths.remove("/api/v1/me/activity"));
                answer.body = document.to_string().into();
            }
        }),
        also: &["DOC-01"],
    },
    Twin {
        row: "API-03",
        broken: "whose page shows another document",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/docs" {
                let page = String::from_utf8_lossy(&answer.body);
                answer.body =
                    page.replace("data-document=\"/openapi.json\"", "data-document=\"/livez\"").into();
            }
        }),
        also: &[],
    },
    Twin {
        row: "API-04",
        broken: "whose lists take a limit of 0 for 1",
        by: Break::Asked(|_, asked| asked.uri = asked.uri.replace("limit=0", "limit=1")),
        also: &[],
    },
    Twin {
        row: "API-05",
        broken: "that tells where in its code it refused",
        by: Break::Answered(|_, answer| {
            if answer.status == 409 {
                answer.set_json("/detail", json!("refused at crates/domain/src/accounts/rules.rs:31"));
            }
        }),
        also: &[],
    },
    Twin {
        row: "API-07",
        broken: "whose answers do not say how long they took",
        by: Break::Answered(|_, answer| drop(answer.headers.remove("server-timing"))),
        also: &[],
    },
    Twin {
        row: "API-08",
        broken: "that lets unknown fields pass",
        by: Break::Asked(|_, asked| {
            if asked.method == Method::POST {
                let mut body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
                if body.as_object_mut().is_some_and(|fields| fields.remove("kith_verify").is_some()) {
                    asked.body = body.to_string().into();
                }
            }
        }),
        also: &[],
    },
    Twin {
        row: "API-09",
        broken: "before which a proxy cuts long bodies off",
        by: Break::Asked(|_, asked| {
            if asked.method == Method::POST && asked.body.len() > 200_000 {
                asked.body.truncate(200_000);
            }
        }),
        also: &[],
    },
    Twin {
        row: "API-10",
        broken: "before which a proxy takes Accept-Encoding away",
        by: Break::Asked(|_, asked| drop(asked.headers.remove("accept-encoding"))),
        also: &[],
    },
    Twin {
        row: "API-11",
        broken: "whose readiness names no dependency",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/readyz" {
                answer.set_json("/checks", json!({}));
            }
        }),
        also: &[],
    },
    Twin {
        row: "PRT-01",
        broken: "that acknowledges a rejection and does not make it",
        by: Break::Asked(|_, asked| {
            if asked.path().ends_with("/reject") {
                let read =
                    asked.path().trim_end_matches("/reject").replace("enhanced-partners", "v1/partners");
                asked.become_get(&read);
            }
        }),
        also: &[],
    },
    Twin {
        row: "SEC-02",
        broken: "without limits",
        by: Break::Setting(|config| config.server.without_limits = true),
        also: &[],
    },
    Twin {
        row: "SEC-05",
        broken: "whose redirects lack a header",
        by: Break::Answered(|_, answer| {
            if answer.status == 308 {
                answer.headers.remove("cross-origin-opener-policy");
            }
        }),
        also: &[],
    },
    Twin {
        row: "SEC-06",
        broken: "whose redirects have a policy with unsafe-inline",
        by: Break::Answered(|_, answer| {
            if answer.status == 308 {
                let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                              frame-ancestors 'none'";
                answer.headers.insert("content-security-policy", HeaderValue::from_static(policy));
            }
        }),
        also: &[],
    },
    Twin {
        row: "SEC-07",
        broken: "whose redirects have no policy and may be framed",
        by: Break::Answered(|_, answer| {
            if answer.status == 308 {
                answer.headers.remove("content-security-policy");
                answer.headers.remove("x-frame-options");
            }
        }),
        also: &["SEC-05", "SEC-06"],
    },
    Twin {
        row: "SEC-08",
        broken: "that lets every origin read",
        by: Break::Answered(|asked, answer| {
            if let Some(origin) = asked.headers.get("origin") {
                answer.headers.insert("access-control-allow-origin", origin.clone());
            }
        }),
        also: &[],
    },
    Twin {
        row: "SEC-11",
        broken: "that takes an order in a filter for true",
        by: Break::Asked(|_, asked| {
            if asked.uri.contains("=%27%20OR%20") && asked.path() == "/api/v1/audit" {
                asked.uri = asked.path().to_owned();
            }
        }),
        also: &[],
    },
    Twin {
        row: "SEC-12",
        broken: "that declares items as pages",
        by: Break::Answered(|asked, answer| {
            if asked.method == Method::GET && asked.path().contains("kith-verify-scripts") {
                answer.headers.insert("content-type", HeaderValue::from_static("text/html"));
            }
        }),
        also: &[],
    },
    Twin {
        row: "SEC-13",
        broken: "that takes a token out of a cookie",
        by: Break::Asked(|_, asked| {
            let cookie =
                asked.headers.get("cookie").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let token = cookie.split("; ").find_map(|pair| pair.strip_prefix("access_token="));
            if let Some(token) = token.map(str::to_owned) {
                asked.sign_in_as(&token);
            }
        }),
        also: &[],
    },
    Twin {
        row: "DOC-01",
        broken: "whose document is an older one",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/openapi.json" {
                answer.set_json("/paths/~1api~1v1~1me/get/summary", json!("What once was here."));
            }
        }),
        also: &[],
    },
    Twin {
        row: "DRV-13",
        broken: "that counts by what X-Forwarded-For says",
        by: Break::Asked(|_, asked| {
            if asked.headers.contains_key("x-forwarded-for") {
                asked.become_get("/api/v1/ping");
            }
        }),
        also: &[],
    },
];
