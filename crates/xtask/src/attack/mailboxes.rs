//! Attacks with several spellings of one mailbox, and with registrations of addresses that are taken.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::report::{DEFAULT_TIME_LIMIT, Report, said};
use super::wire::{Answer, request, send};
use super::world::{PASSWORD, World, call};

/// Address, and other spellings of the same mailbox.
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

/// Registers each address, then tries every other spelling.
pub fn run(world: &World, report: &mut Report) {
    report.group("mailboxes");
    for (address, others) in SPELLINGS {
        report.attack(&format!("other spellings of {address}"), Duration::from_secs(20), || {
            let first = register(world.address(), address)?;
            ensure!(first.status == 201, "the first registration returned {}", said(&first));
            for other in *others {
                let answer = register(world.address(), other)?;
                ensure!(
                    matches!(answer.status, 409 | 422),
                    "{} returned {}",
                    other.escape_debug(),
                    said(&answer)
                );
            }
            Ok(format!("{} spellings open no second account", others.len()))
        });
    }
    report.attack("a dot in the name is another mailbox", DEFAULT_TIME_LIMIT, || {
        let answer = register(world.address(), "ta.ken@example.org")?;
        ensure!(answer.status == 201, "returned {}", said(&answer));
        Ok(said(&answer))
    });
}

/// Ten registrations of taken addresses by one client must not block registration. Needs a server with
/// limits.
pub fn taken_addresses(world: &World, report: &mut Report) {
    report.attack("ten registered addresses do not block registration", Duration::from_secs(30), || {
        for _ in 0..10 {
            let answer = register(world.address(), &world.ada.email)?;
            ensure!(matches!(answer.status, 409 | 429), "a registered address returned {}", said(&answer));
        }
        let answer = register(world.address(), "newcomer@example.org")?;
        ensure!(answer.status == 201, "an unregistered address returned {}", said(&answer));
        Ok("10 rejected, an unregistered address 201".to_owned())
    });
}

/// Exceeds a route's limit with a different `X-Forwarded-For` in each request.
pub fn claimed_addresses(world: &World, report: &mut Report) {
    report.attack("a new X-Forwarded-For with each of 700 requests", Duration::from_secs(30), || {
        for n in 0..700 {
            let claimed = format!("198.51.{}.{}", n / 250, n % 250);
            let more = [("x-forwarded-for", &*claimed), ("forwarded", &*format!("for={claimed}"))];
            let request = request("GET", "/.well-known/jwks.json", None, &more, None);
            let answer = send(world.address(), &request)?;
            match answer.status {
                200 => {}
                429 => {
                    ensure!(answer.header("retry-after").is_some(), "a 429 without Retry-After");
                    return Ok(format!("{} after {n} requests", said(&answer)));
                }
                _ => anyhow::bail!("returned {}", said(&answer)),
            }
        }
        anyhow::bail!("no limit held")
    });
}

fn register(at: SocketAddr, email: &str) -> Result<Answer> {
    let body = json!({ "email": email, "password": PASSWORD, "display_name": "Somebody" });
    call(at, "POST", "/api/v1/auth/register", None, &body)
}
