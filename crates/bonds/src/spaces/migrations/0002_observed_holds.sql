-- up
-- Observed time at which the hold of an archive is over.
ALTER TABLE archived_spaces ADD COLUMN purge_elapsed_ms BIGINT;

-- down
ALTER TABLE archived_spaces DROP COLUMN purge_elapsed_ms;
