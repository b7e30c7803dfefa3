//! `kith jobs`: the jobs of the engine and their queues, for whoever has the machine itself.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use kith_automation::jobs::{JobStatus, Order};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, Command as Asked, Reply};

#[derive(Debug, Args)]
pub(super) struct Jobs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List jobs, newest first: those that have not ended, unless told otherwise
    List {
        #[command(flatten)]
        settings: Settings,
        /// ready, scheduled, running, blocked, completed, cancelled or dead
        #[arg(long, value_parser = state)]
        state: Option<JobStatus>,
        #[command(flatten)]
        which: Which,
        /// So many at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// List dead letters: jobs that have failed for good
    Dead {
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        which: Which,
        /// So many at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show all that is known of a job
    Show {
        #[command(flatten)]
        settings: Settings,
        id: i64,
    },
    /// Run a job now: one that waits for its time, a dead letter, or once more one that has ended
    Retry {
        #[command(flatten)]
        settings: Settings,
        id: i64,
    },
    /// Take a job back, or ask it to stop
    Cancel {
        #[command(flatten)]
        settings: Settings,
        id: i64,
    },
    /// Bring dead letters back to life
    Redrive {
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        which: Which,
    },
    /// List queues and how they stand
    Queues(Settings),
    /// Start no job of a queue, on no node
    Pause {
        #[command(flatten)]
        settings: Settings,
        queue: String,
    },
    /// Let a paused queue go on
    Resume {
        #[command(flatten)]
        settings: Settings,
        queue: String,
    },
    /// Take back all jobs that wait in a queue; those that run go on
    Drain {
        #[command(flatten)]
        settings: Settings,
        queue: String,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// Only those of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only those of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
}

impl Jobs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (settings, order) = match self.command {
            Command::List { settings, state, which: Which { queue, kind }, limit } => {
                (settings, Order::List { state, queue, kind, limit })
            }
            Command::Dead { settings, which: Which { queue, kind }, limit } => {
                (settings, Order::List { state: Some(JobStatus::Dead), queue, kind, limit })
            }
            Command::Show { settings, id } => (settings, Order::Show { id }),
            Command::Retry { settings, id } => (settings, Order::Retry { id }),
            Command::Cancel { settings, id } => (settings, Order::Cancel { id }),
            Command::Redrive { settings, which: Which { queue, kind } } => {
                (settings, Order::Redrive { queue, kind })
            }
            Command::Queues(settings) => (settings, Order::Queues),
            Command::Pause { settings, queue } => (settings, Order::Pause { queue, paused: true }),
            Command::Resume { settings, queue } => (settings, Order::Pause { queue, paused: false }),
            Command::Drain { settings, queue } => (settings, Order::Drain { queue }),
        };
        let done = control::run(settings.load(Vec::new())?, Asked::Jobs { order });
        match runtime()?.block_on(done).context("nothing was done to jobs")? {
            Reply::Lines(lines) => lines.iter().try_for_each(|line| print(line)),
            other => Err(anyhow::Error::from(control::misunderstood(&other)).into()),
        }
    }
}

fn state(text: &str) -> Result<JobStatus, anyhow::Error> {
    serde_json::from_value(text.into()).map_err(|_| anyhow!("not one of them"))
}
