-- up
-- What has expired is deleted every minute.
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
CREATE INDEX registration_refusals_by_time ON registration_refusals (refused_at);
CREATE INDEX login_failures_by_time ON login_failures (failed_at);

-- down
DROP INDEX login_failures_by_time;
DROP INDEX registration_refusals_by_time;
DROP INDEX sessions_by_expiry;
