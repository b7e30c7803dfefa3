-- up
-- Callback endpoints: URL without query, signing secrets and delivery state.
CREATE TABLE callback_endpoints (
    id TEXT PRIMARY KEY,
    url TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    -- Secrets are sealed (encrypted).
    secret BYTEA NOT NULL,
    previous_secret BYTEA,
    previous_until BIGINT,
    disabled_at BIGINT,
    disabled_reason TEXT CHECK (disabled_reason IN ('administrator', 'gone', 'failing')),
    -- Circuit breaker.
    failures BIGINT NOT NULL DEFAULT 0,
    opened_at BIGINT,
    openings BIGINT NOT NULL DEFAULT 0,
    probe_until BIGINT,
    -- Time since which every attempt has failed.
    failing_since BIGINT,
    last_success_at BIGINT,
    last_failure_at BIGINT,
    succeeded BIGINT NOT NULL DEFAULT 0,
    failed BIGINT NOT NULL DEFAULT 0
);

-- Recurring callbacks. Their times are in the schedule of the job engine with the name `callbacks.` and the ID.
CREATE TABLE recurring_callbacks (
    id TEXT PRIMARY KEY,
    endpoint_id TEXT NOT NULL REFERENCES callback_endpoints (id),
    url TEXT NOT NULL,
    method TEXT NOT NULL,
    -- Sealed (encrypted).
    headers BYTEA,
    body TEXT,
    timeout_ms BIGINT,
    created_at BIGINT NOT NULL
);

-- Callbacks: requests to send, and their state.
CREATE TABLE callbacks (
    id TEXT PRIMARY KEY,
    endpoint_id TEXT NOT NULL REFERENCES callback_endpoints (id),
    url TEXT NOT NULL,
    method TEXT NOT NULL,
    -- Sealed (encrypted): headers may contain credentials of the receiver.
    headers BYTEA,
    body TEXT,
    timeout_ms BIGINT,
    state TEXT NOT NULL CHECK (state IN ('scheduled', 'retrying', 'delivered', 'failed', 'cancelled')),
    reason TEXT,
    due_at BIGINT NOT NULL,
    next_attempt_at BIGINT,
    -- Number of attempts in total, and since the retry schedule last started.
    attempts BIGINT NOT NULL DEFAULT 0,
    retry_attempts BIGINT NOT NULL DEFAULT 0,
    last_status BIGINT,
    -- ID of the job that delivers the callback.
    job_id BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    recurring_id TEXT,
    -- Job of the run that created the callback. Each job creates at most one callback, however often it runs.
    run_job_id BIGINT
);
CREATE INDEX callbacks_by_endpoint ON callbacks (endpoint_id, id);
CREATE INDEX callbacks_by_state ON callbacks (state, id);
CREATE INDEX callbacks_by_recurring ON callbacks (recurring_id, id) WHERE recurring_id IS NOT NULL;
CREATE UNIQUE INDEX callbacks_once_per_run ON callbacks (recurring_id, run_job_id) WHERE run_job_id IS NOT NULL;
CREATE INDEX callbacks_open ON callbacks (next_attempt_at, id) WHERE finished_at IS NULL;
CREATE INDEX callbacks_finished ON callbacks (finished_at) WHERE finished_at IS NOT NULL;

-- Attempts to deliver callbacks, with the stored part of the response.
CREATE TABLE callback_attempts (
    callback_id TEXT NOT NULL REFERENCES callbacks (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL,
    took_ms BIGINT NOT NULL,
    status BIGINT,
    error TEXT,
    response_headers TEXT,
    response_body TEXT,
    response_is_complete BOOLEAN NOT NULL,
    PRIMARY KEY (callback_id, number)
);

-- down
DROP TABLE callback_attempts;
DROP TABLE callbacks;
DROP TABLE recurring_callbacks;
DROP TABLE callback_endpoints;
