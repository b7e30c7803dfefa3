-- up
CREATE TABLE nicknames (
    owner TEXT NOT NULL REFERENCES users (id),
    -- No reference: whether there is such a person is not told to whoever names them.
    user_id TEXT NOT NULL,
    nickname TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (owner, user_id)
);
CREATE INDEX nicknames_for ON nicknames (user_id);

-- down
DROP TABLE nicknames;
