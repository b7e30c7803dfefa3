//! `kith jobs`: manages jobs and queues. The caller needs access to the data folder or to the database.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use kith_automation::jobs::{JobOperation, JobStatus};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, Command as ControlCommand, Reply};

#[derive(Debug, Args)]
pub(super) struct Jobs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List jobs, newest first; without --state, only jobs that have not ended
    List {
        #[command(flatten)]
        settings: Settings,
        /// State: ready, scheduled, running, blocked, completed, cancelled or dead
        #[arg(long, value_parser = state)]
        state: Option<JobStatus>,
        #[command(flatten)]
        filter: JobFilterArgs,
        /// Maximum number of jobs
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// List dead letters: jobs that failed permanently
    Dead {
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        filter: JobFilterArgs,
        /// Maximum number of jobs
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show all details of a job
    Show {
        #[command(flatten)]
        settings: Settings,
        id: i64,
    },
    /// Run a scheduled job immediately, or run a dead letter or an ended job again
    Retry {
        #[command(flatten)]
        settings: Settings,
        id: i64,
    },
    /// Cancel a job: remove it if it is waiting, request cancellation if it is running
    Cancel {
        #[command(flatten)]
        settings: Settings,
        id: i64,
    },
    /// Redrive dead letters: make them ready to run again
    Redrive {
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        filter: JobFilterArgs,
    },
    /// List the queues and their states
    Queues(Settings),
    /// Pause a queue, so that no node starts its jobs
    Pause {
        #[command(flatten)]
        settings: Settings,
        queue: String,
    },
    /// Resume a paused queue
    Resume {
        #[command(flatten)]
        settings: Settings,
        queue: String,
    },
    /// Cancel all waiting jobs of a queue; running jobs continue
    Drain {
        #[command(flatten)]
        settings: Settings,
        queue: String,
    },
}

#[derive(Debug, Args)]
struct JobFilterArgs {
    /// Only jobs of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only jobs of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
}

impl Jobs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (settings, order) = match self.command {
            Command::List { settings, state, filter: JobFilterArgs { queue, kind }, limit } => {
                (settings, JobOperation::List { state, queue, kind, limit })
            }
            Command::Dead { settings, filter: JobFilterArgs { queue, kind }, limit } => {
                (settings, JobOperation::List { state: Some(JobStatus::Dead), queue, kind, limit })
            }
            Command::Show { settings, id } => (settings, JobOperation::Show { id }),
            Command::Retry { settings, id } => (settings, JobOperation::Retry { id }),
            Command::Cancel { settings, id } => (settings, JobOperation::Cancel { id }),
            Command::Redrive { settings, filter: JobFilterArgs { queue, kind } } => {
                (settings, JobOperation::Redrive { queue, kind })
            }
            Command::Queues(settings) => (settings, JobOperation::Queues),
            Command::Pause { settings, queue } => (settings, JobOperation::Pause { queue, paused: true }),
            Command::Resume { settings, queue } => (settings, JobOperation::Pause { queue, paused: false }),
            Command::Drain { settings, queue } => (settings, JobOperation::Drain { queue }),
        };
        let done = control::run(settings.load(Vec::new())?, ControlCommand::Jobs { order });
        match runtime()?.block_on(done).context("the command was not executed")? {
            Reply::Lines(lines) => lines.iter().try_for_each(|line| print(line)),
            other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
        }
    }
}

fn state(text: &str) -> Result<JobStatus, anyhow::Error> {
    serde_json::from_value(text.into()).map_err(|_| {
        anyhow!("expected one of: ready, scheduled, running, blocked, completed, cancelled, dead")
    })
}
