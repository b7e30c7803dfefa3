-- up

-- Keys that sign access tokens. `sealed` is an Ed25519 seed, encrypted; the newest key whose `signs_from` has come signs,
-- and all are published from `created_at` until `retires_at`.
CREATE TABLE signing_keys (
    id TEXT PRIMARY KEY,
    sealed BYTEA NOT NULL,
    public BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    -- The first key's is 0: two nodes that start at once on an empty database agree through it.
    signs_from BIGINT NOT NULL UNIQUE,
    retires_at BIGINT
);

-- Answers to writes that were sent with an Idempotency-Key. The id is the SHA-256 of user, operation and key.
CREATE TABLE idempotency_keys (
    id BYTEA PRIMARY KEY,
    fingerprint BYTEA NOT NULL,
    status BIGINT NOT NULL,
    headers TEXT NOT NULL,
    body BYTEA,
    created_at BIGINT NOT NULL
);

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- down

DROP TABLE idempotency_keys;
DROP TABLE signing_keys;
