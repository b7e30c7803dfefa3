//! Commands of operators: the lag of consumers, what they have set aside, and replays.

use kith_consumers::{
    ConsumerStatus, ReplayError, ReplayFrom, SetAsideEvent, list_set_aside, list_status, replay,
    retry_set_aside,
};
use kith_store::Query;
use serde::{Deserialize, Serialize};

use crate::App;

/// Events set aside that are listed at most.
const MAX_LISTED: i64 = 1_000;

/// Command of an operator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerCommand {
    /// List the lag of every consumer.
    Lag,
    /// List the events that a consumer has set aside.
    SetAside {
        /// Name of the consumer.
        consumer: String,
    },
    /// Deliver events again.
    Replay {
        /// Name of the consumer.
        consumer: String,
        /// First event that is delivered again.
        from: ReplayFrom,
    },
    /// Retry events that a consumer has set aside.
    RetrySetAside {
        /// Name of the consumer.
        consumer: String,
    },
}

/// Answer to a [`ConsumerCommand`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerAnswer {
    /// State of every consumer, by name.
    Lag(Vec<ConsumerStatus>),
    /// Events set aside, in the order of positions.
    SetAside(Vec<SetAsideEvent>),
    /// Events (of any kind) between the cursor and the end of the log.
    Replayed(i64),
    /// Events that are pending again.
    Retried(u64),
}

/// Carries out a command. Replays leave an audit entry.
///
/// # Errors
/// [`ReplayError`] if there is no such consumer or position, or the database fails.
pub async fn carry_out(app: &App, command: ConsumerCommand) -> Result<ConsumerAnswer, ReplayError> {
    let ctx = app.system_ctx("command_line");
    match command {
        ConsumerCommand::Lag => {
            let statuses = app.db.read(move |q: &Query<'_>| list_status(q, ctx.now)).await?;
            Ok(ConsumerAnswer::Lag(statuses))
        }
        ConsumerCommand::SetAside { consumer } => {
            let read = move |q: &Query<'_>| {
                let known = list_status(q, ctx.now)?.iter().any(|status| status.name == consumer);
                if known {
                    list_set_aside(q, &consumer, MAX_LISTED).map_err(ReplayError::Store)
                } else {
                    Err(ReplayError::UnknownConsumer(consumer.clone()))
                }
            };
            app.db.read(read).await.map(ConsumerAnswer::SetAside)
        }
        ConsumerCommand::Replay { consumer, from } => {
            let run = move |tx: &kith_store::Tx<'_>, ctx: &kith_kernel::Ctx| {
                let behind = replay(tx, &consumer, from)?;
                tx.audit(ctx, "consumer.replayed", &consumer);
                Ok(behind)
            };
            app.write(&ctx, run).await.map(ConsumerAnswer::Replayed)
        }
        ConsumerCommand::RetrySetAside { consumer } => {
            let run = move |tx: &kith_store::Tx<'_>, ctx: &kith_kernel::Ctx| {
                let retried = retry_set_aside(tx, &consumer)?;
                tx.audit(ctx, "consumer.retried", &consumer);
                Ok(retried)
            };
            app.write(&ctx, run).await.map(ConsumerAnswer::Retried)
        }
    }
}
