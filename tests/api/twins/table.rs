//! Twins of the platform and other modules.

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use kith_platform::config::{Mode, Secret};
use kith_readiness::NO_ID;
use kith_store::EngineKind;
use serde_json::{Value, json};

use super::{Break, Twin};

/// All twins of this file, by row.
pub const TWINS: &[Twin] = &[
    Twin {
        row: "API-01",
        broken: "that returns 410 where it documents 404",
        by: Break::Answered(|asked, answer| {
            if asked.path().ends_with(NO_ID) && answer.status == 404 {
                answer.status = StatusCode::GONE;
            }
        }),
    },
    Twin {
        row: "API-02",
        broken: "whose OpenAPI document lacks an operation",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/openapi.json" {
                let mut document = answer.json();
                document["paths"].as_object_mut().map(|paths| paths.remove("/api/v1/me/activity"));
                answer.body = document.to_string().into();
            }
        }),
    },
    Twin {
        row: "API-03",
        broken: "whose /docs page shows another document",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/docs" {
                let page = String::from_utf8_lossy(&answer.body);
                answer.body =
                    page.replace("data-document=\"/openapi.json\"", "data-document=\"/livez\"").into();
            }
        }),
    },
    Twin {
        row: "API-04",
        broken: "whose lists treat a limit of 0 as 1",
        by: Break::Asked(|_, asked| asked.uri = asked.uri.replace("limit=0", "limit=1")),
    },
    Twin {
        row: "API-05",
        broken: "whose problems reveal source locations",
        by: Break::Answered(|_, answer| {
            if answer.status == 409 {
                answer.set_json("/detail", json!("refused at crates/accounts/src/accounts/rules.rs:31"));
            }
        }),
    },
    Twin {
        row: "API-07",
        broken: "whose responses lack Server-Timing",
        by: Break::Answered(|_, answer| drop(answer.headers.remove("server-timing"))),
    },
    Twin {
        row: "API-08",
        broken: "that accepts unknown fields",
        by: Break::Asked(|_, asked| {
            if asked.method == Method::POST {
                let mut body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
                if body.as_object_mut().is_some_and(|fields| fields.remove("kith_verify").is_some()) {
                    asked.body = body.to_string().into();
                }
            }
        }),
    },
    Twin {
        row: "API-09",
        broken: "behind a proxy that truncates long bodies",
        by: Break::Asked(|_, asked| {
            if asked.method == Method::POST && asked.body.len() > 200_000 {
                asked.body.truncate(200_000);
            }
        }),
    },
    Twin {
        row: "API-10",
        broken: "behind a proxy that removes Accept-Encoding",
        by: Break::Asked(|_, asked| drop(asked.headers.remove("accept-encoding"))),
    },
    Twin {
        row: "API-11",
        broken: "whose readiness names no dependency",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/readyz" {
                answer.set_json("/checks", json!({}));
            }
        }),
    },
    Twin {
        row: "PRT-01",
        broken: "that acknowledges a rejection without storing it",
        by: Break::Asked(|_, asked| {
            if asked.path().ends_with("/reject") {
                let read =
                    asked.path().trim_end_matches("/reject").replace("enhanced-partners", "v1/partners");
                asked.become_get(&read);
            }
        }),
    },
    Twin {
        row: "SEC-02",
        broken: "without limits",
        by: Break::Setting(|config| config.server.disable_limits = true),
    },
    Twin {
        row: "SEC-05",
        broken: "whose redirects lack a header",
        by: Break::Answered(|_, answer| {
            if answer.status == 308 {
                answer.headers.remove("cross-origin-opener-policy");
            }
        }),
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
    },
    Twin {
        row: "SEC-07",
        broken: "whose redirects have no content security policy and can be framed",
        by: Break::Answered(|_, answer| {
            if answer.status == 308 {
                answer.headers.remove("content-security-policy");
                answer.headers.remove("x-frame-options");
            }
        }),
    },
    Twin {
        row: "SEC-08",
        broken: "that allows every origin",
        by: Break::Answered(|asked, answer| {
            if let Some(origin) = asked.headers.get("origin") {
                answer.headers.insert("access-control-allow-origin", origin.clone());
            }
        }),
    },
    Twin {
        row: "SEC-11",
        broken: "that treats an injected condition in a filter as true",
        by: Break::Asked(|_, asked| {
            if asked.uri.contains("=%27%20OR%20") && asked.path() == "/api/v1/audit" {
                asked.uri = asked.path().to_owned();
            }
        }),
    },
    Twin {
        row: "SEC-12",
        broken: "that returns items as HTML",
        by: Break::Answered(|asked, answer| {
            if asked.method == Method::GET && asked.path().contains("kith-verify-scripts") {
                answer.headers.insert("content-type", HeaderValue::from_static("text/html"));
            }
        }),
    },
    Twin {
        row: "SEC-13",
        broken: "that accepts a token in a cookie",
        by: Break::Asked(|_, asked| {
            let cookie =
                asked.headers.get("cookie").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let token = cookie.split("; ").find_map(|pair| pair.strip_prefix("access_token="));
            if let Some(token) = token.map(str::to_owned) {
                asked.sign_in_as(&token);
            }
        }),
    },
    Twin {
        row: "DOC-01",
        broken: "whose OpenAPI document is outdated",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/openapi.json" {
                answer.set_json("/paths/~1api~1v1~1me/get/summary", json!("Outdated summary."));
            }
        }),
    },
    Twin {
        row: "REL-07",
        broken: "whose failed jobs wait ten times as long",
        by: Break::Asked(|_, asked| {
            if asked.path() == "/api/v1/jobs" && asked.method == Method::POST {
                let body = String::from_utf8_lossy(&asked.body);
                asked.body =
                    body.replace("_ms\":400", "_ms\":4000").replace("_ms\":600", "_ms\":6000").into();
            }
        }),
    },
    Twin {
        row: "DRV-13",
        broken: "that counts clients by an untrusted X-Forwarded-For",
        by: Break::Asked(|_, asked| {
            if asked.headers.contains_key("x-forwarded-for") {
                asked.become_get("/api/v1/ping");
            }
        }),
    },
    Twin {
        row: "SEC-15",
        broken: "whose token secret is a well-known example",
        by: Break::Setting(|config| {
            config.auth.jwt_secret = Secret::new("change-me-change-me-change-me-change-me");
        }),
    },
    Twin {
        row: "SEC-16",
        broken: "whose two token secrets are equal",
        by: Break::Setting(|config| config.auth.jwt_refresh_secret = config.auth.jwt_secret.clone()),
    },
    Twin {
        row: "CFG-01",
        broken: "with an undocumented setting",
        by: Break::Answered(|asked, answer| {
            if asked.path() == FACTS {
                let mut server = answer.json()["configuration"]["settings"]["server"].clone();
                server["undocumented"] = true.into();
                answer.set_json("/configuration/settings/server", server);
            }
        }),
    },
    Twin {
        row: "CFG-02",
        broken: "in development mode",
        by: Break::Setting(|config| config.server.mode = Mode::Development),
    },
    Twin {
        row: "CFG-03",
        broken: "that was started without a secret it requires",
        by: Break::Setting(|config| config.auth.jwt_refresh_secret = Secret::new("")),
    },
    Twin {
        row: "CFG-06",
        broken: "on an unsupported database version",
        by: Break::Answered(|asked, answer| {
            if asked.path() == FACTS {
                answer.set_json("/database/version", "3.8.11".into());
                answer.set_json("/database/server/version_number", 140_009.into());
            }
        }),
    },
    Twin {
        row: "DAT-01",
        broken: "with a manually added column",
        by: Break::Database(|_| &["ALTER TABLE bonds ADD COLUMN by_hand TEXT"]),
    },
    Twin {
        row: "DAT-03",
        broken: "without the index of incoming requests",
        by: Break::Database(|_| &["DROP INDEX partner_requests_incoming"]),
    },
    Twin {
        row: "DAT-04",
        broken: "with a database trigger that slows profile changes",
        by: Break::Database(slow_profiles),
    },
    Twin {
        row: "DAT-06",
        broken: "whose queued database work never runs",
        by: Break::Answered(|asked, answer| {
            if asked.path() == METRICS {
                answer.change_text(|text| text.replace("\nkith_store_queued 0\n", "\nkith_store_queued 3\n"));
            }
        }),
    },
    Twin {
        row: "JOB-01",
        broken: "that claims the lowest priority first",
        by: Break::Answered(|asked, answer| {
            if asked.path().ends_with("/claim") {
                let mut body = answer.json();
                if let Some(jobs) = body["jobs"].as_array_mut() {
                    jobs.reverse();
                }
                answer.body = body.to_string().into();
            }
        }),
    },
    Twin {
        row: "JOB-02",
        broken: "whose maintenance is partly paused",
        by: Break::Database(|_| {
            &["UPDATE job_schedules SET paused = TRUE WHERE name = 'bonds.archive-ended'"]
        }),
    },
    Twin {
        row: "JOB-03",
        broken: "that does not count completed jobs",
        by: Break::Answered(|asked, answer| {
            if asked.path() == METRICS {
                answer
                    .change_text(|text| with_zero(text, "kith_jobs_attempts_total", "outcome=\"completed\""));
            }
        }),
    },
    Twin {
        row: "OBS-05",
        broken: "whose metrics are public",
        by: Break::Setting(|config| {
            config.server.metrics_addresses =
                ["0.0.0.0/0", "::/0"].map(|all| all.parse().expect("a network")).to_vec();
        }),
    },
    Twin {
        row: "OBS-08",
        broken: "that does not count rejections",
        by: Break::Answered(|asked, answer| {
            if asked.path() == METRICS {
                answer.change_text(|text| with_zero(text, "kith_http_requests_total", "status=\"4xx\""));
            }
        }),
    },
    Twin {
        row: "OBS-09",
        broken: "that does not count commits",
        by: Break::Answered(|asked, answer| {
            if asked.path() == METRICS {
                answer.change_text(|text| with_zero(text, "kith_store_commits_total", ""));
            }
        }),
    },
    Twin {
        row: "OBS-11",
        broken: "that reports a tenth of its memory",
        by: Break::Answered(|asked, answer| {
            if asked.path() == METRICS {
                answer.change_text(|text| with_tenth(text, "kith_resident_memory_bytes"));
            }
        }),
    },
    Twin {
        row: "DRV-14",
        broken: "whose configuration lists the whole internet as allowed internal networks",
        by: Break::Setting(|config| {
            let networks = ["0.0.0.0/0", "::/0"].map(|network| network.parse().expect("a network"));
            config.outbound.allowed_networks = networks.to_vec();
        }),
    },
    Twin {
        row: "DRV-15",
        broken: "that shows a password among its settings",
        by: Break::Answered(|asked, answer| {
            if asked.path() == FACTS {
                answer.set_json("/configuration/settings/database/password", "hunter2".into());
            }
        }),
    },
    Twin {
        row: "DRV-22",
        broken: "whose clock is an hour off",
        by: Break::Answered(|asked, answer| {
            if asked.path() == FACTS {
                let hour_ago = kith_kernel::Clock::now(&kith_kernel::SystemClock) - kith_kernel::hours(1);
                answer.set_json("/clock/kith", hour_ago.as_millis().into());
            }
        }),
    },
    Twin { row: "DRV-31", broken: "whose servers were killed repeatedly", by: Break::Database(cut_short) },
];

const FACTS: &str = "/api/v1/admin/facts";
const METRICS: &str = "/api/metrics";

fn slow_profiles(kind: EngineKind) -> &'static [&'static str] {
    match kind {
        EngineKind::Sqlite => &[
            "CREATE TRIGGER slow AFTER UPDATE ON users BEGIN
                 SELECT SUM(LENGTH(HEX(RANDOMBLOB(500)))) FROM sqlite_schema a, sqlite_schema b, sqlite_schema c;
             END",
        ],
        EngineKind::Postgres => &[
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN PERFORM pg_sleep(0.15); RETURN NEW; END $$",
            "CREATE TRIGGER slow AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION slow()",
        ],
    }
}

fn cut_short(kind: EngineKind) -> &'static [&'static str] {
    match kind {
        EngineKind::Sqlite => &["INSERT INTO server_starts (id, place, started_at, cut_short)
             SELECT 'cut ' || t.name, 'there', unixepoch() * 1000, 1 FROM sqlite_schema t LIMIT 3"],
        EngineKind::Postgres => &["INSERT INTO server_starts (id, place, started_at, cut_short)
             SELECT 'cut ' || n, 'there', CAST(extract(epoch FROM now()) * 1000 AS BIGINT), TRUE
             FROM generate_series(1, 3) AS n"],
    }
}

/// Applies `change` to the values of all series whose name begins with `name` and whose labels contain
/// `label`.
fn with_values(text: &str, name: &str, label: &str, change: impl Fn(f64) -> f64) -> String {
    let line = |line: &str| match line.rsplit_once(' ') {
        Some((series, value)) if series.starts_with(name) && series.contains(label) => {
            format!("{series} {}\n", change(value.parse().expect("a number")))
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn with_zero(text: &str, name: &str, label: &str) -> String {
    with_values(text, name, label, |_| 0.0)
}

fn with_tenth(text: &str, name: &str) -> String {
    with_values(text, name, "", |value| value / 10.0)
}
