-- up
-- Live jobs only. state: 0 ready, 1 scheduled, 2 running, 3 blocked. `place` orders what became ready: the transaction
-- that made it so, where transactions overlap (PostgreSQL).
CREATE TABLE jobs (
    id SERIAL_ID,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    place BIGINT NOT NULL DEFAULT CURRENT_TX,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL DEFAULT 0,
    failures BIGINT NOT NULL DEFAULT 0,
    max_attempts BIGINT NOT NULL,
    crashes BIGINT NOT NULL DEFAULT 0,
    timeout_ms BIGINT NOT NULL,
    retry TEXT,
    limit_key TEXT,
    unique_key TEXT,
    waiting_for BIGINT NOT NULL DEFAULT 0,
    is_awaited BOOLEAN NOT NULL DEFAULT FALSE,
    worker BIGINT,
    started_at BIGINT,
    deadline_at BIGINT,
    cancel_asked_at BIGINT,
    progress TEXT,
    errors TEXT,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX jobs_ready ON jobs (queue, priority, place, id) WHERE state = 0 AND crashes < 2;
CREATE INDEX jobs_ready_by_key ON jobs (queue, limit_key, priority, place, id) WHERE state = 0 AND crashes < 2 AND limit_key IS NOT NULL;
CREATE INDEX jobs_suspect ON jobs (queue, id) WHERE state = 0 AND crashes >= 2;
CREATE INDEX jobs_due ON jobs (queue, run_at, id) WHERE state = 1;
CREATE INDEX jobs_running ON jobs (queue, limit_key) WHERE state = 2;
CREATE INDEX jobs_to_cancel ON jobs (id) WHERE cancel_asked_at IS NOT NULL;

-- Who runs jobs. A process says every few seconds that it lives; a claim over HTTP is a worker of its own.
CREATE TABLE job_workers (
    id SERIAL_ID,
    name TEXT NOT NULL,
    is_remote BOOLEAN NOT NULL,
    heartbeat_at BIGINT NOT NULL,
    lease_ms BIGINT NOT NULL,
    started_at BIGINT NOT NULL
);

CREATE TABLE job_queues (
    name TEXT PRIMARY KEY,
    paused BOOLEAN NOT NULL DEFAULT FALSE,
    concurrency BIGINT,
    rate BIGINT,
    rate_ms BIGINT,
    key_concurrency BIGINT,
    key_rate BIGINT,
    key_rate_ms BIGINT,
    revision BIGINT NOT NULL DEFAULT 1,
    changed_at BIGINT NOT NULL
);

-- What a limited queue, or one of its keys ('' is the queue itself), has started in its present window.
CREATE TABLE job_rates (
    queue TEXT NOT NULL,
    limit_key TEXT NOT NULL,
    since BIGINT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (queue, limit_key)
);

-- One row for each unique key that is taken: while its job lives, and until `until`.
CREATE TABLE job_keys (
    key TEXT PRIMARY KEY,
    job BIGINT NOT NULL,
    until BIGINT
);

-- `waiter` runs once all that it awaits has ended. on_failure: 0 the waiter dies too, 1 it runs all the same.
CREATE TABLE job_waits (
    awaited BIGINT NOT NULL,
    waiter BIGINT NOT NULL,
    on_failure BIGINT NOT NULL,
    state BIGINT,
    result TEXT,
    PRIMARY KEY (awaited, waiter)
);
CREATE INDEX job_waits_by_waiter ON job_waits (waiter);

-- Jobs that nobody will try again by himself.
CREATE TABLE job_dead (
    id BIGINT PRIMARY KEY,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    retry TEXT,
    limit_key TEXT,
    unique_key TEXT,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    result TEXT,
    errors TEXT,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX job_dead_by_queue ON job_dead (queue, kind, id);
CREATE INDEX job_dead_by_time ON job_dead (finished_at);

-- The ring of segments: `current` is written, the one behind it is emptied next.
CREATE TABLE job_ring (
    id BIGINT PRIMARY KEY,
    current BIGINT NOT NULL,
    since BIGINT NOT NULL
);

CREATE TABLE job_history_segment_0 (
    id BIGINT PRIMARY KEY,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    retry TEXT,
    limit_key TEXT,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    result TEXT,
    errors TEXT,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE TABLE job_log_segment_0 (
    n SERIAL_ID,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_segment_0_by_job ON job_log_segment_0 (job, n);

CREATE TABLE job_history_segment_1 (
    id BIGINT PRIMARY KEY,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    retry TEXT,
    limit_key TEXT,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    result TEXT,
    errors TEXT,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE TABLE job_log_segment_1 (
    n SERIAL_ID,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_segment_1_by_job ON job_log_segment_1 (job, n);

CREATE TABLE job_history_segment_2 (
    id BIGINT PRIMARY KEY,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    retry TEXT,
    limit_key TEXT,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    result TEXT,
    errors TEXT,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE TABLE job_log_segment_2 (
    n SERIAL_ID,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_segment_2_by_job ON job_log_segment_2 (job, n);

CREATE TABLE job_history_segment_3 (
    id BIGINT PRIMARY KEY,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    retry TEXT,
    limit_key TEXT,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    result TEXT,
    errors TEXT,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE TABLE job_log_segment_3 (
    n SERIAL_ID,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_segment_3_by_job ON job_log_segment_3 (job, n);

CREATE TABLE job_history_segment_4 (
    id BIGINT PRIMARY KEY,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    retry TEXT,
    limit_key TEXT,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    result TEXT,
    errors TEXT,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE TABLE job_log_segment_4 (
    n SERIAL_ID,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_segment_4_by_job ON job_log_segment_4 (job, n);

CREATE TABLE job_history_segment_5 (
    id BIGINT PRIMARY KEY,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    retry TEXT,
    limit_key TEXT,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    result TEXT,
    errors TEXT,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE TABLE job_log_segment_5 (
    n SERIAL_ID,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_segment_5_by_job ON job_log_segment_5 (job, n);

CREATE TABLE job_history_segment_6 (
    id BIGINT PRIMARY KEY,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    retry TEXT,
    limit_key TEXT,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    result TEXT,
    errors TEXT,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE TABLE job_log_segment_6 (
    n SERIAL_ID,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_segment_6_by_job ON job_log_segment_6 (job, n);

CREATE TABLE job_history_segment_7 (
    id BIGINT PRIMARY KEY,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    retry TEXT,
    limit_key TEXT,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    result TEXT,
    errors TEXT,
    source TEXT,
    created_at BIGINT NOT NULL
);
CREATE TABLE job_log_segment_7 (
    n SERIAL_ID,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_segment_7_by_job ON job_log_segment_7 (job, n);

CREATE VIEW job_history AS
SELECT id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms, retry, limit_key,
        started_at, finished_at, result, errors, source, created_at FROM job_history_segment_0
    UNION ALL SELECT id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms, retry, limit_key,
        started_at, finished_at, result, errors, source, created_at FROM job_history_segment_1
    UNION ALL SELECT id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms, retry, limit_key,
        started_at, finished_at, result, errors, source, created_at FROM job_history_segment_2
    UNION ALL SELECT id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms, retry, limit_key,
        started_at, finished_at, result, errors, source, created_at FROM job_history_segment_3
    UNION ALL SELECT id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms, retry, limit_key,
        started_at, finished_at, result, errors, source, created_at FROM job_history_segment_4
    UNION ALL SELECT id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms, retry, limit_key,
        started_at, finished_at, result, errors, source, created_at FROM job_history_segment_5
    UNION ALL SELECT id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms, retry, limit_key,
        started_at, finished_at, result, errors, source, created_at FROM job_history_segment_6
    UNION ALL SELECT id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms, retry, limit_key,
        started_at, finished_at, result, errors, source, created_at FROM job_history_segment_7;
CREATE VIEW job_log AS
SELECT n, job, attempt, at, level, line FROM job_log_segment_0
    UNION ALL SELECT n, job, attempt, at, level, line FROM job_log_segment_1
    UNION ALL SELECT n, job, attempt, at, level, line FROM job_log_segment_2
    UNION ALL SELECT n, job, attempt, at, level, line FROM job_log_segment_3
    UNION ALL SELECT n, job, attempt, at, level, line FROM job_log_segment_4
    UNION ALL SELECT n, job, attempt, at, level, line FROM job_log_segment_5
    UNION ALL SELECT n, job, attempt, at, level, line FROM job_log_segment_6
    UNION ALL SELECT n, job, attempt, at, level, line FROM job_log_segment_7;

-- What was done, by minute.
CREATE TABLE job_minutes (
    minute BIGINT NOT NULL,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    started BIGINT NOT NULL,
    completed BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    dead BIGINT NOT NULL,
    cancelled BIGINT NOT NULL,
    run_ms BIGINT NOT NULL,
    wait_ms BIGINT NOT NULL,
    longest_ms BIGINT NOT NULL,
    PRIMARY KEY (minute, queue, kind)
);

-- How queues stood, looked at now and then.
CREATE TABLE job_samples (
    at BIGINT NOT NULL,
    queue TEXT NOT NULL,
    ready BIGINT NOT NULL,
    scheduled BIGINT NOT NULL,
    running BIGINT NOT NULL,
    blocked BIGINT NOT NULL,
    dead BIGINT NOT NULL,
    oldest_ready_at BIGINT,
    PRIMARY KEY (at, queue)
);

INSERT INTO job_ring (id, current, since) VALUES (1, 0, 0);

-- down
DROP TABLE job_samples;
DROP TABLE job_minutes;
DROP VIEW job_log;
DROP VIEW job_history;
DROP TABLE job_log_segment_0;
DROP TABLE job_history_segment_0;
DROP TABLE job_log_segment_1;
DROP TABLE job_history_segment_1;
DROP TABLE job_log_segment_2;
DROP TABLE job_history_segment_2;
DROP TABLE job_log_segment_3;
DROP TABLE job_history_segment_3;
DROP TABLE job_log_segment_4;
DROP TABLE job_history_segment_4;
DROP TABLE job_log_segment_5;
DROP TABLE job_history_segment_5;
DROP TABLE job_log_segment_6;
DROP TABLE job_history_segment_6;
DROP TABLE job_log_segment_7;
DROP TABLE job_history_segment_7;
DROP TABLE job_ring;
DROP TABLE job_dead;
DROP TABLE job_waits;
DROP TABLE job_keys;
DROP TABLE job_rates;
DROP TABLE job_queues;
DROP TABLE job_workers;
DROP TABLE jobs;
