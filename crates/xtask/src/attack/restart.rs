//! Attacks with restarts: a kill during writes, and an audit log that is truncated while the server is down.

use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kith_store::testing::TestVault;
use kith_store::{EngineOptions, Error, PostgresOptions, SqliteOptions, Store, StoreOptions};
use serde_json::{Value, json};

use super::attacked_server::AttackedServer;
use super::report::AttackReport;
use crate::kith::{Kith, Start};
use crate::load::on_one_thread;

const ITEMS_PATH: &str = "/api/v1/spaces/me/kept";
const WRITERS: usize = 4;
/// Number of acknowledged writes before the kill.
const ACKNOWLEDGED_BEFORE_KILL: usize = 40;
const KILLED_WITHIN: Duration = Duration::from_secs(90);

/// Kills the server during concurrent writes and restarts it. All acknowledged writes must still exist.
pub fn kill(server: AttackedServer, report: &mut AttackReport) -> Option<AttackedServer> {
    report.group("kill and restart");
    let mut survivor = None;
    report.attack("kill -9 during writes", KILLED_WITHIN, || {
        let acknowledged = write_until_killed(&server)?;
        let AttackedServer { start, kith, admin, ada, ben, eve } = server;
        kith.kill()?;
        let kith = Kith::start(&start).context("after the kill")?;
        let server = AttackedServer { start, kith, admin, ada, ben, eve };
        let lost = lost(&server, &acknowledged)?;
        ensure!(lost == 0, "{lost} of {} acknowledged items are lost", acknowledged.len());
        let output = format!("{} acknowledged, all there", acknowledged.len());
        survivor = Some(server);
        Ok(output)
    });
    survivor
}

/// Returns the ids of the items that were acknowledged before the server stopped.
fn write_until_killed(server: &AttackedServer) -> Result<Vec<String>> {
    let acknowledged = Mutex::new(Vec::new());
    std::thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let acknowledged = &acknowledged;
                scope.spawn(move || {
                    for n in 0.. {
                        let body = json!({ "data": { "writer": writer, "n": n } });
                        // The request fails once the server is killed. The thread then ends.
                        let Ok(response) = server.post(&server.eve, ITEMS_PATH, &body) else { return };
                        if response.status != 201 {
                            return;
                        }
                        let id = response.json()["id"].as_str().unwrap_or_default().to_owned();
                        let mut all = acknowledged.lock().expect("unpoisoned");
                        all.push(id);
                        let is_enough = all.len() == ACKNOWLEDGED_BEFORE_KILL;
                        drop(all);
                        if is_enough && server.kith.send_sigkill().is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().map_err(|_| anyhow::anyhow!("a writer panicked")))
    })?;
    let all = acknowledged.into_inner().expect("unpoisoned");
    ensure!(all.len() >= ACKNOWLEDGED_BEFORE_KILL, "only {} were acknowledged", all.len());
    Ok(all)
}

fn lost(server: &AttackedServer, acknowledged: &[String]) -> Result<usize> {
    let mut lost = 0;
    for id in acknowledged {
        let response = server.get(&server.eve, &format!("{ITEMS_PATH}/{id}"))?;
        lost += usize::from(response.status != 200);
    }
    Ok(lost)
}

/// Fails unless `kith audit verify` succeeds after a kill, and fails after the log was truncated.
pub fn audit(start: &Start, report: &mut AttackReport) {
    report.attack("the audit chain after a kill", KILLED_WITHIN, || match verify(start)? {
        (true, output) => Ok(output),
        (false, output) => bail!("{output}"),
    });
    report.attack("a cut tail of the audit log", KILLED_WITHIN, || {
        let cut = on_one_thread(cut_tail(start))?;
        ensure!(cut > 0, "there was nothing to cut");
        match verify(start)? {
            (false, output) => Ok(output),
            (true, output) => bail!("{cut} links were removed without detection: {output}"),
        }
    });
}

/// Runs `kith audit verify`. Returns true if the chain is intact, and the first line of the output.
fn verify(start: &Start) -> Result<(bool, String)> {
    let mut verify = start.command(&["audit", "verify"]);
    let done = verify.stdin(Stdio::null()).output().context("cannot run kith")?;
    let output = if done.status.success() { done.stdout } else { done.stderr };
    let output = String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned();
    Ok((done.status.success(), output))
}

/// Deletes the last three links of the audit chain. An attacker needs only write access to the database for
/// this, not the key.
async fn cut_tail(start: &Start) -> Result<u64> {
    let engine = match &start.database {
        None => EngineOptions::Sqlite(SqliteOptions::in_folder(&start.data)),
        Some(url) => EngineOptions::Postgres(PostgresOptions::at(url.clone())),
    };
    let store = Store::open(StoreOptions::new(engine, TestVault::with_secret(1))).await?;
    let cut: Result<u64, Error> = store
        .write(|tx| {
            let last = "SELECT n FROM audit_seals ORDER BY n DESC LIMIT 1 OFFSET 3";
            let Some(n) = tx.one(last, &[], |row| row.get::<i64>(0))? else { return Ok(0) };
            tx.exec(
                "DELETE FROM audit_entries WHERE id IN (SELECT entry_id FROM audit_seals WHERE n > $1)",
                kith_store::params![n],
            )?;
            tx.exec("DELETE FROM audit_seals WHERE n > $1", kith_store::params![n])
        })
        .await;
    store.close().await;
    Ok(cut?)
}

/// Fails if the server's log contains a panic or an error.
pub fn log(start: &Start, report: &mut AttackReport) {
    report.attack("the log of the server", Duration::from_secs(10), || {
        let log = std::fs::read_to_string(&start.log).context("the log")?;
        let is_panic = |line: &&str| line.contains("panicked") || line.contains("panic");
        let panics: Vec<_> = log.lines().filter(is_panic).collect();
        ensure!(panics.is_empty(), "{} lines report a panic; the first: {}", panics.len(), panics[0]);
        let errors: Vec<_> = log.lines().filter(|line| is_error(line)).collect();
        ensure!(errors.is_empty(), "{} errors; the first: {}", errors.len(), errors[0]);
        Ok(format!("{} lines, no panic and no error", log.lines().count()))
    });
}

fn is_error(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|line| line["level"] == "ERROR")
}
