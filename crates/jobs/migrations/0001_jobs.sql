-- up
-- Queue settings. A queue without a row has the default settings.
CREATE TABLE job_queues (
    name TEXT PRIMARY KEY,
    paused BOOLEAN NOT NULL DEFAULT FALSE,
    -- Maximum number of running jobs.
    concurrency BIGINT,
    -- Maximum number of starts per `rate_ms` milliseconds.
    rate BIGINT,
    rate_ms BIGINT,
    -- The same limits for each limit key of the queue.
    key_concurrency BIGINT,
    key_rate BIGINT,
    key_rate_ms BIGINT,
    revision BIGINT NOT NULL DEFAULT 1,
    updated_at BIGINT NOT NULL
);

-- Starts in the present rate window of a queue (`limit_key` is empty) or of one of its limit keys.
CREATE TABLE job_rate_windows (
    queue TEXT NOT NULL,
    limit_key TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    starts BIGINT NOT NULL,
    PRIMARY KEY (queue, limit_key)
);

-- Workers: processes, which renew their lease by heartbeats, and claims of external programs (`is_remote`).
CREATE TABLE job_workers (
    id SERIAL_ID,
    name TEXT NOT NULL,
    is_remote BOOLEAN NOT NULL,
    heartbeat_at BIGINT NOT NULL,
    lease_ms BIGINT NOT NULL,
    started_at BIGINT NOT NULL
);

-- Live jobs. Ended jobs are in the history segments, failed ones in the dead letters.
CREATE TABLE jobs (
    id SERIAL_ID,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- 0 ready, 1 scheduled, 2 running, 3 blocked.
    state BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    -- Order of ready jobs: number of the transaction that made the job ready (PostgreSQL), or 0 (SQLite).
    position BIGINT NOT NULL DEFAULT CURRENT_TX,
    run_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    attempt BIGINT NOT NULL DEFAULT 0,
    failures BIGINT NOT NULL DEFAULT 0,
    max_attempts BIGINT NOT NULL,
    -- Number of consecutive attempts during which the worker died.
    crashes BIGINT NOT NULL DEFAULT 0,
    -- Maximum duration of an attempt; 0 for none.
    timeout_ms BIGINT NOT NULL,
    -- Delays between attempts as JSON; NULL for the default delays.
    retry TEXT,
    limit_key TEXT,
    unique_key TEXT,
    pending_dependencies BIGINT NOT NULL DEFAULT 0,
    has_dependents BOOLEAN NOT NULL DEFAULT FALSE,
    worker BIGINT,
    -- Random fencing token of the claim. Attempt numbers do not suffice: a crash of the database can undo a claim, and
    -- the next claim uses the same number.
    claim_token BIGINT NOT NULL DEFAULT 0,
    started_at BIGINT,
    deadline_at BIGINT,
    cancel_requested_at BIGINT,
    progress TEXT,
    -- Failures of earlier attempts as JSON.
    errors TEXT,
    -- Origin of the job, such as the schedule that enqueued it.
    source TEXT,
    created_at BIGINT NOT NULL
);
-- Claims: jobs whose last two attempts ended with the death of their worker are claimed one at a time.
CREATE INDEX jobs_ready ON jobs (queue, priority, position, id) WHERE state = 0 AND crashes < 2;
CREATE INDEX jobs_ready_by_key ON jobs (queue, limit_key, priority, position, id)
    WHERE state = 0 AND crashes < 2 AND limit_key IS NOT NULL;
CREATE INDEX jobs_suspect ON jobs (queue, id) WHERE state = 0 AND crashes >= 2;
CREATE INDEX jobs_due ON jobs (queue, run_at, id) WHERE state = 1;
CREATE INDEX jobs_running ON jobs (queue, limit_key) WHERE state = 2;
CREATE INDEX jobs_to_cancel ON jobs (id) WHERE cancel_requested_at IS NOT NULL;

-- Holders of unique keys. A key is released when its job has ended and `expires_at` has passed.
CREATE TABLE job_unique_keys (
    key TEXT PRIMARY KEY,
    job BIGINT NOT NULL,
    expires_at BIGINT
);
-- Maintenance deletes expired keys every minute.
CREATE INDEX job_unique_keys_by_expiry ON job_unique_keys (expires_at) WHERE expires_at IS NOT NULL;

-- Dependencies: `job` runs when all jobs that it depends on have ended.
CREATE TABLE job_dependencies (
    depends_on BIGINT NOT NULL,
    job BIGINT NOT NULL,
    -- Effect of a failed dependency: 0 the job becomes a dead letter, 1 it runs.
    on_failure BIGINT NOT NULL,
    -- Final state and result of the dependency; NULL until it has ended.
    state BIGINT,
    result TEXT,
    PRIMARY KEY (depends_on, job)
);
CREATE INDEX job_dependencies_of_job ON job_dependencies (job);

-- Ended jobs that have dependents left to update, because one transaction updates a limited number. Usually empty.
CREATE TABLE job_dependent_updates (
    id SERIAL_ID,
    job BIGINT NOT NULL,
    state BIGINT NOT NULL,
    result TEXT
);

-- Dead letters: jobs that are not retried automatically any more.
CREATE TABLE job_dead_letters (
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
CREATE INDEX job_dead_letters_by_queue ON job_dead_letters (queue, kind, id);
CREATE INDEX job_dead_letters_by_time ON job_dead_letters (finished_at);

-- Ring of history and log segments. Ended jobs go to the current segment; the next one is emptied before it is used.
CREATE TABLE job_history_ring (
    id BIGINT PRIMARY KEY,
    current_segment BIGINT NOT NULL,
    current_since BIGINT NOT NULL
);
INSERT INTO job_history_ring (id, current_segment, current_since) VALUES (1, 0, 0);

-- Completed and cancelled jobs, and the log lines of all jobs, in eight segments of one structure.
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

-- Counts of attempts and jobs per minute; durations are totals in milliseconds.
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

-- Samples of the number of jobs in each queue by state.
CREATE TABLE job_queue_samples (
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

-- Schedules of recurring jobs.
CREATE TABLE job_schedules (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    -- Declared by a module of this build, not created by a user.
    is_declared BOOLEAN NOT NULL,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    priority BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    retry TEXT,
    timeout_ms BIGINT NOT NULL,
    schedule TEXT NOT NULL,
    zone TEXT NOT NULL,
    -- Policy for missed occurrences, and the maximum number of them that are run.
    missed TEXT NOT NULL,
    missed_cap BIGINT NOT NULL,
    -- Policy for an occurrence while an earlier run has not ended.
    overlap TEXT NOT NULL,
    jitter_ms BIGINT NOT NULL,
    starts_at BIGINT,
    ends_at BIGINT,
    -- Start from which intervals are counted.
    anchor_at BIGINT NOT NULL,
    paused BOOLEAN NOT NULL,
    -- First occurrence after `decided_until`; NULL if there is none.
    next_run_at BIGINT,
    last_run_at BIGINT,
    -- Every occurrence up to this time has been run or skipped.
    decided_until BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX job_schedules_due ON job_schedules (next_run_at) WHERE NOT paused;
-- Serves the search for schedules that were decided up to a time in the future, after the clock went back.
CREATE INDEX job_schedules_decided ON job_schedules (decided_until) WHERE NOT paused;

-- Occurrences that were run or skipped. The primary key ensures that each is run only once.
CREATE TABLE job_occurrences (
    schedule TEXT NOT NULL,
    at BIGINT NOT NULL,
    origin TEXT NOT NULL,
    -- Job of the occurrence; NULL if it was skipped because an earlier run had not ended.
    job BIGINT,
    decided_at BIGINT NOT NULL,
    PRIMARY KEY (schedule, at)
);
CREATE INDEX job_occurrences_run ON job_occurrences (schedule, at) WHERE job IS NOT NULL;

-- down
DROP TABLE job_occurrences;
DROP TABLE job_schedules;
DROP TABLE job_queue_samples;
DROP TABLE job_minutes;
DROP VIEW job_log;
DROP VIEW job_history;
DROP TABLE job_log_segment_7;
DROP TABLE job_history_segment_7;
DROP TABLE job_log_segment_6;
DROP TABLE job_history_segment_6;
DROP TABLE job_log_segment_5;
DROP TABLE job_history_segment_5;
DROP TABLE job_log_segment_4;
DROP TABLE job_history_segment_4;
DROP TABLE job_log_segment_3;
DROP TABLE job_history_segment_3;
DROP TABLE job_log_segment_2;
DROP TABLE job_history_segment_2;
DROP TABLE job_log_segment_1;
DROP TABLE job_history_segment_1;
DROP TABLE job_log_segment_0;
DROP TABLE job_history_segment_0;
DROP TABLE job_history_ring;
DROP TABLE job_dead_letters;
DROP TABLE job_dependent_updates;
DROP TABLE job_dependencies;
DROP TABLE job_unique_keys;
DROP TABLE jobs;
DROP TABLE job_workers;
DROP TABLE job_rate_windows;
DROP TABLE job_queues;
