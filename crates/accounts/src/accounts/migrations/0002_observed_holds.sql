-- up
-- Observed time at which the hold of a deleted account is over. Not set until the next run of the purge has seen it.
ALTER TABLE users ADD COLUMN purge_elapsed_ms BIGINT;
CREATE INDEX users_to_hold ON users (id) WHERE purge_at IS NOT NULL AND purged_at IS NULL AND purge_elapsed_ms IS NULL;

-- down
DROP INDEX users_to_hold;
ALTER TABLE users DROP COLUMN purge_elapsed_ms;
