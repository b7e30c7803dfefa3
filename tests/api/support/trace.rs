//! Reads the audit entries and events that changes have written.

use std::time::Duration;

use kith::modules::MODULES;
use kith_store::{Error, SequencedEvent};

use super::TestApp;

/// Timeout that is reached only on failure.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Audit entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    /// Actor: `user:…` or `anonymous`.
    pub actor: String,
    /// Action.
    pub action: String,
    /// Object of the action.
    pub object: String,
    /// Request id.
    pub request_id: String,
}

impl TestApp {
    /// Returns the audit log, ordered by id.
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

    /// Returns all events, after the sequencer has assigned all positions.
    pub async fn events(&self) -> Vec<SequencedEvent> {
        let mut head = self.db().watch_last_position();
        let wait = async {
            loop {
                head.borrow_and_update();
                let (written, last) = self.count_events().await;
                if written == last {
                    break;
                }
                head.changed().await.expect("the store is open");
            }
        };
        tokio::time::timeout(MAX_WAIT, wait).await.expect("the sequencer keeps up");
        self.db().events_after(0, i64::MAX).await.expect("the events")
    }

    /// Panics if an event has a kind that no module lists, because no consumer could subscribe to it.
    pub async fn check_event_kinds(&self) {
        let read =
            self.db().read(|q| q.all("SELECT DISTINCT kind FROM outbox", &[], |row| row.get::<String>(0)));
        for kind in read.await.map_err(|error: Error| error).expect("the kinds") {
            let listed = MODULES.iter().flat_map(|module| module.events).any(|listed| *listed == kind);
            assert!(listed, "no module lists events of the kind {kind}");
        }
    }

    /// Returns the number of events and the last assigned position.
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

    /// Returns the numbers of audit entries and events, which a rejected request must not change.
    pub async fn footprint(&self) -> (i64, i64) {
        let counted = self.db().read(|q| {
            q.one("SELECT (SELECT COUNT(*) FROM audit_entries), (SELECT COUNT(*) FROM outbox)", &[], |row| {
                Ok::<_, Error>((row.get(0)?, row.get(1)?))
            })
        });
        counted.await.expect("the counts").expect("a row")
    }
}
