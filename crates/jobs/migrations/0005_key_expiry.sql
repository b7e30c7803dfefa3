-- up
-- Unique keys that outlive their jobs are forgotten every minute.
CREATE INDEX job_keys_by_expiry ON job_keys (until) WHERE until IS NOT NULL;

-- down
DROP INDEX job_keys_by_expiry;
