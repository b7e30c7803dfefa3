-- up
CREATE TABLE nicknames (
    owner TEXT NOT NULL REFERENCES users (id),
    -- No foreign key: an error would reveal whether the user exists.
    user_id TEXT NOT NULL,
    nickname TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (owner, user_id)
);
CREATE INDEX nicknames_for ON nicknames (user_id);

-- down
DROP TABLE nicknames;
