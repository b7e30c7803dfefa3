-- up
CREATE TABLE blocks (
    id TEXT PRIMARY KEY,
    blocker TEXT NOT NULL REFERENCES users (id),
    -- No reference: whether there is such a person is not told to whoever blocks them.
    blocked TEXT NOT NULL,
    -- As it was then, and as the blocker could see it then.
    display_name TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (blocker, blocked)
);
CREATE INDEX blocks_of ON blocks (blocker, id);
CREATE INDEX blocks_against ON blocks (blocked);

-- down
DROP TABLE blocks;
