//! Twins of the database, jobs and observability.

use kith_store::EngineKind;

use super::{InjectedFault, Twin};

/// All twins of this file, by row.
pub const TWINS: &[Twin] = &[
    Twin {
        row: "DAT-01",
        fault_description: "with a manually added column",
        fault: InjectedFault::Database(|_| &["ALTER TABLE bonds ADD COLUMN by_hand TEXT"]),
    },
    Twin {
        row: "DAT-03",
        fault_description: "without the index of incoming requests",
        fault: InjectedFault::Database(|_| &["DROP INDEX partner_requests_incoming"]),
    },
    Twin {
        row: "DAT-04",
        fault_description: "with a database trigger that slows profile changes",
        fault: InjectedFault::Database(slow_profiles),
    },
    Twin {
        row: "DAT-06",
        fault_description: "whose queued database work never runs",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == METRICS {
                response
                    .change_text(|text| text.replace("\nkith_store_queued 0\n", "\nkith_store_queued 3\n"));
            }
        }),
    },
    Twin {
        row: "JOB-01",
        fault_description: "that claims the lowest priority first",
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
        fault_description: "whose maintenance is partly paused",
        fault: InjectedFault::Database(|_| {
            &["UPDATE job_schedules SET paused = TRUE WHERE name = 'bonds.archive-ended'"]
        }),
    },
    Twin {
        row: "JOB-03",
        fault_description: "that does not count completed jobs",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == METRICS {
                response
                    .change_text(|text| with_zero(text, "kith_jobs_attempts_total", "outcome=\"completed\""));
            }
        }),
    },
    Twin {
        row: "OBS-05",
        fault_description: "whose metrics are public",
        fault: InjectedFault::Setting(|config| {
            config.server.metrics_addresses =
                ["0.0.0.0/0", "::/0"].map(|all| all.parse().expect("a network")).to_vec();
        }),
    },
    Twin {
        row: "OBS-08",
        fault_description: "that does not count rejections",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == METRICS {
                response.change_text(|text| with_zero(text, "kith_http_requests_total", "status=\"4xx\""));
            }
        }),
    },
    Twin {
        row: "OBS-09",
        fault_description: "that does not count commits",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == METRICS {
                response.change_text(|text| with_zero(text, "kith_store_commits_total", ""));
            }
        }),
    },
    Twin {
        row: "OBS-11",
        fault_description: "that reports a tenth of its memory",
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
        fault_description: "whose servers were killed repeatedly",
        fault: InjectedFault::Database(unclean_stops),
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

fn unclean_stops(kind: EngineKind) -> &'static [&'static str] {
    match kind {
        EngineKind::Sqlite => &["INSERT INTO server_starts (id, address, started_at, is_unclean)
             SELECT 'cut ' || t.name, 'there', unixepoch() * 1000, 1 FROM sqlite_schema t LIMIT 3"],
        EngineKind::Postgres => &["INSERT INTO server_starts (id, address, started_at, is_unclean)
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
