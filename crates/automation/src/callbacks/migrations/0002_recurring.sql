-- up
-- What is sent again and again. When, stands with the schedule of the job engine that is named after it.
CREATE TABLE recurring_callbacks (
    id TEXT PRIMARY KEY,
    endpoint_id TEXT NOT NULL REFERENCES callback_endpoints (id),
    url TEXT NOT NULL,
    method TEXT NOT NULL,
    -- Sealed.
    headers BYTEA,
    body TEXT,
    timeout_ms BIGINT,
    created_at BIGINT NOT NULL
);
-- Which job of a recurring one's schedule made it: each makes one callback, however often it is run.
ALTER TABLE callbacks ADD COLUMN occasion BIGINT;
CREATE UNIQUE INDEX callbacks_once_per_occasion ON callbacks (recurring_id, occasion) WHERE occasion IS NOT NULL;
-- down
DROP INDEX callbacks_once_per_occasion;
ALTER TABLE callbacks DROP COLUMN occasion;
DROP TABLE recurring_callbacks;
