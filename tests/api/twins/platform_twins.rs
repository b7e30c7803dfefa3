//! Twins of the HTTP surface, security and configuration.

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use kith_platform::config::{Mode, Secret};
use kith_readiness::NO_ID;
use serde_json::{Value, json};

use super::{InjectedFault, Twin};

/// All twins of this file, by row.
pub const TWINS: &[Twin] = &[
    Twin {
        row: "API-01",
        fault_description: "that returns 410 where it documents 404",
        fault: InjectedFault::Response(|request, response| {
            if request.path().ends_with(NO_ID) && response.status == 404 {
                response.status = StatusCode::GONE;
            }
        }),
    },
    Twin {
        row: "API-02",
        fault_description: "whose OpenAPI document lacks an operation",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == "/openapi.json" {
                let mut document = response.json();
                document["paths"].as_object_mut().map(|paths| paths.remove("/api/v1/me/activity"));
                response.body = document.to_string().into();
            }
        }),
    },
    Twin {
        row: "API-03",
        fault_description: "whose /docs page shows another document",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == "/docs" {
                let page = String::from_utf8_lossy(&response.body);
                response.body =
                    page.replace("data-document=\"/openapi.json\"", "data-document=\"/livez\"").into();
            }
        }),
    },
    Twin {
        row: "API-04",
        fault_description: "whose lists treat a limit of 0 as 1",
        fault: InjectedFault::Request(|_, request| request.uri = request.uri.replace("limit=0", "limit=1")),
    },
    Twin {
        row: "API-05",
        fault_description: "whose problems reveal source locations",
        fault: InjectedFault::Response(|_, response| {
            if response.status == 409 {
                response.set_json("/detail", json!("refused at crates/accounts/src/accounts/rules.rs:31"));
            }
        }),
    },
    Twin {
        row: "API-07",
        fault_description: "whose responses lack Server-Timing",
        fault: InjectedFault::Response(|_, response| drop(response.headers.remove("server-timing"))),
    },
    Twin {
        row: "API-08",
        fault_description: "that accepts unknown fields",
        fault: InjectedFault::Request(|_, request| {
            if request.method == Method::POST {
                let mut body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                if body.as_object_mut().is_some_and(|fields| fields.remove("kith_verify").is_some()) {
                    request.body = body.to_string().into();
                }
            }
        }),
    },
    Twin {
        row: "API-09",
        fault_description: "behind a proxy that truncates long bodies",
        fault: InjectedFault::Request(|_, request| {
            if request.method == Method::POST && request.body.len() > 200_000 {
                request.body.truncate(200_000);
            }
        }),
    },
    Twin {
        row: "API-10",
        fault_description: "behind a proxy that removes Accept-Encoding",
        fault: InjectedFault::Request(|_, request| drop(request.headers.remove("accept-encoding"))),
    },
    Twin {
        row: "API-11",
        fault_description: "whose readiness names no dependency",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == "/readyz" {
                response.set_json("/checks", json!({}));
            }
        }),
    },
    Twin {
        row: "PRT-01",
        fault_description: "that acknowledges a rejection without storing it",
        fault: InjectedFault::Request(|_, request| {
            if request.path().ends_with("/reject") {
                let read =
                    request.path().trim_end_matches("/reject").replace("enhanced-partners", "v1/partners");
                request.become_get(&read);
            }
        }),
    },
    Twin {
        row: "SEC-02",
        fault_description: "without limits",
        fault: InjectedFault::Setting(|config| config.server.disable_limits = true),
    },
    Twin {
        row: "SEC-05",
        fault_description: "whose redirects lack a header",
        fault: InjectedFault::Response(|_, response| {
            if response.status == 308 {
                response.headers.remove("cross-origin-opener-policy");
            }
        }),
    },
    Twin {
        row: "SEC-06",
        fault_description: "whose redirects have a policy with unsafe-inline",
        fault: InjectedFault::Response(|_, response| {
            if response.status == 308 {
                let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                              frame-ancestors 'none'";
                response.headers.insert("content-security-policy", HeaderValue::from_static(policy));
            }
        }),
    },
    Twin {
        row: "SEC-07",
        fault_description: "whose redirects have no content security policy and can be framed",
        fault: InjectedFault::Response(|_, response| {
            if response.status == 308 {
                response.headers.remove("content-security-policy");
                response.headers.remove("x-frame-options");
            }
        }),
    },
    Twin {
        row: "SEC-08",
        fault_description: "that allows every origin",
        fault: InjectedFault::Response(|request, response| {
            if let Some(origin) = request.headers.get("origin") {
                response.headers.insert("access-control-allow-origin", origin.clone());
            }
        }),
    },
    Twin {
        row: "SEC-11",
        fault_description: "that treats an injected condition in a filter as true",
        fault: InjectedFault::Request(|_, request| {
            if request.uri.contains("=%27%20OR%20") && request.path() == "/api/v1/audit" {
                request.uri = request.path().to_owned();
            }
        }),
    },
    Twin {
        row: "SEC-12",
        fault_description: "that returns items as HTML",
        fault: InjectedFault::Response(|request, response| {
            if request.method == Method::GET && request.path().contains("kith-verify-scripts") {
                response.headers.insert("content-type", HeaderValue::from_static("text/html"));
            }
        }),
    },
    Twin {
        row: "SEC-13",
        fault_description: "that accepts a token in a cookie",
        fault: InjectedFault::Request(|_, request| {
            let cookie =
                request.headers.get("cookie").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let token = cookie.split("; ").find_map(|pair| pair.strip_prefix("access_token="));
            if let Some(token) = token.map(str::to_owned) {
                request.sign_in_as(&token);
            }
        }),
    },
    Twin {
        row: "DOC-01",
        fault_description: "whose OpenAPI document is outdated",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == "/openapi.json" {
                response.set_json("/paths/~1api~1v1~1me/get/summary", json!("Outdated summary."));
            }
        }),
    },
    Twin {
        row: "REL-07",
        fault_description: "whose failed jobs wait ten times as long",
        fault: InjectedFault::Request(|_, request| {
            if request.path() == "/api/v1/jobs" && request.method == Method::POST {
                let body = String::from_utf8_lossy(&request.body);
                request.body =
                    body.replace("_ms\":400", "_ms\":4000").replace("_ms\":600", "_ms\":6000").into();
            }
        }),
    },
    Twin {
        row: "DRV-13",
        fault_description: "that counts clients by an untrusted X-Forwarded-For",
        fault: InjectedFault::Request(|_, request| {
            if request.headers.contains_key("x-forwarded-for") {
                request.become_get("/api/v1/ping");
            }
        }),
    },
    Twin {
        row: "SEC-15",
        fault_description: "whose token secret is a well-known example",
        fault: InjectedFault::Setting(|config| {
            config.auth.jwt_secret = Secret::new("change-me-change-me-change-me-change-me");
        }),
    },
    Twin {
        row: "SEC-16",
        fault_description: "whose two token secrets are equal",
        fault: InjectedFault::Setting(|config| {
            config.auth.jwt_refresh_secret = config.auth.jwt_secret.clone()
        }),
    },
    Twin {
        row: "CFG-01",
        fault_description: "with an undocumented setting",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == FACTS {
                let mut server = response.json()["configuration"]["settings"]["server"].clone();
                server["undocumented"] = true.into();
                response.set_json("/configuration/settings/server", server);
            }
        }),
    },
    Twin {
        row: "CFG-02",
        fault_description: "in development mode",
        fault: InjectedFault::Setting(|config| config.server.mode = Mode::Development),
    },
    Twin {
        row: "CFG-03",
        fault_description: "that was started without a secret it requires",
        fault: InjectedFault::Setting(|config| config.auth.jwt_refresh_secret = Secret::new("")),
    },
    Twin {
        row: "CFG-06",
        fault_description: "on an unsupported database version",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == FACTS {
                response.set_json("/database/version", "3.8.11".into());
                response.set_json("/database/server/version_number", 140_009.into());
            }
        }),
    },
];

const FACTS: &str = "/api/v1/admin/facts";
