//! Results of the attacks: prints one line for each attack, and a summary.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::wire::RawResponse;
use crate::load::now;

/// Time limit of attacks that should be cheap for the server. It includes a margin for a busy machine.
pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(5);

/// Results of the attacks that have run.
#[derive(Default)]
pub struct AttackReport {
    group: &'static str,
    passed: usize,
    failed: Vec<String>,
}

impl AttackReport {
    /// Begins a group of attacks and prints its name.
    pub fn group(&mut self, name: &'static str) {
        self.group = name;
        println!("\n{name}");
    }

    /// Runs an attack and prints its result. The attack returns a description of the response, or an error if
    /// the response is unexpected.
    pub fn attack(&mut self, name: &str, within: Duration, attack: impl FnOnce() -> Result<String>) {
        let began = now();
        let outcome = attack();
        let took = began.elapsed();
        let outcome = outcome.and_then(|summary| {
            ensure!(took <= within, "{summary}, but only after {took:.1?} instead of {within:.0?}");
            Ok(summary)
        });
        let ms = took.as_millis();
        match outcome {
            Ok(summary) => {
                self.passed += 1;
                println!("  ok    {name}: {summary} ({ms} ms)");
            }
            Err(error) => {
                println!("  FAILS {name}: {error:#} ({ms} ms)");
                self.failed.push(format!("{}: {name}: {error:#}", self.group));
            }
        }
    }

    /// Prints the summary.
    ///
    /// # Errors
    /// Returns an error if an attack failed.
    pub fn end(self) -> Result<()> {
        println!("\nattack: {} attacks, {} failed", self.passed + self.failed.len(), self.failed.len());
        self.failed.iter().for_each(|line| println!("  - {line}"));
        if !self.failed.is_empty() {
            bail!("{} attacks got an unexpected response", self.failed.len());
        }
        Ok(())
    }
}

/// Returns a short description of the response if its status is one of `expected`.
///
/// # Errors
/// Returns an error with status and body for any other status.
pub fn status_in(response: &RawResponse, expected: &[u16]) -> Result<String> {
    let summary = format_response(response);
    if !expected.contains(&response.status) {
        let body: String = String::from_utf8_lossy(&response.body).chars().take(300).collect();
        bail!("{summary}, expected {expected:?}: {body}");
    }
    Ok(summary)
}

/// Formats the status of a response and its problem code, if any.
pub fn format_response(response: &RawResponse) -> String {
    match (response.status, response.code()) {
        (0, _) => "closed without a response".to_owned(),
        (status, code) if code.is_empty() => status.to_string(),
        (status, code) => format!("{status} {code}"),
    }
}
