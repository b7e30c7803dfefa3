-- up
-- Accounts. The ID of a purged account stays, because the histories of other users refer to it.
CREATE TABLE users (
    id TEXT PRIMARY KEY,
    -- E-mail address as entered; empty once it was released or the account was purged.
    email TEXT NOT NULL,
    -- Comparison key of the address.
    email_key TEXT NOT NULL UNIQUE,
    -- Time at which the e-mail address was verified. Users cannot be found by an unverified address.
    email_verified_at BIGINT,
    password_hash TEXT NOT NULL,
    -- Increases with each new password, not when the same password is hashed again.
    password_version BIGINT NOT NULL DEFAULT 1,
    role TEXT NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'business', 'moderator', 'admin')),
    display_name TEXT NOT NULL,
    nickname TEXT,
    theme TEXT,
    locale TEXT,
    time_zone TEXT,
    pronouns TEXT,
    created_at BIGINT NOT NULL,
    suspended_at BIGINT,
    -- Deleted by its owner and held until `purge_at`, then purged.
    deleted_at BIGINT,
    purge_at BIGINT,
    -- Observed time at which the hold of a deleted account ends. NULL until the next run of the purge.
    purge_elapsed_ms BIGINT,
    purged_at BIGINT
);
CREATE INDEX users_to_hold ON users (id)
    WHERE purge_at IS NOT NULL AND purged_at IS NULL AND purge_elapsed_ms IS NULL;
CREATE INDEX users_to_purge ON users (purge_at) WHERE purge_at IS NOT NULL AND purged_at IS NULL;
CREATE INDEX users_in_special_roles ON users (role, id) WHERE role <> 'user';

-- Open sessions. Each is a family of refresh tokens; only the token of the present generation is valid.
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
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

-- Consecutive failed password attempts, by a keyed hash of the address, device or user. A row does not imply that
-- an account exists.
CREATE TABLE login_failures (
    subject BYTEA PRIMARY KEY,
    failures BIGINT NOT NULL,
    failed_at BIGINT NOT NULL,
    locked_until BIGINT NOT NULL
);
CREATE INDEX login_failures_by_time ON login_failures (failed_at);

-- Registrations refused because the address is taken, by a keyed hash of the address.
CREATE TABLE registration_refusals (
    id TEXT PRIMARY KEY,
    address BYTEA NOT NULL,
    refused_at BIGINT NOT NULL
);
CREATE INDEX registration_refusals_of_address ON registration_refusals (address, refused_at);
CREATE INDEX registration_refusals_by_time ON registration_refusals (refused_at);

-- Hashes of the secrets that create the first administrator.
CREATE TABLE first_admin_links (
    secret_hash BYTEA PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

-- Accounts whose e-mail key was computed by earlier rules and must be recomputed.
CREATE TABLE outdated_email_keys (
    user_id TEXT PRIMARY KEY
);

-- Purged accounts with their manifests. After a restore from an older backup, they are purged again.
CREATE TABLE purges (
    user_id TEXT PRIMARY KEY,
    purged_at BIGINT NOT NULL,
    manifest TEXT NOT NULL
);

-- down
DROP TABLE purges;
DROP TABLE outdated_email_keys;
DROP TABLE first_admin_links;
DROP TABLE registration_refusals;
DROP TABLE login_failures;
DROP TABLE sessions;
DROP TABLE users;
