-- up
-- Keys that sign access tokens. The newest key whose `signs_from` has passed signs. Keys are published from
-- `created_at` until `retires_at`.
CREATE TABLE signing_keys (
    id TEXT PRIMARY KEY,
    -- Ed25519 seed, encrypted.
    sealed BYTEA NOT NULL,
    public_key BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    -- 0 for the first key, so that two nodes that start on an empty database create only one.
    signs_from BIGINT NOT NULL UNIQUE,
    retires_at BIGINT
);

-- API keys of external programs.
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    -- SHA-256 of the secret, which is not stored.
    digest BYTEA NOT NULL,
    name TEXT NOT NULL,
    -- Permissions, separated by spaces.
    scopes TEXT NOT NULL,
    -- User who created the key. No foreign key: users belong to another module.
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT
);
CREATE INDEX api_keys_of_user ON api_keys (created_by, id);

-- Responses to requests with an Idempotency-Key header.
CREATE TABLE idempotency_keys (
    -- SHA-256 of user, operation and key.
    id BYTEA PRIMARY KEY,
    -- Keyed hash of path, query and body of the request.
    fingerprint BYTEA NOT NULL,
    status BIGINT NOT NULL,
    headers TEXT NOT NULL,
    -- Response body, encrypted.
    body BYTEA,
    created_at BIGINT NOT NULL
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- Starts of servers, kept for seven days.
CREATE TABLE server_starts (
    id TEXT PRIMARY KEY,
    -- Host name and listening address.
    address TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    -- Another server started at this address before a stop was recorded.
    is_unclean BOOLEAN NOT NULL DEFAULT FALSE
);

-- Time during which a process was running, measured independently of the wall clock. One row.
CREATE TABLE observed_time (
    id BIGINT PRIMARY KEY,
    elapsed_ms BIGINT NOT NULL,
    -- Wall clock at the last update.
    wall_clock_at BIGINT NOT NULL,
    -- Time without a running process, according to the wall clock. It is added to `elapsed_ms` after processes have run
    -- for a day without a jump of the clock.
    uncredited_ms BIGINT NOT NULL,
    uncredited_since_ms BIGINT NOT NULL
);

-- Last run of each purge.
CREATE TABLE purge_runs (
    name TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    -- Observed time of the run. Holds that began since are measured from it.
    elapsed_ms BIGINT NOT NULL,
    -- Number of due rows left for the next run.
    backlog BIGINT NOT NULL,
    -- Reason why due rows are not purged.
    fault TEXT
);

-- down
DROP TABLE purge_runs;
DROP TABLE observed_time;
DROP TABLE server_starts;
DROP TABLE idempotency_keys;
DROP TABLE api_keys;
DROP TABLE signing_keys;
