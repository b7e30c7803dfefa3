//! Attacks that register variants of one e-mail address, or addresses that already have an account.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::attacked_server::{AttackedServer, PASSWORD, call};
use super::report::{AttackReport, DEFAULT_TIME_LIMIT, format_response};
use super::wire::{RawResponse, request, send};

/// E-mail addresses, each with other notations that reach the same mailbox.
const SPELLINGS: &[(&str, &[&str])] = &[
    (
        "taken@example.org",
        &[
            "TAKEN@example.org",
            "taken@EXAMPLE.ORG",
            "Taken@Example.Org",
            " taken@example.org",
            "taken@example.org ",
            "taken@example.org.",
            "taken@example\u{3002}org",
            "taken@ｅｘａｍｐｌｅ.org",
            "\"taken\"@example.org",
            "taken@example.org\u{200B}",
            "ta\u{00AD}ken@example.org",
        ],
    ),
    (
        "post@b\u{FC}cher.example",
        &[
            "post@xn--bcher-kva.example",
            "post@XN--BCHER-KVA.example",
            "post@B\u{DC}CHER.example",
            "post@bu\u{308}cher.example",
            "POST@b\u{FC}cher.EXAMPLE",
        ],
    ),
    ("post@xn--strae-oqa.example", &["post@stra\u{DF}e.example"]),
];

/// Registers each address, then tries to register every other notation of it.
pub fn run(server: &AttackedServer, report: &mut AttackReport) {
    report.group("mailboxes");
    for (address, others) in SPELLINGS {
        report.attack(&format!("other spellings of {address}"), Duration::from_secs(20), || {
            let first = register(server.address(), address)?;
            ensure!(first.status == 201, "the first registration returned {}", format_response(&first));
            for other in *others {
                let response = register(server.address(), other)?;
                ensure!(
                    matches!(response.status, 409 | 422),
                    "{} returned {}",
                    other.escape_debug(),
                    format_response(&response)
                );
            }
            Ok(format!("{} spellings open no second account", others.len()))
        });
    }
    report.attack("a dot in the name is another mailbox", DEFAULT_TIME_LIMIT, || {
        let response = register(server.address(), "ta.ken@example.org")?;
        ensure!(response.status == 201, "returned {}", format_response(&response));
        Ok(format_response(&response))
    });
}

/// Registers ten addresses that already have accounts, all from one client. A later registration of a new
/// address must still succeed. Needs a server with rate limits.
pub fn taken_addresses(server: &AttackedServer, report: &mut AttackReport) {
    report.attack("ten registered addresses do not block registration", Duration::from_secs(30), || {
        for _ in 0..10 {
            let response = register(server.address(), &server.ada.email)?;
            ensure!(
                matches!(response.status, 409 | 429),
                "a registered address returned {}",
                format_response(&response)
            );
        }
        let response = register(server.address(), "newcomer@example.org")?;
        ensure!(response.status == 201, "an unregistered address returned {}", format_response(&response));
        Ok("10 rejected, an unregistered address 201".to_owned())
    });
}

/// Exceeds the rate limit of a route with a different `X-Forwarded-For` value in each request.
pub fn forged_forwarded_for(server: &AttackedServer, report: &mut AttackReport) {
    report.attack("a new X-Forwarded-For with each of 700 requests", Duration::from_secs(30), || {
        for n in 0..700 {
            let claimed = format!("198.51.{}.{}", n / 250, n % 250);
            let more = [("x-forwarded-for", &*claimed), ("forwarded", &*format!("for={claimed}"))];
            let request = request("GET", "/.well-known/jwks.json", None, &more, None);
            let response = send(server.address(), &request)?;
            match response.status {
                200 => {}
                429 => {
                    ensure!(response.header("retry-after").is_some(), "a 429 without Retry-After");
                    return Ok(format!("{} after {n} requests", format_response(&response)));
                }
                _ => anyhow::bail!("returned {}", format_response(&response)),
            }
        }
        anyhow::bail!("no limit held")
    });
}

fn register(at: SocketAddr, email: &str) -> Result<RawResponse> {
    let body = json!({ "email": email, "password": PASSWORD, "display_name": "Somebody" });
    call(at, "POST", "/api/v1/auth/register", None, &body)
}
