-- up

-- Keys that sign access tokens. The private key is an Ed25519 seed of 32 bytes.
CREATE TABLE signing_keys (
    id TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,
    private_key BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    retired_at BIGINT
);

-- One key at a time signs; two nodes that start at once agree through this.
CREATE UNIQUE INDEX signing_keys_in_use ON signing_keys (purpose) WHERE retired_at IS NULL;

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
