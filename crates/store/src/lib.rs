//! One store type for SQLite and PostgreSQL: transactions as closures, portable SQL, migrations, and the
//! event sequencer.
//!
//! This is the only crate that depends on the drivers of SQLite and PostgreSQL. It contains no feature code
//! and no HTTP.

mod audit;
mod audit_archive;
mod audit_head;
mod audit_keys;
mod bulk;
mod chain_head;
mod channels;
mod clock_reading;
mod closures;
mod database_facts;
mod dialect;
mod error;
mod events;
mod facts;
mod folder;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod migrate;
mod named;
mod options;
mod outbox;
mod outcome;
mod postgres;
mod row;
mod schema;
mod sequencer;
mod sqlite;
mod statements;
mod stats;
mod store;
#[cfg(any(test, feature = "testing"))]
mod test_vault;
#[cfg(feature = "testing")]
pub mod testing;
mod threads;
mod trace;
mod tx;
mod value;

pub use audit::{AuditChain, AuditEntry, AuditFilter, AuditRecord};
pub use audit_archive::{AUDIT_ARCHIVED, ArchivedLink};
pub use audit_head::{AuditHeadFile, HeadComparison};
pub use audit_keys::{AUDIT_KEY_BYTES, AuditVault, GeneratedKey, audit_key_name};
pub use bulk::{Bulk, Statement};
pub use chain_head::AuditHead;
pub use channels::ChannelListener;
pub use clock_reading::ClockReading;
pub use closures::{ClosureResult, Transaction};
pub use error::{Error, OpenError};
pub use events::{Event, NewEvent, SequencedEvent};
pub use facts::{AuditTail, Positions};
pub use folder::{ControlHandler, ControlSocket, DataFolder, control_call, create_folder};
pub use migrate::{Migration, MigrationState, MigrationStatus, ModuleMigrations};
pub use options::{EngineOptions, PostgresOptions, SqliteOptions, StoreOptions, Synchronous};
pub use outbox::{EventScan, STORE_MIGRATIONS, event_at, event_id_at, last_position, scan_events};
pub use outcome::{IntoTxOutcome, TxOutcome};
pub use row::{Columns, FromRow};
pub use statements::{STATEMENT_BUCKETS_US, StatementTimes};
pub use stats::{StatsSnapshot, StoreStats};
pub use store::{EngineKind, Health, Store};
pub use tx::{Query, Tx, WriteConnection};
pub use value::{AsParam, Column, Param, Row, Values};

/// Used by [`named_sql!`].
#[doc(hidden)]
pub mod __named {
    pub use crate::named::{expand, expanded_len};
}

/// True if the build has the feature `testing`. Release builds must not have it.
pub const HAS_TESTING: bool = cfg!(feature = "testing");
