-- up
-- Time that processes have seen pass, whatever the wall clock did meanwhile. One row.
CREATE TABLE observed_time (
    id BIGINT PRIMARY KEY,
    elapsed_ms BIGINT NOT NULL,
    -- What the wall clock showed then.
    at BIGINT NOT NULL,
    -- Time in which no process ran, as far as the wall clock tells. It counts once the clock has been steady for a day.
    uncredited_ms BIGINT NOT NULL,
    uncredited_since_ms BIGINT NOT NULL
);

-- What guarded purges came to when they last ran, by what they purge.
CREATE TABLE purge_runs (
    name TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    -- Observed time of the run: holds that began since are measured from there.
    elapsed_ms BIGINT NOT NULL,
    -- Due, and left for the next run.
    backlog BIGINT NOT NULL,
    -- Why something that is due is not purged.
    fault TEXT
);

-- down
DROP TABLE purge_runs;
DROP TABLE observed_time;
