-- up
-- Callbacks that are still to be sent, by when they are due next.
CREATE INDEX callbacks_open ON callbacks (next_attempt_at, id) WHERE finished_at IS NULL;
-- down
DROP INDEX callbacks_open;
