//! Commands for operators: show the lag of consumers, list and retry dead letters, and replay events.

use kith_consumers::{
    ConsumerStatus, DeadLetteredEvent, ReplayError, ReplayFrom, list_dead_letters, list_status, replay,
    retry_dead_letters,
};
use kith_kernel::Ctx;
use kith_store::{Query, Tx};
use serde::{Deserialize, Serialize};

use crate::App;

/// Maximum number of dead letters in a reply.
const MAX_LISTED: i64 = 1_000;

/// Operator command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerCommand {
    /// List the lag of every consumer.
    Lag,
    /// List the dead letters of a consumer.
    DeadLetters {
        /// Name of the consumer.
        consumer: String,
    },
    /// Deliver events again.
    Replay {
        /// Name of the consumer.
        consumer: String,
        /// First event to deliver again.
        from: ReplayFrom,
    },
    /// Retry the dead letters of a consumer.
    RetryDeadLetters {
        /// Name of the consumer.
        consumer: String,
    },
}

/// Reply to a [`ConsumerCommand`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerReply {
    /// State of every consumer, ordered by name.
    Lag(Vec<ConsumerStatus>),
    /// Dead letters, in the order of positions.
    DeadLetters(Vec<DeadLetteredEvent>),
    /// Number of events of any kind between the new cursor and the end of the log.
    Replayed(i64),
    /// Number of events that are pending again.
    Retried(u64),
}

/// Executes a command. Replays and retries write an audit entry.
///
/// # Errors
/// Returns a [`ReplayError`] if the consumer or position does not exist, or the database fails.
pub async fn execute(app: &App, command: ConsumerCommand) -> Result<ConsumerReply, ReplayError> {
    let ctx = app.system_ctx("command_line");
    match command {
        ConsumerCommand::Lag => {
            let statuses = app.db.read(move |q: &Query<'_>| list_status(q, ctx.now)).await?;
            Ok(ConsumerReply::Lag(statuses))
        }
        ConsumerCommand::DeadLetters { consumer } => {
            let read = move |q: &Query<'_>| {
                let known = list_status(q, ctx.now)?.iter().any(|status| status.name == consumer);
                if known {
                    list_dead_letters(q, &consumer, MAX_LISTED).map_err(ReplayError::Store)
                } else {
                    Err(ReplayError::UnknownConsumer(consumer.clone()))
                }
            };
            app.db.read(read).await.map(ConsumerReply::DeadLetters)
        }
        ConsumerCommand::Replay { consumer, from } => {
            let run = move |tx: &Tx<'_>, ctx: &Ctx| {
                let behind = replay(tx, &consumer, from)?;
                tx.audit(ctx, "consumer.replayed", format_args!("{consumer}, {behind} events"));
                Ok(behind)
            };
            app.write(&ctx, run).await.map(ConsumerReply::Replayed)
        }
        ConsumerCommand::RetryDeadLetters { consumer } => {
            let run = move |tx: &Tx<'_>, ctx: &Ctx| {
                let retried = retry_dead_letters(tx, &consumer)?;
                tx.audit(ctx, "consumer.retried", &consumer);
                Ok(retried)
            };
            app.write(&ctx, run).await.map(ConsumerReply::Retried)
        }
    }
}
