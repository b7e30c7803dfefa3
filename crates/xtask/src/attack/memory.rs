//! Attack on memory: fills a space with items that need much memory when parsed, then lists and exports it.
//! The memory of the server process must not grow by more than 32 MiB.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::attacked_server::{AttackedServer, TestAccount};
use super::report::{AttackReport, format_response};
use crate::mode::Mode;

/// Maximum growth of the process in KiB.
const MAX_GROWTH_KIB: u64 = 32 << 10;
const FILLED_WITHIN: Duration = Duration::from_secs(240);
/// Number of objects in each item. An item may contain at most 10,000 values. Each object counts as three of
/// them: itself, its name and its number.
const OBJECTS: usize = 3_300;
const HOLLOW: &str = "/api/v1/spaces/me/hollow";

/// Fills the space of a new account, then lists and exports it. A smoke run creates fewer items.
pub fn run(server: &AttackedServer, mode: Mode, report: &mut AttackReport) {
    report.group("memory");
    let people = server.register("filler");
    let account = match people {
        Ok(account) => account,
        Err(error) => return report.attack("an account", FILLED_WITHIN, || Err(error)),
    };
    report.attack("filling a space with hollow objects", FILLED_WITHIN, || {
        expect_little_growth(server, || fill(server, &account, mode.pick(10_000, 110)))
    });
    for (name, path) in
        [("a list of 100", format!("{HOLLOW}?limit=100")), ("an export", "/api/v1/me/export".to_owned())]
    {
        report.attack(name, Duration::from_secs(60), || {
            expect_little_growth(server, || {
                let response = server.get(&account, &path)?;
                ensure!(response.status == 200, "returned {}", format_response(&response));
                Ok(format!("{}, {} KiB", response.status, response.body.len() >> 10))
            })
        });
    }
    report.attack("eight lists at once", Duration::from_secs(120), || {
        expect_little_growth(server, || {
            let path = format!("{HOLLOW}?limit=100");
            thread::scope(|scope| {
                let readers: Vec<_> = (0..8).map(|_| scope.spawn(|| server.get(&account, &path))).collect();
                readers.into_iter().try_for_each(|reader| {
                    reader.join().expect("a reader does not panic")?.expect(200).map(drop)
                })
            })?;
            Ok("200 each".to_owned())
        })
    });
}

/// Creates up to `max` items. Stops earlier if the space is full.
fn fill(server: &AttackedServer, account: &TestAccount, max: usize) -> Result<String> {
    let hollow = format!("[{}]", vec![r#"{"":0}"#; OBJECTS].join(","));
    let item = json!({ "data": { "a": serde_json::from_str::<Value>(&hollow)? } });
    for created in 0..max {
        let response = server.post(account, HOLLOW, &item)?;
        if response.status == 409 || response.status == 413 {
            ensure!(created > 0, "the first item returned {}", format_response(&response));
            return Ok(format!("{created} items, then {}", format_response(&response)));
        }
        response.expect(201)?;
    }
    Ok(format!("{max} items"))
}

/// Runs `attack` and measures how much the memory of the server process grows during it.
///
/// # Errors
/// Returns the attack's error, or an error if the process grew by more than 32 MiB.
pub fn expect_little_growth(
    server: &AttackedServer,
    attack: impl FnOnce() -> Result<String>,
) -> Result<String> {
    let pid = server.kith.pid();
    let before = resident_kib(pid)?;
    let (is_over, max) = (AtomicBool::new(false), AtomicU64::new(before));
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                max.fetch_max(resident_kib(pid).unwrap_or(0), Ordering::Relaxed);
                thread::park_timeout(Duration::from_millis(1));
            }
        });
        let outcome = attack();
        is_over.store(true, Ordering::Relaxed);
        outcome
    });
    let summary = outcome?;
    let growth = max.into_inner().saturating_sub(before);
    ensure!(growth <= MAX_GROWTH_KIB, "{summary}, but the process grew by {} MiB", growth >> 10);
    Ok(format!("{summary}; {} MiB more than {}", growth >> 10, before >> 10))
}

/// Returns the anonymous resident memory of a process in KiB. Mapped pages of the database file are not
/// counted.
fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the server has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
