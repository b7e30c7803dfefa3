//! Processes of one run, and the faults injected into them.

#![expect(clippy::disallowed_methods, reason = "blows fall, and rests and outages last, in real time")]

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use kith_store::testing::server::PostgresServer;
use rustix::process::{Pid, Signal, kill_process};

use super::Database;
use super::processes::{Process, Program, now_ms};
use crate::load::now;

/// Number of worker processes on PostgreSQL.
const WORKERS: usize = 4;
/// Concurrent jobs per process, and the maximum duration of each in milliseconds.
const CONCURRENCY: u64 = 20;
const MAX_JOB_MS: u64 = 20;
/// Number of jobs enqueued per second. It is high enough that faults hit running jobs.
const JOBS_PER_S: u64 = 1_500;
/// Duration of a freeze in milliseconds. It is longer than a worker's lease of 6 s.
const FROZEN_MS: std::ops::Range<i64> = 7_000..10_000;
/// Maximum time from the last fault until all jobs are completed.
const MAX_DONE_AFTER_FAULT: Duration = Duration::from_secs(120);
/// Maximum time until jobs that were enqueued after an idle period are completed. It is shorter than the
/// interval of the full scan, so a job hidden behind a claim watermark is detected.
const MAX_DONE_AFTER_IDLE: Duration = Duration::from_secs(30);
/// Duration in milliseconds for which jobs are enqueued after an idle period, without faults.
const ENQUEUE_AFTER_IDLE_MS: u64 = 1_000;
/// Maximum number of times to poll a restarting database, twice per second.
const MAX_POLLS: usize = 120;

/// Numbers of injected faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultCounts {
    pub kills: u32,
    pub freezes: u32,
    pub database_kills: u32,
    /// Number of killed PostgreSQL backends. The server then restarts all others.
    pub backend_kills: u32,
    /// Number of connections terminated with `pg_terminate_backend`.
    pub terminations: u32,
    /// Number of database outages that were longer than a lease, and their total duration in seconds.
    pub outages: u32,
    pub outage_s: f64,
    /// Number of periods without jobs, and their total duration in seconds.
    pub idle_periods: u32,
    pub idle_s: f64,
}

impl FaultCounts {
    /// Returns the number of faults that could lose data.
    pub const fn count(&self) -> u32 {
        let database = self.database_kills + self.backend_kills + self.terminations + self.outages;
        self.kills + self.freezes + database
    }
}

/// Processes of one run.
pub struct ProcessGroup {
    program: Program,
    database: Database,
    /// Running processes. On PostgreSQL the last one enqueues. On SQLite there is only one.
    all: Vec<Process>,
    thaw_at: Option<(usize, i64)>,
}

impl ProcessGroup {
    /// Starts the processes that are needed for `database`.
    pub fn start(program: Program, database: Database) -> Result<Self> {
        let mut group = Self { program, database, all: Vec::new(), thaw_at: None };
        let count = if database == Database::Sqlite { 1 } else { WORKERS + 1 };
        for at in 0..count {
            let process = group.start_process(at)?;
            group.all.push(process);
        }
        Ok(group)
    }

    /// Starts the process at index `at` of `all`.
    fn start_process(&self, at: usize) -> Result<Process> {
        let task = match self.database {
            Database::Sqlite => "both",
            Database::Postgres if at == WORKERS => "enqueue",
            Database::Postgres => "work",
        };
        let from = self.program.journal().max_number + 1;
        let words = ["--from", &from.to_string(), "--rate", &JOBS_PER_S.to_string()].map(str::to_owned);
        let mut more = words.to_vec();
        more.extend(
            ["--concurrency", &CONCURRENCY.to_string(), "--max-ms", &MAX_JOB_MS.to_string()]
                .map(str::to_owned),
        );
        self.program.start(task, &more)
    }

    /// Injects a randomly chosen fault.
    pub fn inject_fault(
        &mut self,
        rng: &mut Rng,
        server: Option<&mut PostgresServer>,
        faults: &mut FaultCounts,
    ) -> Result<()> {
        if self.thaw_at.is_some_and(|(_, when)| when <= now_ms()) {
            self.thaw()?;
        }
        self.all_live()?;
        let at = rng.usize(..self.all.len());
        let Some(server) = server else { return self.kill(at, faults) };
        match rng.u32(..100) {
            0..7 => {
                server.kill()?;
                server.restart()?;
                faults.database_kills += 1;
            }
            7..11 => {
                self.kill_backend(rng)?;
                faults.backend_kills += 1;
            }
            11..18 => {
                self.program.run("terminate")?;
                faults.terminations += 1;
            }
            18..36 if self.thaw_at.is_none() && at != WORKERS => {
                self.all[at].freeze()?;
                self.thaw_at = Some((at, now_ms() + rng.i64(FROZEN_MS)));
                faults.freezes += 1;
            }
            _ if !self.all[at].is_frozen() => self.kill(at, faults)?,
            _ => {}
        }
        Ok(())
    }

    /// Sends SIGKILL to the backend of one connection.
    fn kill_backend(&self, rng: &mut Rng) -> Result<()> {
        let output = self.program.run("backends")?;
        let pids: Vec<i32> = output.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
        let pid = rng.choice(pids).and_then(Pid::from_raw).context("no connection to kill")?;
        // The backend may have ended in the meantime.
        let _ = kill_process(pid, Signal::KILL);
        for _ in 0..MAX_POLLS {
            if self.program.run("backends").is_ok() {
                return Ok(());
            }
            pause(500);
        }
        bail!("the database does not respond after the kill of a backend");
    }

    /// Kills the database server and restarts it after `length`.
    pub fn outage(
        &mut self,
        server: &mut PostgresServer,
        length: Duration,
        faults: &mut FaultCounts,
    ) -> Result<()> {
        let began = now();
        server.kill()?;
        thread::sleep(length);
        server.restart()?;
        faults.outages += 1;
        faults.outage_s += began.elapsed().as_secs_f64();
        self.all_live()
    }

    /// Waits until all jobs are completed and idles for `length` without faults. Then enqueues jobs, which
    /// must be completed within `MAX_DONE_AFTER_IDLE`.
    pub fn idle(&mut self, length: Duration, faults: &mut FaultCounts) -> Result<()> {
        self.thaw()?;
        self.send_command_to_all("pause");
        self.wait_until_done(MAX_DONE_AFTER_FAULT)?;
        let began = now();
        thread::sleep(length);
        faults.idle_periods += 1;
        faults.idle_s += began.elapsed().as_secs_f64();
        self.send_command_to_all("go on");
        pause(ENQUEUE_AFTER_IDLE_MS);
        self.send_command_to_all("pause");
        self.wait_until_done(MAX_DONE_AFTER_IDLE).context("jobs enqueued after a rest")?;
        self.send_command_to_all("go on");
        self.all_live()
    }

    fn send_command_to_all(&mut self, word: &str) {
        self.all.iter_mut().for_each(|process| process.send_command(word));
    }

    fn all_live(&mut self) -> Result<()> {
        for process in &mut self.all {
            ensure!(!process.has_ended()?, "a process ended by itself; see {}", self.program.log.display());
        }
        Ok(())
    }

    fn thaw(&mut self) -> Result<()> {
        match self.thaw_at.take() {
            Some((at, _)) => self.all[at].thaw(),
            None => Ok(()),
        }
    }

    fn wait_until_done(&mut self, within: Duration) -> Result<()> {
        let began = now();
        loop {
            self.program.journal().left = None;
            self.all[0].send_command("left");
            pause(500);
            let left = self.program.journal().left;
            if left == Some(0) {
                return Ok(());
            }
            if began.elapsed() > within {
                bail!("{left:?} jobs have not ended {within:?} after the last blow");
            }
        }
    }

    fn kill(&mut self, at: usize, faults: &mut FaultCounts) -> Result<()> {
        self.all.swap_remove(at).kill()?;
        let started = self.start_process(at)?;
        self.all.push(started);
        let last = self.all.len() - 1;
        self.all.swap(at, last);
        faults.kills += 1;
        Ok(())
    }

    /// Stops enqueueing, waits until all jobs are completed, and stops the processes gracefully.
    pub fn finish(mut self) -> Result<()> {
        self.thaw()?;
        self.send_command_to_all("stop");
        let began = now();
        self.wait_until_done(MAX_DONE_AFTER_FAULT)?;
        eprintln!("  everything has ended {:.1} s after the last blow", began.elapsed().as_secs_f64());
        for process in self.all {
            process.stop().context("leaving in peace")?;
        }
        Ok(())
    }
}

/// Sleeps for `ms` milliseconds of real time. The caller chooses the time to the next fault at random.
pub fn pause(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}
