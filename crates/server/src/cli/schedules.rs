//! `kith schedules`: manages schedules. The caller needs access to the data folder or to the database.

use std::fmt::Write as _;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use kith_automation::schedules::{
    ScheduleOperation, ScheduleOperationResult, ScheduleResponse, ScheduleRun, ScheduleState,
};
use kith_jobs::schedules::Spec;
use kith_kernel::{Clock as _, SystemClock, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, Command as Order, Reply};

#[derive(Debug, Args)]
pub(super) struct Schedules {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List schedules by name, with the time of their next run
    List {
        #[command(flatten)]
        settings: Settings,
        /// Only schedules of this queue
        #[arg(long)]
        queue: Option<String>,
        /// Only schedules that enqueue jobs of this kind
        #[arg(long)]
        kind: Option<String>,
        /// Only paused schedules
        #[arg(long)]
        paused: bool,
    },
    /// Create or change a schedule
    Create {
        #[command(flatten)]
        args: ScheduleArgs,
        /// Cron expression or interval, such as '30 2 * * MON-FRI' or '@every 1h30m'
        #[arg(long)]
        schedule: String,
        /// Queue of the jobs that the schedule enqueues
        #[arg(long)]
        queue: String,
        /// Kind of the jobs that the schedule enqueues
        #[arg(long)]
        kind: String,
        /// Payload of the jobs that the schedule enqueues, as JSON
        #[arg(long, value_name = "JSON", default_value = "{}")]
        payload: String,
        /// Time zone, by its name in the IANA database
        #[arg(long, default_value = "UTC")]
        time_zone: String,
    },
    /// Delete a schedule and the record of its runs; jobs that it enqueued are not deleted
    Delete(ScheduleArgs),
    /// Show a schedule with its next runs and its last runs
    Show(ScheduleArgs),
    /// Pause a schedule; runs that would start during the pause do not count as missed
    Pause(ScheduleArgs),
    /// Resume a paused schedule from now on
    Resume(ScheduleArgs),
    /// Run a schedule immediately and print the id of the job
    Run(ScheduleArgs),
    /// Enqueue the missing runs of a schedule in a past period
    Backfill {
        #[command(flatten)]
        args: ScheduleArgs,
        /// Beginning of the period, inclusive, such as 2026-11-01T00:00:00Z
        #[arg(long)]
        from: Timestamp,
        /// End of the period, exclusive
        #[arg(long)]
        to: Timestamp,
    },
    /// Print the times at which a schedule would run, without creating it
    Preview {
        /// Cron expression or interval, such as '30 2 * * MON-FRI' or '@every 1h30m'
        schedule: String,
        /// Time zone, by its name in the IANA database
        #[arg(long, default_value = "UTC")]
        time_zone: String,
        /// Number of times to print
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        count: u16,
        /// Print only times after this one; default now
        #[arg(long)]
        after: Option<Timestamp>,
    },
}

#[derive(Debug, Args)]
struct ScheduleArgs {
    #[command(flatten)]
    settings: Settings,
    /// Name of the schedule, from `kith schedules list`
    name: String,
}

impl Schedules {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (settings, order) = match self.command {
            Command::Preview { schedule, time_zone, count, after } => {
                return preview(&schedule, &time_zone, after, count.into());
            }
            Command::List { settings, queue, kind, paused } => {
                (settings, ScheduleOperation::List { queue, kind, paused })
            }
            Command::Create { args, schedule, queue, kind, payload, time_zone } => {
                let payload: Value = serde_json::from_str(&payload).context("--payload is not JSON")?;
                let body = json!({
                    "schedule": schedule, "queue": queue, "kind": kind, "payload": payload, "time_zone": time_zone,
                });
                (args.settings, ScheduleOperation::Set { name: args.name, body })
            }
            Command::Delete(args) => (args.settings, ScheduleOperation::Delete(args.name)),
            Command::Show(args) => (args.settings, ScheduleOperation::Show(args.name)),
            Command::Pause(args) => (args.settings, ScheduleOperation::Pause(args.name)),
            Command::Resume(args) => (args.settings, ScheduleOperation::Resume(args.name)),
            Command::Run(args) => (args.settings, ScheduleOperation::Run(args.name)),
            Command::Backfill { args, from, to } => {
                (args.settings, ScheduleOperation::Backfill { name: args.name, from, to })
            }
        };
        let done = control::run(settings.load(Vec::new())?, Order::Schedules(order));
        match runtime()?.block_on(done).context("the command was not executed")? {
            Reply::Schedules(ScheduleOperationResult::Schedules(all)) => {
                all.iter().try_for_each(|args| print(&line(args)))
            }
            Reply::Schedules(ScheduleOperationResult::Schedule(args, runs)) => {
                print(&format_details(&args, &runs))
            }
            Reply::Schedules(ScheduleOperationResult::Jobs(jobs)) => {
                jobs.iter().try_for_each(|job| print(&job.to_string()))
            }
            other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
        }
    }
}

fn preview(schedule: &str, zone: &str, after: Option<Timestamp>, count: usize) -> Result<(), Failure> {
    let after = after.unwrap_or_else(|| SystemClock.now());
    let spec =
        Spec::parse(schedule, zone, after).map_err(|error| anyhow!("`{schedule}`, `{zone}`: {error}"))?;
    spec.runs_after(after).take(count).try_for_each(|at| print(&at.to_string()))
}

fn line(args: &ScheduleResponse) -> String {
    let next = args.upcoming.first().map_or_else(|| serialized_name(&args.state), |at| format!("next {at}"));
    let last = args.last_run_at.map_or("never".to_owned(), |at| at.to_string());
    format!(
        "{} {next} last {last} {} {} ({}) {}",
        args.name, args.queue, args.schedule, args.time_zone, args.owner
    )
}

fn format_details(args: &ScheduleResponse, runs: &[ScheduleRun]) -> String {
    let mut text = line(args);
    let state = if args.state == ScheduleState::Active {
        String::new()
    } else {
        format!("{}; ", serialized_name(&args.state))
    };
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\n{state}runs {} with {}; missed runs: {}; overlapping runs: {}",
        args.kind,
        args.payload.as_str(),
        serialized_name(&args.missed),
        serialized_name(&args.overlap)
    );
    for at in &args.upcoming {
        let _ = write!(text, "\n  next {at}");
    }
    for run in runs {
        let job = run.job_id.map_or("skipped".to_owned(), |job| format!("job {job}"));
        let state = run.job_state.map_or("", |state| state.as_str());
        let error = run.error.as_deref().unwrap_or_default();
        let _ = write!(text, "\n  {} {} {job} {state} {error}", run.at, serialized_name(&run.origin));
    }
    text
}

/// Returns the serialized name of an enum variant.
fn serialized_name<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}
