-- up
-- Declared job kinds: payload schemas and defaults.
CREATE TABLE job_kinds (
    kind TEXT PRIMARY KEY,
    queue TEXT,
    schema TEXT,
    priority BIGINT,
    max_attempts BIGINT,
    base_ms BIGINT,
    cap_ms BIGINT,
    timeout_ms BIGINT,
    updated_at BIGINT NOT NULL
);

-- down
DROP TABLE job_kinds;
