//! `kith events`: shows the lag of event consumers and replays events.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use kith_consumers::{ConsumerStatus, DeadLetteredEvent, ReplayFrom};
use kith_kernel::Timestamp;
use kith_platform::consumers::operator::{ConsumerCommand, ConsumerReply};

use super::{Failure, Settings, print, runtime};
use crate::control::{self, Command as Order, Reply};

#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List event consumers with their lag, the events that they retry, and the number of dead letters
    Lag(Settings),
    /// List the dead letters of a consumer, with the last error of each
    DeadLetters(ConsumerArgs),
    /// Deliver events to a consumer again
    Replay {
        #[command(flatten)]
        args: ConsumerArgs,
        #[command(flatten)]
        start: ReplayStart,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ReplayStart {
    /// Position of the first event to deliver
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(1..))]
    from: Option<i64>,
    /// Time of the first event to deliver, such as 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Start with the oldest stored event
    #[arg(long)]
    from_beginning: bool,
    /// Deliver only the dead letters, at most 1,000 at a time
    #[arg(long)]
    dead_letters: bool,
}

#[derive(Debug, Args)]
struct ConsumerArgs {
    #[command(flatten)]
    settings: Settings,
    /// Name of the consumer, from `kith events lag`
    #[arg(long, value_name = "NAME")]
    consumer: String,
}

impl Events {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (settings, command) = match self.command {
            Command::Lag(settings) => (settings, ConsumerCommand::Lag),
            Command::DeadLetters(ConsumerArgs { settings, consumer }) => {
                (settings, ConsumerCommand::DeadLetters { consumer })
            }
            Command::Replay { args: ConsumerArgs { settings, consumer }, start } => {
                (settings, start.command(consumer))
            }
        };
        let answered = control::run(settings.load(Vec::new())?, Order::Consumers(command));
        match runtime()?.block_on(answered).context("the command was not executed")? {
            Reply::Consumers(response) => show(&response),
            other => Err(anyhow::Error::from(control::unexpected_reply(&other)).into()),
        }
    }
}

impl ReplayStart {
    fn command(self, consumer: String) -> ConsumerCommand {
        let from = match self {
            Self { dead_letters: true, .. } => return ConsumerCommand::RetryDeadLetters { consumer },
            Self { from: Some(position), .. } => ReplayFrom::Position(position),
            Self { since: Some(since), .. } => ReplayFrom::Time(since),
            Self { .. } => ReplayFrom::Beginning,
        };
        ConsumerCommand::Replay { consumer, from }
    }
}

fn show(response: &ConsumerReply) -> Result<(), Failure> {
    match response {
        ConsumerReply::Lag(statuses) if statuses.is_empty() => print("No consumer is declared"),
        ConsumerReply::Lag(statuses) => statuses.iter().try_for_each(|status| print(&status_line(status))),
        ConsumerReply::DeadLetters(events) if events.is_empty() => print("No event is dead-lettered"),
        ConsumerReply::DeadLetters(events) => events.iter().try_for_each(|event| print(&event_line(event))),
        ConsumerReply::Replayed(behind) => print(&format!("The consumer is now {behind} events behind")),
        ConsumerReply::Retried(count) => print(&format!("{count} events will be retried")),
    }
}

fn status_line(status: &ConsumerStatus) -> String {
    let ConsumerStatus { name, position, lag_events, lag_ms, pending, dead_letters, owner } = status;
    let owner = if owner.is_empty() { "no node" } else { owner };
    let seconds = *lag_ms as f64 / 1_000.0;
    format!(
        "{name}: position {position}, {lag_events} events behind ({seconds:.1} s), {pending} retried, {dead_letters} dead-lettered, \
         delivered by {owner}"
    )
}

fn event_line(event: &DeadLetteredEvent) -> String {
    let DeadLetteredEvent { position, subject, error, dead_lettered_at } = event;
    format!("{position} of {subject}, dead-lettered at {dead_lettered_at}: {error}")
}
