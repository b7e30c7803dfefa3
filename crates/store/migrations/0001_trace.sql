-- up
-- What every change leaves beside its rows. `tx` orders by commit where transactions overlap (PostgreSQL); where they
-- do not (SQLite) it is 0 and its indexes stay empty.
CREATE TABLE audit_entries (
    id TEXT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    request_id TEXT NOT NULL,
    details_hash BYTEA,
    tx BIGINT NOT NULL DEFAULT CURRENT_TX,
    ordinal BIGINT NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX audit_entries_by_tx ON audit_entries (tx, ordinal) WHERE tx > 0;
CREATE INDEX audit_entries_by_actor ON audit_entries (actor, id);

-- What an entry tells of a person; erased with them, while the entry keeps its hash.
CREATE TABLE audit_details (
    entry_id TEXT NOT NULL,
    about TEXT,
    salt BYTEA NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (entry_id)
);
CREATE INDEX audit_details_by_about ON audit_details (about, entry_id) WHERE about IS NOT NULL;

-- The hash chain over audit_entries.
CREATE TABLE audit_seals (
    n BIGINT PRIMARY KEY,
    entry_id TEXT NOT NULL UNIQUE,
    prev BYTEA NOT NULL,
    hash BYTEA NOT NULL
);

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
CREATE INDEX outbox_by_tx ON outbox (tx, ordinal) WHERE tx > 0;

-- The order in which the world learns of events: dense, insert only.
CREATE TABLE outbox_positions (
    position BIGINT PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE
);

-- Each person's own log: the events that name them, numbered without gaps.
CREATE TABLE user_logs (
    user_id TEXT NOT NULL,
    log_offset BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, log_offset)
);

-- Durable consumers of events. Every event up to `position` is handled or stands in consumer_failures. `owner` is the node
-- that delivers, until `leased_until`; `declared_at` is when a node last said that its build has this consumer.
CREATE TABLE consumers (
    name TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    owner TEXT NOT NULL,
    leased_until BIGINT NOT NULL,
    declared_at BIGINT NOT NULL
);

-- Events that a consumer has passed without handling them: those that failed, and later ones of the same subject, which wait
-- for them. `set_aside_at` is set once all attempts have failed.
CREATE TABLE consumer_failures (
    consumer TEXT NOT NULL,
    position BIGINT NOT NULL,
    subject TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    retry_at BIGINT NOT NULL,
    error TEXT NOT NULL,
    set_aside_at BIGINT,
    PRIMARY KEY (consumer, position)
);
CREATE INDEX consumer_failures_pending ON consumer_failures (consumer, position) WHERE set_aside_at IS NULL;
CREATE INDEX consumer_failures_pending_position ON consumer_failures (position) WHERE set_aside_at IS NULL;
CREATE INDEX consumer_failures_set_aside ON consumer_failures (position) WHERE set_aside_at IS NOT NULL;

-- Below `low_tx` every committed row has its place; where transactions do not overlap it is not used.
CREATE TABLE sequencer (
    id BIGINT PRIMARY KEY,
    low_tx BIGINT NOT NULL
);

-- down
DROP TABLE sequencer;
DROP TABLE consumer_failures;
DROP TABLE consumers;
DROP TABLE user_logs;
DROP TABLE outbox_positions;
DROP TABLE outbox;
DROP TABLE audit_seals;
DROP TABLE audit_details;
DROP TABLE audit_entries;
