//! Twins for rows about accounts, partners, tokens and their traces.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use kith_store::EngineKind;
use serde_json::{Value, json};

use super::proxy::{Answered, Asked, Memory};
use super::{Break, Twin};

const REQUESTS: &str = "/api/v1/partners/requests/";

/// All twins of this file, by row.
pub const TWINS: &[Twin] = &[
    Twin {
        row: "ACC-02",
        broken: "that reveals that an address is unknown",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/api/v1/auth/login" && asked.body.starts_with(b"{\"email\":\"nobody-") {
                answer.set_json("/detail", json!("No account has this ID or e-mail address."));
            }
        }),
    },
    Twin {
        row: "ACC-03",
        broken: "with a protected list that requires no sign-in",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/api/v1/collections" && answer.status == StatusCode::UNAUTHORIZED {
                answer.status = StatusCode::OK;
                answer.body = json!({ "items": [], "next_cursor": null }).to_string().into();
            }
        }),
    },
    Twin {
        row: "ACC-04",
        broken: "whose published key is not the one it signs with",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/.well-known/jwks.json" {
                answer.set_json("/keys/0/x", json!(URL_SAFE_NO_PAD.encode([7; 32])));
            }
        }),
    },
    Twin {
        row: "ACC-06",
        broken: "that hashes passwords with one pass instead of two",
        by: Break::Setting(|config| config.auth.password_iterations = 1),
    },
    Twin {
        row: "ACC-07",
        broken: "whose database forgets failed log-ins",
        by: Break::Database(|kind| match kind {
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
        broken: "whose access tokens are valid for ten hours",
        by: Break::Setting(|config| config.auth.access_token_minutes = 600),
    },
    Twin {
        row: "ACC-09",
        broken: "that registers every user as a moderator",
        by: Break::Database(|kind| match kind {
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
        broken: "that shows a request to any user who knows its id",
        by: Break::Asked(|memory, asked| {
            if let (&Method::GET, Some((from, _))) = (&asked.method, request_of(memory, asked)) {
                sign_in_as(memory, asked, &from);
            }
        }),
    },
    Twin {
        row: "ACC-13",
        broken: "whose API keys can read the audit log without the scope",
        by: Break::Database(|kind| match kind {
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
        broken: "that lets any user accept a request",
        by: Break::Asked(|memory, asked| {
            if asked.path().ends_with("/accept")
                && let Some((_, to)) = request_of(memory, asked)
            {
                sign_in_as(memory, asked, &to);
            }
        }),
    },
    Twin {
        row: "PRT-03",
        broken: "whose slots have no key",
        by: Break::Database(|kind| match kind {
            EngineKind::Sqlite => &[
                "DROP TABLE bond_slots",
                "CREATE TABLE bond_slots (user_id TEXT NOT NULL, bond_id TEXT NOT NULL) STRICT",
            ],
            EngineKind::Postgres => &["ALTER TABLE bond_slots DROP CONSTRAINT bond_slots_pkey"],
        }),
    },
    Twin {
        row: "PRT-04",
        broken: "whose database archives a bond as soon as it ends",
        by: Break::Database(|kind| match kind {
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
        broken: "whose database supersedes pending requests at a breakup",
        by: Break::Database(|kind| match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER drops AFTER DELETE ON bond_slots
                BEGIN UPDATE partner_requests SET status = 'superseded', told = 'superseded'
                      WHERE to_user = OLD.user_id AND status = 'pending'; END"],
            EngineKind::Postgres => &[
                "CREATE FUNCTION drops() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN UPDATE partner_requests SET status = ''superseded'', told = ''superseded''
                           WHERE to_user = OLD.user_id AND status = ''pending''; RETURN OLD; END'",
                "CREATE TRIGGER drops AFTER DELETE ON bond_slots FOR EACH ROW EXECUTE FUNCTION drops()",
            ],
        }),
    },
    Twin {
        row: "PRT-06",
        broken: "that shows the reason of a breakup to the other user",
        by: Break::Database(|kind| match kind {
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
        broken: "that loses the position of every seventh event",
        by: Break::Database(|kind| match kind {
            EngineKind::Sqlite => &["CREATE TRIGGER loses AFTER INSERT ON outbox_positions
                WHEN NEW.position % 7 = 0
                BEGIN DELETE FROM outbox_positions WHERE position = NEW.position; END"],
            // On PostgreSQL an event that has lost its position gets another one.
            EngineKind::Postgres => &[],
        }),
    },
    Twin {
        row: "PRT-09",
        broken: "that shows a nickname to the user it names",
        by: Break::Database(|kind| match kind {
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
        broken: "whose grace period for a used refresh token never ends",
        by: Break::Database(|kind| match kind {
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
        broken: "behind a proxy that removes idempotency keys",
        by: Break::Asked(|_, asked| {
            asked.headers.remove(HeaderName::from_static("idempotency-key"));
        }),
    },
    Twin {
        row: "SEC-01",
        broken: "that accepts an unsigned token",
        by: Break::Asked(|memory, asked| {
            let Some(token) = asked.token().map(str::to_owned) else { return };
            let part = |n| {
                let part = token.split('.').nth(n).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
                part.and_then(|part| serde_json::from_slice::<Value>(&part).ok()).unwrap_or_default()
            };
            if token.ends_with('.') && part(0)["alg"] == "none" {
                let sub = part(1)["sub"].as_str().unwrap_or_default().to_owned();
                sign_in_as(memory, asked, &sub);
            }
        }),
    },
    Twin {
        row: "SEC-03",
        broken: "whose limits are disabled",
        by: Break::Setting(|config| config.server.disable_limits = true),
    },
    Twin {
        row: "SEC-24",
        broken: "whose audit log has an altered entry",
        by: Break::Database(|kind| {
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
        broken: "without a rate limit on partner lists",
        by: Break::Setting(|config| config.limits.partner_lists_per_minute = 0),
    },
    Twin {
        row: "API-06",
        broken: "behind a proxy that replaces request ids",
        by: Break::Answered(|_, answer| {
            let made_up = HeaderValue::from_static("set-by-the-proxy");
            answer.headers.insert(HeaderName::from_static("x-request-id"), made_up);
        }),
    },
    Twin {
        row: "API-12",
        broken: "that reads an item instead of deleting it",
        by: Break::Asked(|_, asked| {
            if asked.method == Method::DELETE && asked.path().starts_with("/api/v1/spaces/") {
                let path = asked.path().to_owned();
                asked.become_get(&path);
            }
        }),
    },
    Twin {
        row: "CAC-04",
        broken: "behind a proxy that makes every response publicly cacheable",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/api/v1/me" {
                answer.headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
            }
        }),
    },
    Twin {
        row: "OBS-12",
        broken: "that does not count partner requests",
        by: Break::Answered(|asked, answer| {
            if asked.path() == "/api/metrics" {
                take_away(answer, "partner_request.created");
            }
        }),
    },
];

/// Returns sender and receiver of the request in the path.
fn request_of(memory: &Memory, asked: &Asked) -> Option<(String, String)> {
    let id = asked.path().strip_prefix(REQUESTS)?.split('/').next()?;
    memory.requests.get(id).cloned()
}

/// Sends the request as `user`, if the caller is signed in.
fn sign_in_as(memory: &Memory, asked: &mut Asked, user: &str) {
    if let (Some(token), Some(_)) = (memory.tokens.get(user), asked.token()) {
        asked.sign_in_as(token);
    }
}

/// Removes every line that contains `what`.
fn take_away(answer: &mut Answered, what: &str) {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let kept: String = text.split_inclusive('\n').filter(|line| !line.contains(what)).collect();
    answer.body = kept.into();
}
