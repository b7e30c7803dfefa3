-- up
-- Who receives: an address without its query, and what is known of how it fares.
CREATE TABLE callback_endpoints (
    id TEXT PRIMARY KEY,
    url TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    -- Sealed.
    secret BYTEA NOT NULL,
    previous_secret BYTEA,
    previous_until BIGINT,
    disabled_at BIGINT,
    disabled_because TEXT CHECK (disabled_because IN ('administrator', 'gone', 'failing')),
    failures BIGINT NOT NULL DEFAULT 0,
    opened_at BIGINT,
    openings BIGINT NOT NULL DEFAULT 0,
    probe_until BIGINT,
    -- Since when every attempt has failed.
    failing_since BIGINT,
    last_success_at BIGINT,
    last_failure_at BIGINT,
    succeeded BIGINT NOT NULL DEFAULT 0,
    failed BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE callbacks (
    id TEXT PRIMARY KEY,
    endpoint_id TEXT NOT NULL REFERENCES callback_endpoints (id),
    url TEXT NOT NULL,
    method TEXT NOT NULL,
    -- Sealed: they may hold what opens a door at the receiver.
    headers BYTEA,
    body TEXT,
    timeout_ms BIGINT,
    state TEXT NOT NULL CHECK (state IN ('scheduled', 'retrying', 'delivered', 'failed', 'cancelled')),
    reason TEXT,
    due_at BIGINT NOT NULL,
    next_attempt_at BIGINT,
    -- In all, and since the ladder began anew.
    attempts BIGINT NOT NULL DEFAULT 0,
    ladder BIGINT NOT NULL DEFAULT 0,
    last_status BIGINT,
    -- The job that delivers it.
    job_id BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    recurring_id TEXT
);
CREATE INDEX callbacks_by_endpoint ON callbacks (endpoint_id, id);
CREATE INDEX callbacks_by_state ON callbacks (state, id);
CREATE INDEX callbacks_by_recurring ON callbacks (recurring_id, id) WHERE recurring_id IS NOT NULL;
CREATE INDEX callbacks_to_forget ON callbacks (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE callback_attempts (
    callback_id TEXT NOT NULL REFERENCES callbacks (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL,
    took_ms BIGINT NOT NULL,
    status BIGINT,
    error TEXT,
    response_headers TEXT,
    response_body TEXT,
    response_is_whole BOOLEAN NOT NULL,
    PRIMARY KEY (callback_id, number)
);
-- down
DROP TABLE callback_attempts;
DROP TABLE callbacks;
DROP TABLE callback_endpoints;
