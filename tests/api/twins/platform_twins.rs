//! Twins of the platform and other modules.

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use kith_platform::config::{Mode, Secret};
use kith_readiness::NO_ID;
use kith_store::EngineKind;
use serde_json::{Value, json};

use super::{InjectedFault, Twin};

/// All twins of this file, by row.
pub const TWINS: &[Twin] = &[
    Twin {
        row: "API-01",
        fault_description: "that answers 410 where it declares 404",
        fault: InjectedFault::Response(|request, response| {
            if request.path().ends_with(NO_ID) && response.status == 404 {
                response.status = StatusCode::GONE;
            }
        }),
    },
    Twin {
        row: "API-02",
        fault_description: "whose document leaves an operation out",
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
        fault_description: "whose page shows another document",
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
        fault_description: "whose lists take a limit of 0 for 1",
        fault: InjectedFault::Request(|_, request| request.uri = request.uri.replace("limit=0", "limit=1")),
    },
    Twin {
        row: "API-05",
        fault_description: "that tells where in its code it refused",
        fault: InjectedFault::Response(|_, response| {
            if response.status == 409 {
                response.set_json("/detail", json!("refused at crates/accounts/src/accounts/rules.rs:31"));
            }
        }),
    },
    Twin {
        row: "API-07",
        fault_description: "whose answers do not say how long they took",
        fault: InjectedFault::Response(|_, response| drop(response.headers.remove("server-timing"))),
    },
    Twin {
        row: "API-08",
        fault_description: "that lets unknown fields pass",
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
        fault_description: "before which a proxy cuts long bodies off",
        fault: InjectedFault::Request(|_, request| {
            if request.method == Method::POST && request.body.len() > 200_000 {
                request.body.truncate(200_000);
            }
        }),
    },
    Twin {
        row: "API-10",
        fault_description: "before which a proxy takes Accept-Encoding away",
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
        fault_description: "that acknowledges a rejection and does not make it",
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
        fault_description: "whose redirects have no policy and may be framed",
        fault: InjectedFault::Response(|_, response| {
            if response.status == 308 {
                response.headers.remove("content-security-policy");
                response.headers.remove("x-frame-options");
            }
        }),
    },
    Twin {
        row: "SEC-08",
        fault_description: "that lets every origin read",
        fault: InjectedFault::Response(|request, response| {
            if let Some(origin) = request.headers.get("origin") {
                response.headers.insert("access-control-allow-origin", origin.clone());
            }
        }),
    },
    Twin {
        row: "SEC-11",
        fault_description: "that takes an order in a filter for true",
        fault: InjectedFault::Request(|_, request| {
            if request.uri.contains("=%27%20OR%20") && request.path() == "/api/v1/audit" {
                request.uri = request.path().to_owned();
            }
        }),
    },
    Twin {
        row: "SEC-12",
        fault_description: "that declares items as pages",
        fault: InjectedFault::Response(|request, response| {
            if request.method == Method::GET && request.path().contains("kith-verify-scripts") {
                response.headers.insert("content-type", HeaderValue::from_static("text/html"));
            }
        }),
    },
    Twin {
        row: "SEC-13",
        fault_description: "that takes a token out of a cookie",
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
        fault_description: "whose document is an older one",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == "/openapi.json" {
                response.set_json("/paths/~1api~1v1~1me/get/summary", json!("What once was here."));
            }
        }),
    },
    Twin {
        row: "REL-07",
        fault_description: "that waits ten times as long",
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
        fault_description: "that counts by what X-Forwarded-For says",
        fault: InjectedFault::Request(|_, request| {
            if request.headers.contains_key("x-forwarded-for") {
                request.become_get("/api/v1/ping");
            }
        }),
    },
    Twin {
        row: "SEC-15",
        fault_description: "whose token secret stands in tutorials",
        fault: InjectedFault::Setting(|config| {
            config.auth.jwt_secret = Secret::new("change-me-change-me-change-me-change-me");
        }),
    },
    Twin {
        row: "SEC-16",
        fault_description: "whose two token secrets are one",
        fault: InjectedFault::Setting(|config| {
            config.auth.jwt_refresh_secret = config.auth.jwt_secret.clone()
        }),
    },
    Twin {
        row: "CFG-01",
        fault_description: "that has a setting nobody documented",
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
        fault_description: "on a database that nobody mends any more",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == FACTS {
                response.set_json("/database/version", "3.8.11".into());
                response.set_json("/database/server/version_number", 140_009.into());
            }
        }),
    },
    Twin {
        row: "DAT-01",
        fault_description: "whose table got a column by hand",
        fault: InjectedFault::Database(|_| &["ALTER TABLE bonds ADD COLUMN by_hand TEXT"]),
    },
    Twin {
        row: "DAT-03",
        fault_description: "without the index of incoming requests",
        fault: InjectedFault::Database(|_| &["DROP INDEX partner_requests_incoming"]),
    },
    Twin {
        row: "DAT-04",
        fault_description: "where a trigger makes each change of a profile slow",
        fault: InjectedFault::Database(slow_profiles),
    },
    Twin {
        row: "DAT-06",
        fault_description: "where work waits for the database and never gets its turn",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == METRICS {
                response
                    .change_text(|text| text.replace("\nkith_store_queued 0\n", "\nkith_store_queued 3\n"));
            }
        }),
    },
    Twin {
        row: "JOB-01",
        fault_description: "that hands out the least urgent first",
        fault: InjectedFault::Response(|request, response| {
            if request.path().ends_with("/claim") {
                let mut body = response.json();
                if let Some(jobs) = body["jobs"].as_array_mut() {
                    jobs.reverse();
                }
                response.body = body.to_string().into();
            }
        }),
    },
    Twin {
        row: "JOB-02",
        fault_description: "of whose upkeep one part is paused",
        fault: InjectedFault::Database(|_| {
            &["UPDATE job_schedules SET paused = TRUE WHERE name = 'bonds.archive-ended'"]
        }),
    },
    Twin {
        row: "JOB-03",
        fault_description: "that does not count what was completed",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == METRICS {
                response
                    .change_text(|text| with_zero(text, "kith_jobs_attempts_total", "outcome=\"completed\""));
            }
        }),
    },
    Twin {
        row: "OBS-05",
        fault_description: "that shows its metrics to everybody",
        fault: InjectedFault::Setting(|config| {
            config.server.metrics_addresses =
                ["0.0.0.0/0", "::/0"].map(|all| all.parse().expect("a network")).to_vec();
        }),
    },
    Twin {
        row: "OBS-08",
        fault_description: "that does not count refusals",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == METRICS {
                response.change_text(|text| with_zero(text, "kith_http_requests_total", "status=\"4xx\""));
            }
        }),
    },
    Twin {
        row: "OBS-09",
        fault_description: "that does not count what it commits",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == METRICS {
                response.change_text(|text| with_zero(text, "kith_store_commits_total", ""));
            }
        }),
    },
    Twin {
        row: "OBS-11",
        fault_description: "that tells less memory than it has",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == METRICS {
                response.change_text(|text| with_tenth(text, "kith_resident_memory_bytes"));
            }
        }),
    },
    Twin {
        row: "DRV-14",
        fault_description: "whose configuration lists the whole internet as allowed internal networks",
        fault: InjectedFault::Setting(|config| {
            let networks = ["0.0.0.0/0", "::/0"].map(|network| network.parse().expect("a network"));
            config.outbound.allowed_networks = networks.to_vec();
        }),
    },
    Twin {
        row: "DRV-15",
        fault_description: "that shows a password among its settings",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == FACTS {
                response.set_json("/configuration/settings/database/password", "hunter2".into());
            }
        }),
    },
    Twin {
        row: "DRV-22",
        fault_description: "whose clock is an hour off",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == FACTS {
                let hour_ago = kith_kernel::Clock::now(&kith_kernel::SystemClock) - kith_kernel::hours(1);
                response.set_json("/clock/kith", hour_ago.as_millis().into());
            }
        }),
    },
    Twin {
        row: "DRV-31",
        fault_description: "whose servers were cut short again and again",
        fault: InjectedFault::Database(cut_short),
    },
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
