-- up
-- What recurs. `decided_until`: every occurrence up to there has been run, or is not to be. `next_at`: the first behind it.
CREATE TABLE job_schedules (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
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
    missed TEXT NOT NULL,
    missed_cap BIGINT NOT NULL,
    overlap TEXT NOT NULL,
    jitter_ms BIGINT NOT NULL,
    starts_at BIGINT,
    ends_at BIGINT,
    anchor_at BIGINT NOT NULL,
    paused BOOLEAN NOT NULL,
    next_at BIGINT,
    last_at BIGINT,
    decided_until BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);
CREATE INDEX job_schedules_due ON job_schedules (next_at) WHERE NOT paused;
CREATE INDEX job_schedules_decided ON job_schedules (decided_until) WHERE NOT paused;

-- One row for each occurrence that was run, or left out because another still ran: what makes it the only one.
CREATE TABLE job_occurrences (
    schedule TEXT NOT NULL,
    at BIGINT NOT NULL,
    origin TEXT NOT NULL,
    job BIGINT,
    decided_at BIGINT NOT NULL,
    PRIMARY KEY (schedule, at)
);
CREATE INDEX job_occurrences_run ON job_occurrences (schedule, at) WHERE job IS NOT NULL;

-- down
DROP TABLE job_occurrences;
DROP TABLE job_schedules;
