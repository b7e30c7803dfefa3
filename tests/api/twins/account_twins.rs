//! Twins for rows about accounts, partners, tokens, audit entries and events.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use kith_bonds::bonds::BondSettings;
use kith_store::EngineKind;
use serde_json::{Value, json};

use super::proxy::{ObservedTraffic, ProxiedRequest, ProxiedResponse};
use super::{InjectedFault, Twin};

const REQUESTS: &str = "/api/v1/partners/requests/";

/// All twins of this file, by row.
pub const TWINS: &[Twin] = &[
    Twin {
        row: "ACC-02",
        fault_description: "that reveals that an address is unknown",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == "/api/v1/auth/login" && request.body.starts_with(b"{\"email\":\"nobody-") {
                response.set_json("/detail", json!("No account has this ID or e-mail address."));
            }
        }),
    },
    Twin {
        row: "ACC-03",
        fault_description: "with a protected list that requires no sign-in",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == "/api/v1/collections" && response.status == StatusCode::UNAUTHORIZED {
                response.status = StatusCode::OK;
                response.body = json!({ "items": [], "next_cursor": null }).to_string().into();
            }
        }),
    },
    Twin {
        row: "ACC-04",
        fault_description: "whose published key is not the one it signs with",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == "/.well-known/jwks.json" {
                response.set_json("/keys/0/x", json!(URL_SAFE_NO_PAD.encode([7; 32])));
            }
        }),
    },
    Twin {
        row: "ACC-06",
        fault_description: "that hashes passwords with one pass instead of two",
        fault: InjectedFault::Setting(|config| config.auth.password_iterations = 1),
    },
    Twin {
        row: "ACC-07",
        fault_description: "whose database forgets failed log-ins",
        fault: InjectedFault::Database(|kind| match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER forgets AFTER INSERT ON login_failures
                BEGIN DELETE FROM login_failures WHERE subject = NEW.subject; END"],
            EngineKind::Postgres => &[
                "CREATE FUNCTION forgets() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
                "CREATE TRIGGER forgets BEFORE INSERT OR UPDATE ON login_failures
                 FOR EACH ROW EXECUTE FUNCTION forgets()",
            ],
        }),
    },
    Twin {
        row: "ACC-08",
        fault_description: "whose access tokens are valid for ten hours",
        fault: InjectedFault::Setting(|config| config.auth.access_token_minutes = 600),
    },
    Twin {
        row: "ACC-09",
        fault_description: "that registers every user as a moderator",
        fault: InjectedFault::Database(|kind| match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER promotes AFTER INSERT ON users
                BEGIN UPDATE users SET role = 'moderator' WHERE id = NEW.id; END"],
            EngineKind::Postgres => &[
                "CREATE FUNCTION promotes() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN NEW.role := ''moderator''; RETURN NEW; END'",
                "CREATE TRIGGER promotes BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION promotes()",
            ],
        }),
    },
    Twin {
        row: "ACC-10",
        fault_description: "that shows a request to any user who knows its id",
        fault: InjectedFault::Request(|traffic, request| {
            if let (&Method::GET, Some((from, _))) = (&request.method, request_of(traffic, request)) {
                sign_in_as(traffic, request, &from);
            }
        }),
    },
    Twin {
        row: "ACC-13",
        fault_description: "whose API keys can read the audit log without the scope",
        fault: InjectedFault::Database(|kind| match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER widens AFTER INSERT ON api_keys
                BEGIN UPDATE api_keys SET scopes = 'audit.read facts.read' WHERE id = NEW.id; END"],
            EngineKind::Postgres => &[
                "CREATE FUNCTION widens() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN NEW.scopes := ''audit.read facts.read''; RETURN NEW; END'",
                "CREATE TRIGGER widens BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION widens()",
            ],
        }),
    },
    Twin {
        row: "PRT-02",
        fault_description: "that lets any user accept a request",
        fault: InjectedFault::Request(|traffic, request| {
            if request.path().ends_with("/accept")
                && let Some((_, to)) = request_of(traffic, request)
            {
                sign_in_as(traffic, request, &to);
            }
        }),
    },
    Twin {
        row: "PRT-03",
        fault_description: "whose slots have no key",
        fault: InjectedFault::Database(|kind| match kind {
            EngineKind::Sqlite => &[
                "DROP TABLE bond_slots",
                "CREATE TABLE bond_slots (user_id TEXT NOT NULL, bond_id TEXT NOT NULL) STRICT",
            ],
            EngineKind::Postgres => &["ALTER TABLE bond_slots DROP CONSTRAINT bond_slots_pkey"],
        }),
    },
    Twin {
        row: "PRT-04",
        fault_description: "whose database archives a bond as soon as it ends",
        fault: InjectedFault::Database(|kind| match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER archives AFTER UPDATE OF ended_at ON bonds
                WHEN NEW.ended_at IS NOT NULL
                BEGIN UPDATE bonds SET archived_at = NEW.ended_at WHERE id = NEW.id; END"],
            EngineKind::Postgres => &[
                "CREATE FUNCTION archives() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN NEW.archived_at := NEW.ended_at; RETURN NEW; END'",
                "CREATE TRIGGER archives BEFORE UPDATE OF ended_at ON bonds
                 FOR EACH ROW EXECUTE FUNCTION archives()",
            ],
        }),
    },
    Twin {
        row: "PRT-05",
        fault_description: "whose database supersedes pending requests at a breakup",
        fault: InjectedFault::Database(|kind| {
            match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER drops AFTER DELETE ON bond_slots
                BEGIN UPDATE partner_requests SET status = 'superseded', sender_visible_status = 'superseded'
                      WHERE to_user = OLD.user_id AND status = 'pending'; END"],
            EngineKind::Postgres => &[
                "CREATE FUNCTION drops() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN UPDATE partner_requests SET status = ''superseded'', sender_visible_status = ''superseded''
                           WHERE to_user = OLD.user_id AND status = ''pending''; RETURN OLD; END'",
                "CREATE TRIGGER drops AFTER DELETE ON bond_slots FOR EACH ROW EXECUTE FUNCTION drops()",
            ],
        }
        }),
    },
    Twin {
        row: "PRT-06",
        fault_description: "that shows the reason of a breakup to the other user",
        fault: InjectedFault::Database(|kind| match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER turns AFTER INSERT ON breakups
                BEGIN UPDATE breakups SET ended_by = (
                        SELECT CASE WHEN b.user_a = NEW.ended_by THEN b.user_b ELSE b.user_a END
                        FROM bonds b WHERE b.id = NEW.bond_id)
                      WHERE bond_id = NEW.bond_id AND restorations = NEW.restorations; END"],
            EngineKind::Postgres => &[
                "CREATE FUNCTION turns() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN NEW.ended_by := (
                       SELECT CASE WHEN b.user_a = NEW.ended_by THEN b.user_b ELSE b.user_a END
                       FROM bonds b WHERE b.id = NEW.bond_id); RETURN NEW; END'",
                "CREATE TRIGGER turns BEFORE INSERT ON breakups FOR EACH ROW EXECUTE FUNCTION turns()",
            ],
        }),
    },
    Twin {
        row: "PRT-07",
        fault_description: "that loses the position of every seventh event",
        fault: InjectedFault::Database(|kind| match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER loses AFTER INSERT ON outbox_positions
                WHEN NEW.position % 7 = 0
                BEGIN DELETE FROM outbox_positions WHERE position = NEW.position; END"],
            // On PostgreSQL an event that has lost its position gets another one.
            EngineKind::Postgres => &[],
        }),
    },
    Twin {
        row: "PRT-09",
        fault_description: "that shows a nickname to the user it names",
        fault: InjectedFault::Database(|kind| match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER shows AFTER INSERT ON nicknames
                BEGIN UPDATE users SET nickname = NEW.nickname WHERE id = NEW.user_id; END"],
            EngineKind::Postgres => &[
                "CREATE FUNCTION shows() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN UPDATE users SET nickname = NEW.nickname WHERE id = NEW.user_id; RETURN NEW; END'",
                "CREATE TRIGGER shows AFTER INSERT ON nicknames FOR EACH ROW EXECUTE FUNCTION shows()",
            ],
        }),
    },
    Twin {
        row: "DRV-01",
        fault_description: "whose grace period for a used refresh token never ends",
        fault: InjectedFault::Database(|kind| match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER forgives AFTER UPDATE OF generation ON sessions
                BEGIN UPDATE sessions SET refreshed_at = NEW.refreshed_at + 3600000 WHERE id = NEW.id; END"],
            EngineKind::Postgres => &[
                "CREATE FUNCTION forgives() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN NEW.refreshed_at := NEW.refreshed_at + 3600000; RETURN NEW; END'",
                "CREATE TRIGGER forgives BEFORE UPDATE OF generation ON sessions
                 FOR EACH ROW EXECUTE FUNCTION forgives()",
            ],
        }),
    },
    Twin {
        row: "DRV-03",
        fault_description: "behind a proxy that removes idempotency keys",
        fault: InjectedFault::Request(|_, request| {
            request.headers.remove(HeaderName::from_static("idempotency-key"));
        }),
    },
    Twin {
        row: "SEC-01",
        fault_description: "that accepts an unsigned token",
        fault: InjectedFault::Request(|traffic, request| {
            let Some(token) = request.token().map(str::to_owned) else { return };
            let part = |n| {
                let part = token.split('.').nth(n).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
                part.and_then(|part| serde_json::from_slice::<Value>(&part).ok()).unwrap_or_default()
            };
            if token.ends_with('.') && part(0)["alg"] == "none" {
                let sub = part(1)["sub"].as_str().unwrap_or_default().to_owned();
                sign_in_as(traffic, request, &sub);
            }
        }),
    },
    Twin {
        row: "SEC-03",
        fault_description: "whose limits are disabled",
        fault: InjectedFault::Setting(|config| config.server.disable_limits = true),
    },
    Twin {
        row: "SEC-24",
        fault_description: "whose audit log has an altered entry",
        fault: InjectedFault::Database(|kind| {
            match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER tampers AFTER INSERT ON audit_seals WHEN NEW.n % 8 = 0
                BEGIN UPDATE audit_entries SET actor = 'system:else' WHERE id = NEW.entry_id; END"],
            EngineKind::Postgres => &[
                "CREATE FUNCTION tampers() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN UPDATE audit_entries SET actor = ''system:else'' WHERE id = NEW.entry_id; RETURN NEW; END'",
                "CREATE TRIGGER tampers AFTER INSERT ON audit_seals FOR EACH ROW WHEN (NEW.n % 8 = 0)
                 EXECUTE FUNCTION tampers()",
            ],
        }
        }),
    },
    Twin {
        row: "SEC-25",
        fault_description: "without a rate limit on partner lists",
        fault: InjectedFault::Setting(|config| {
            config.change_section(|partners: &mut BondSettings| partners.lists_per_minute = 0);
        }),
    },
    Twin {
        row: "API-06",
        fault_description: "behind a proxy that replaces request ids",
        fault: InjectedFault::Response(|_, response| {
            let request_id = HeaderValue::from_static("set-by-the-proxy");
            response.headers.insert(HeaderName::from_static("x-request-id"), request_id);
        }),
    },
    Twin {
        row: "API-12",
        fault_description: "that reads an item instead of deleting it",
        fault: InjectedFault::Request(|_, request| {
            if request.method == Method::DELETE && request.path().starts_with("/api/v1/spaces/") {
                let path = request.path().to_owned();
                request.become_get(&path);
            }
        }),
    },
    Twin {
        row: "CAC-04",
        fault_description: "behind a proxy that makes every response publicly cacheable",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == "/api/v1/me" {
                response.headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
            }
        }),
    },
    Twin {
        row: "OBS-12",
        fault_description: "that does not count partner requests",
        fault: InjectedFault::Response(|request, response| {
            if request.path() == "/api/metrics" {
                remove_lines(response, "partner_request.created");
            }
        }),
    },
];

/// Returns the sender and the receiver of the partner request whose id is in the path.
fn request_of(traffic: &ObservedTraffic, request: &ProxiedRequest) -> Option<(String, String)> {
    let id = request.path().strip_prefix(REQUESTS)?.split('/').next()?;
    traffic.requests.get(id).cloned()
}

/// Sends the request as `user`, if the caller is signed in.
fn sign_in_as(traffic: &ObservedTraffic, request: &mut ProxiedRequest, user: &str) {
    if let (Some(token), Some(_)) = (traffic.tokens.get(user), request.token()) {
        request.sign_in_as(token);
    }
}

/// Removes every line that contains `pattern`.
fn remove_lines(response: &mut ProxiedResponse, pattern: &str) {
    let text = String::from_utf8_lossy(&response.body).into_owned();
    let kept: String = text.split_inclusive('\n').filter(|line| !line.contains(pattern)).collect();
    response.body = kept.into();
}
