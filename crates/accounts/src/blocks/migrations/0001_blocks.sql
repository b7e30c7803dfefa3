-- up
CREATE TABLE blocks (
    id TEXT PRIMARY KEY,
    blocker TEXT NOT NULL REFERENCES users (id),
    -- No foreign key: an error would reveal whether the user exists.
    blocked TEXT NOT NULL,
    -- Display name at the time of the block; NULL if the blocker could not see it.
    display_name TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (blocker, blocked)
);
CREATE INDEX blocks_of ON blocks (blocker, id);
CREATE INDEX blocks_against ON blocks (blocked);

-- down
DROP TABLE blocks;
