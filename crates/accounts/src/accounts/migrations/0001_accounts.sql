-- up
CREATE TABLE users (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL,
    email_key TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    -- Moves with the password, not with the way it is hashed.
    password_version BIGINT NOT NULL DEFAULT 1,
    role TEXT NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'business', 'moderator', 'admin')),
    nickname TEXT,
    theme TEXT,
    locale TEXT,
    time_zone TEXT,
    created_at BIGINT NOT NULL,
    suspended_at BIGINT,
    -- Deleted by their owner, and held until `purge_at`; then purged, and only a name for what others have kept.
    deleted_at BIGINT,
    purge_at BIGINT,
    purged_at BIGINT
);
CREATE INDEX users_to_purge ON users (purge_at) WHERE purge_at IS NOT NULL AND purged_at IS NULL;
CREATE INDEX users_in_special_roles ON users (role, id) WHERE role <> 'user';

-- Open sessions. Each is a family of refresh tokens, of which only the one of this generation is good.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    generation BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    refreshed_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    address TEXT NOT NULL,
    user_agent TEXT
);
CREATE INDEX sessions_of_user ON sessions (user_id, id);

-- Failures in a row to prove who one is, by a keyed hash of whom one claimed to be. It says nothing about whether there
-- is such an account.
CREATE TABLE login_failures (
    subject BYTEA PRIMARY KEY,
    failures BIGINT NOT NULL,
    failed_at BIGINT NOT NULL,
    locked_until BIGINT NOT NULL
);

-- How often a client network was told that an address is registered, by a keyed hash of the network.
CREATE TABLE registration_refusals (
    id TEXT PRIMARY KEY,
    network BYTEA NOT NULL,
    refused_at BIGINT NOT NULL
);
CREATE INDEX registration_refusals_of_network ON registration_refusals (network, refused_at);

-- Secrets that make somebody the first administrator, hashed.
CREATE TABLE first_admin_links (
    secret_hash BYTEA PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

-- Accounts that were purged, and what went with each. What is restored from an older backup is purged again by it.
CREATE TABLE purges (
    user_id TEXT PRIMARY KEY,
    purged_at BIGINT NOT NULL,
    manifest TEXT NOT NULL
);

-- down
DROP TABLE purges;
DROP TABLE first_admin_links;
DROP TABLE registration_refusals;
DROP TABLE login_failures;
DROP TABLE sessions;
DROP TABLE users;
