//! `kith events`: how far the consumers of events have come, and what they are to handle again.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use kith_consumers::{ConsumerStatus, ReplayFrom, SetAsideEvent};
use kith_kernel::Timestamp;
use kith_platform::consumers::operating::{ConsumerAnswer, ConsumerCommand};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, Command as Order, Reply};

#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List consumers with their lag, the events they retry, and those they have set aside
    Lag(Settings),
    /// List the events that a consumer has set aside after all attempts, with the last error
    SetAside(One),
    /// Deliver events again to a consumer, which handles them a second time
    Replay {
        #[command(flatten)]
        one: One,
        /// First position; without this option, --since or --set-aside, the oldest event that is kept
        #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(1..), group = "start")]
        from: Option<i64>,
        /// First event emitted at this time or later, such as 2026-11-01T00:00:00Z
        #[arg(long, value_name = "TIME", group = "start")]
        since: Option<Timestamp>,
        /// Only the events that were set aside, at most 1,000 at a time
        #[arg(long, group = "start")]
        set_aside: bool,
    },
}

#[derive(Debug, Args)]
struct One {
    #[command(flatten)]
    settings: Settings,
    /// Name of the consumer, as `kith events lag` shows it
    #[arg(long, value_name = "NAME")]
    consumer: String,
}

impl Events {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (settings, command) = match self.command {
            Command::Lag(settings) => (settings, ConsumerCommand::Lag),
            Command::SetAside(One { settings, consumer }) => {
                (settings, ConsumerCommand::SetAside { consumer })
            }
            Command::Replay { one: One { settings, consumer }, set_aside: true, .. } => {
                (settings, ConsumerCommand::RetrySetAside { consumer })
            }
            Command::Replay { one: One { settings, consumer }, from, since, .. } => {
                let from = match (from, since) {
                    (Some(position), _) => ReplayFrom::Position(position),
                    (None, Some(since)) => ReplayFrom::Time(since),
                    (None, None) => ReplayFrom::Beginning,
                };
                (settings, ConsumerCommand::Replay { consumer, from })
            }
        };
        let answered = control::run(settings.load(Vec::new())?, Order::Consumers(command));
        match runtime()?.block_on(answered).context("nothing was done")? {
            Reply::Consumers(answer) => show(&answer),
            other => Err(anyhow::Error::from(control::misunderstood(&other)).into()),
        }
    }
}

fn show(answer: &ConsumerAnswer) -> Result<(), Failure> {
    match answer {
        ConsumerAnswer::Lag(statuses) if statuses.is_empty() => print("No consumer has been declared"),
        ConsumerAnswer::Lag(statuses) => statuses.iter().try_for_each(|status| print(&status_line(status))),
        ConsumerAnswer::SetAside(events) if events.is_empty() => print("No event is set aside"),
        ConsumerAnswer::SetAside(events) => events.iter().try_for_each(|event| print(&event_line(event))),
        ConsumerAnswer::Replayed(behind) => print(&format!("The consumer is {behind} events behind now")),
        ConsumerAnswer::Retried(count) => print(&format!("{count} events are retried")),
    }
}

fn status_line(status: &ConsumerStatus) -> String {
    let ConsumerStatus { name, position, lag_events, lag_ms, pending, set_aside, owner } = status;
    let owner = if owner.is_empty() { "no node" } else { owner };
    let seconds = *lag_ms as f64 / 1_000.0;
    format!(
        "{name}: position {position}, {lag_events} events behind ({seconds:.1} s), {pending} retried, {set_aside} set aside, \
         delivered by {owner}"
    )
}

fn event_line(event: &SetAsideEvent) -> String {
    let SetAsideEvent { position, subject, error, set_aside_at } = event;
    format!("{position} of {subject}, set aside at {set_aside_at}: {error}")
}
