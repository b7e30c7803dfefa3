-- up
-- Audit log. The hash chain over its entries is in `audit_seals`.
CREATE TABLE audit_entries (
    id TEXT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    request_id TEXT NOT NULL,
    details_hash BYTEA,
    -- Number of the transaction (PostgreSQL), by which concurrent transactions are ordered; 0 on SQLite.
    tx BIGINT NOT NULL DEFAULT CURRENT_TX,
    -- Order within the transaction.
    ordinal BIGINT NOT NULL,
    PRIMARY KEY (id)
);
-- Serves the sequencer. Empty on SQLite.
CREATE INDEX audit_entries_by_tx ON audit_entries (tx, ordinal) WHERE tx > 0;
CREATE INDEX audit_entries_by_actor ON audit_entries (actor, id);
-- Serves the verification of the chain, which reads the records of archived links.
CREATE INDEX audit_entries_archived ON audit_entries (id) WHERE action = 'audit.archived';

-- Personal data of audit entries. Deleted with the user; the entry keeps the hash.
CREATE TABLE audit_details (
    entry_id TEXT NOT NULL,
    user_id TEXT,
    -- Random bytes that are hashed with the body, so that the body cannot be guessed from the hash.
    salt BYTEA NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (entry_id)
);
CREATE INDEX audit_details_of_user ON audit_details (user_id, entry_id) WHERE user_id IS NOT NULL;

-- Links of the hash chain over the audit entries.
CREATE TABLE audit_seals (
    n BIGINT PRIMARY KEY,
    entry_id TEXT NOT NULL UNIQUE,
    prev BYTEA NOT NULL,
    hash BYTEA NOT NULL
);

-- Keys of the hash chain, encrypted with a secret that is not in the database. A key applies from link `first_link` to
-- the first link of the next key. Links before the first key have no key.
CREATE TABLE audit_keys (
    id BIGINT PRIMARY KEY,
    first_link BIGINT NOT NULL,
    sealed BYTEA NOT NULL,
    is_retired BOOLEAN NOT NULL DEFAULT FALSE
);

-- Events, written in the transaction of the change. `tx` and `ordinal` as in `audit_entries`.
CREATE TABLE outbox (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    recipients TEXT NOT NULL,
    payload TEXT NOT NULL,
    request_id TEXT NOT NULL,
    tx BIGINT NOT NULL DEFAULT CURRENT_TX,
    ordinal BIGINT NOT NULL
);
-- Serves the sequencer. Empty on SQLite.
CREATE INDEX outbox_by_tx ON outbox (tx, ordinal) WHERE tx > 0;

-- Order in which events are published. Positions have no gaps and do not change.
CREATE TABLE outbox_positions (
    position BIGINT PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE
);

-- State of the sequencer, in one row. Committed rows of transactions below `low_tx` have a position or a link
-- (PostgreSQL).
CREATE TABLE sequencer (
    id BIGINT PRIMARY KEY,
    low_tx BIGINT NOT NULL
);

-- Events of each recipient, numbered without gaps.
CREATE TABLE user_logs (
    user_id TEXT NOT NULL,
    log_offset BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, log_offset)
);

-- Cursors of durable consumers. Events up to `position` are handled or recorded in `consumer_failures`.
CREATE TABLE consumers (
    name TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    -- Node that holds the lease until `leased_until`; empty if none does.
    owner TEXT NOT NULL,
    leased_until BIGINT NOT NULL,
    -- Time at which a node last declared that its build has the consumer.
    declared_at BIGINT NOT NULL
);

-- Events before the cursor of a consumer that are not handled: those that failed, and later events of the same subject,
-- which wait for them.
CREATE TABLE consumer_failures (
    consumer TEXT NOT NULL,
    position BIGINT NOT NULL,
    subject TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    retry_at BIGINT NOT NULL,
    error TEXT NOT NULL,
    -- Time of the last attempt, when all attempts have failed.
    dead_lettered_at BIGINT,
    PRIMARY KEY (consumer, position)
);
CREATE INDEX consumer_failures_pending ON consumer_failures (consumer, position) WHERE dead_lettered_at IS NULL;
-- Serve the retention of events, which keeps pending events and deletes failures with their events.
CREATE INDEX consumer_failures_pending_position ON consumer_failures (position) WHERE dead_lettered_at IS NULL;
CREATE INDEX consumer_failures_dead_lettered ON consumer_failures (position) WHERE dead_lettered_at IS NOT NULL;

-- down
DROP TABLE consumer_failures;
DROP TABLE consumers;
DROP TABLE user_logs;
DROP TABLE sequencer;
DROP TABLE outbox_positions;
DROP TABLE outbox;
DROP TABLE audit_keys;
DROP TABLE audit_seals;
DROP TABLE audit_details;
DROP TABLE audit_entries;
