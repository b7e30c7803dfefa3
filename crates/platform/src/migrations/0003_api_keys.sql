-- up
-- Keys by which other programs ask. `created_by` is a user, whose table is another module's.
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    -- SHA-256 of 32 random bytes, which stand nowhere else.
    digest BYTEA NOT NULL,
    name TEXT NOT NULL,
    -- Permissions, a space between them.
    scopes TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT
);
CREATE INDEX api_keys_of_user ON api_keys (created_by, id);

-- down
DROP TABLE api_keys;
