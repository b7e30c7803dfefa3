//! Benchmark of several worker processes on one database. Each process is started from this program.

use std::env;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::Error;
use super::engine::{Engine, now, pause};

/// Interval at which a worker process prints the number of jobs that it has run.
const REPORT_INTERVAL_MS: u64 = 5;

struct Process {
    child: Child,
    orders: ChildStdin,
    ran: Arc<AtomicU64>,
}

impl Process {
    /// Starts a process and waits until it has opened the database.
    async fn start(place: &[String]) -> Result<Self, Error> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--row", "child"]).args(place).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(orders), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a process without pipes".into());
        };
        let mut stdout = BufReader::new(stdout).lines();
        if stdout.next_line().await?.as_deref() != Some("ready") {
            return Err("a worker process did not become ready".into());
        }
        let ran = Arc::new(AtomicU64::new(0));
        let ran_count = Arc::clone(&ran);
        tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                ran_count.store(line.parse().unwrap_or(0), Ordering::Relaxed);
            }
        });
        Ok(Self { child, orders, ran })
    }

    async fn order(&mut self, word: &str) -> Result<(), Error> {
        self.orders.write_all(format!("{word}\n").as_bytes()).await?;
        Ok(self.orders.flush().await?)
    }
}

/// Measures the jobs per second of several worker processes, from their common start until all jobs have
/// ended.
pub async fn workers(engine: &Engine, jobs: u64, processes: u64) -> Result<Value, Error> {
    engine.warm_up().await?;
    let mut all = Vec::new();
    for _ in 0..processes {
        all.push(Process::start(&engine.place).await?);
    }
    engine.in_bulk(jobs, None).await?;
    let began = now();
    for process in &mut all {
        process.order("go").await?;
    }
    let ran = || all.iter().map(|process| process.ran.load(Ordering::Relaxed)).sum::<u64>();
    while ran() < jobs {
        pause(2).await;
    }
    engine.until_none_is_left().await?;
    let rate = jobs as f64 / began.elapsed().as_secs_f64();
    let each: Vec<_> = all.iter().map(|process| process.ran.load(Ordering::Relaxed)).collect();
    for process in &mut all {
        process.order("end").await?;
        process.child.wait().await?;
    }
    Ok(json!({ "rate_per_s": rate, "workers": processes, "each_ran": each }))
}

/// Runs a worker process: prints that it is ready, starts to work after the command `go`, and ends after the
/// next command.
pub async fn child(engine: &Engine) -> Result<Value, Error> {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    println!("ready");
    if orders.next_line().await?.as_deref() != Some("go") {
        return Ok(Value::Null);
    }
    let (workers, ran) = engine.work(|_| {}).await?;
    loop {
        println!("{}", ran.count());
        tokio::select! {
            _ = orders.next_line() => break,
            () = pause(REPORT_INTERVAL_MS) => {}
        }
    }
    workers.stop().await;
    Ok(json!(ran.count()))
}
