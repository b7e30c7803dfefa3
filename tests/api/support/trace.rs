//! Reads what changes leave beside their rows: audit entries, and events in their order.

use std::time::Duration;

use kith::modules::MODULES;
use kith_store::{Error, SequencedEvent};

use super::TestApp;

/// Longer than any sequencer takes; reached only when one is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    /// `user:…` or `anonymous`.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// Under which request.
    pub request_id: String,
}

impl TestApp {
    /// The audit log, in the order of its ids.
    pub async fn audit(&self) -> Vec<AuditLine> {
        let read = self.db().read(|q| {
            q.all("SELECT actor, action, object, request_id FROM audit_entries ORDER BY id", &[], |row| {
                Ok::<_, Error>(AuditLine {
                    actor: row.get(0)?,
                    action: row.get(1)?,
                    object: row.get(2)?,
                    request_id: row.get(3)?,
                })
            })
        });
        read.await.expect("the audit log")
    }

    /// All events, once each has its position.
    pub async fn events(&self) -> Vec<SequencedEvent> {
        let mut head = self.db().head();
        let wait = async {
            loop {
                head.borrow_and_update();
                let (written, last) = self.count_events().await;
                if written == last {
                    break;
                }
                head.changed().await.expect("a running store");
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the sequencer keeps up");
        self.db().events_after(0, i64::MAX).await.expect("the events")
    }

    /// Each event that a scenario led to is of a kind that a module lists: whoever subscribes finds it there.
    pub async fn check_kinds_of_events(&self) {
        let read =
            self.db().read(|q| q.all("SELECT DISTINCT kind FROM outbox", &[], |row| row.get::<String>(0)));
        for kind in read.await.map_err(|error: Error| error).expect("the kinds") {
            let listed = MODULES.iter().flat_map(|module| module.events).any(|listed| *listed == kind);
            assert!(listed, "no module lists events of the kind {kind}");
        }
    }

    /// How many events were written, and the last position given.
    async fn count_events(&self) -> (i64, i64) {
        let counted = self.db().read(|q| {
            q.one(
                "SELECT (SELECT COUNT(*) FROM outbox), (SELECT COALESCE(MAX(position), 0) FROM outbox_positions)",
                &[],
                |row| Ok::<_, Error>((row.get(0)?, row.get(1)?)),
            )
        });
        counted.await.expect("the counts").expect("a row")
    }

    /// What was written, counted: audit entries and events. A refusal must not change it.
    pub async fn footprint(&self) -> (i64, i64) {
        let counted = self.db().read(|q| {
            q.one("SELECT (SELECT COUNT(*) FROM audit_entries), (SELECT COUNT(*) FROM outbox)", &[], |row| {
                Ok::<_, Error>((row.get(0)?, row.get(1)?))
            })
        });
        counted.await.expect("the counts").expect("a row")
    }
}
