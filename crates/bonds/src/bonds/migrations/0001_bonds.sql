-- up
CREATE TABLE bonds (
    id TEXT PRIMARY KEY,
    user_a TEXT NOT NULL REFERENCES users (id),
    user_b TEXT NOT NULL REFERENCES users (id),
    since BIGINT NOT NULL,
    ended_at BIGINT,
    restored_at BIGINT,
    restorations BIGINT NOT NULL DEFAULT 0,
    -- From then on it cannot come back.
    archived_at BIGINT,
    -- What the two were called when it ended.
    name_a TEXT,
    name_b TEXT,
    CHECK (user_a < user_b)
);
CREATE INDEX bonds_of_pair ON bonds (user_a, user_b, ended_at);
CREATE INDEX bonds_of_a ON bonds (user_a, id);
CREATE INDEX bonds_of_b ON bonds (user_b, id);
CREATE INDEX bonds_to_archive ON bonds (ended_at) WHERE ended_at IS NOT NULL AND archived_at IS NULL;
CREATE INDEX bonds_archived ON bonds (archived_at) WHERE archived_at IS NOT NULL;

CREATE TABLE bond_slots (
    user_id TEXT PRIMARY KEY REFERENCES users (id),
    bond_id TEXT NOT NULL REFERENCES bonds (id)
);

-- Each time that a bond ended. Who ended it, and why, is for that one alone.
CREATE TABLE breakups (
    bond_id TEXT NOT NULL REFERENCES bonds (id),
    -- How often the bond had come back before.
    restorations BIGINT NOT NULL,
    ended_at BIGINT NOT NULL,
    ended_by TEXT NOT NULL REFERENCES users (id),
    reason TEXT,
    restored_at BIGINT,
    PRIMARY KEY (bond_id, restorations)
);
CREATE INDEX breakups_by ON breakups (ended_by);

CREATE TABLE partner_requests (
    id TEXT PRIMARY KEY,
    from_user TEXT NOT NULL REFERENCES users (id),
    -- NULL where the address is nobody's, or does not find its owner.
    to_user TEXT REFERENCES users (id),
    -- What the two were called when it was sent.
    from_name TEXT NOT NULL,
    to_name TEXT,
    -- As the sender typed it, and folded, if they asked by address.
    to_email TEXT,
    to_email_key TEXT,
    -- Whether the one who is asked ever sees it.
    delivered BOOLEAN NOT NULL,
    -- Of the pair; one that is not delivered has a key of its sender's own, and is in nobody's way.
    pair_key TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'accepted', 'rejected', 'cancelled', 'expired', 'superseded')),
    -- What the sender is told: who asks by address does not learn whether anybody has it, until they accept.
    told TEXT NOT NULL
        CHECK (told IN ('pending', 'accepted', 'rejected', 'cancelled', 'expired', 'superseded')),
    message TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    decided_at BIGINT,
    bond_id TEXT REFERENCES bonds (id),
    CHECK (from_user <> to_user)
);

CREATE UNIQUE INDEX partner_requests_pending ON partner_requests (pair_key) WHERE status = 'pending';
CREATE INDEX partner_requests_incoming ON partner_requests (to_user, id);
CREATE INDEX partner_requests_outgoing ON partner_requests (from_user, id);
CREATE INDEX partner_requests_behind ON partner_requests (bond_id, from_user, id) WHERE bond_id IS NOT NULL;
-- Few of what a person ever got is pending, and accepting looks at just those.
CREATE INDEX partner_requests_incoming_pending ON partner_requests (to_user, id) WHERE status = 'pending';
CREATE INDEX partner_requests_outgoing_pending ON partner_requests (from_user, id) WHERE told = 'pending';

CREATE INDEX partner_requests_by_address ON partner_requests (id) WHERE to_email_key IS NOT NULL;

-- How often one person was refused by another, since the other one last asked or accepted.
CREATE TABLE partner_refusals (
    from_user TEXT NOT NULL REFERENCES users (id),
    to_user TEXT NOT NULL REFERENCES users (id),
    -- Rejections, and requests that the sender took back or that expired.
    steps BIGINT NOT NULL,
    stepped_at BIGINT NOT NULL,
    -- What the last rejection makes the sender wait for.
    wait_until BIGINT,
    cancelled_at BIGINT,
    -- Those of requests by address stand apart: by what a sender may ask by id they would learn whose the address is.
    by_email BOOLEAN NOT NULL,
    PRIMARY KEY (from_user, to_user, by_email)
);

CREATE TABLE partner_settings (
    user_id TEXT PRIMARY KEY REFERENCES users (id),
    who_may_ask TEXT NOT NULL CHECK (who_may_ask IN ('anyone', 'invited', 'nobody')),
    found_by_email BOOLEAN NOT NULL,
    discreet BOOLEAN NOT NULL
);

CREATE TABLE invites (
    id TEXT PRIMARY KEY,
    -- A keyed hash: whoever reads the table cannot try out codes.
    code_hash BYTEA NOT NULL UNIQUE,
    inviter TEXT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- By whom it was used, or taken back by the inviter.
    spent_by TEXT REFERENCES users (id),
    spent_at BIGINT
);
CREATE INDEX invites_of ON invites (inviter, id);
CREATE INDEX invites_live_of ON invites (inviter, id) WHERE spent_at IS NULL;
CREATE INDEX invites_used_by ON invites (spent_by) WHERE spent_by IS NOT NULL;
CREATE INDEX invites_by_end ON invites (expires_at);

-- Codes that were tried and led nowhere: by person, and by client network.
CREATE TABLE invite_misses (
    id TEXT PRIMARY KEY,
    subject BYTEA NOT NULL,
    missed_at BIGINT NOT NULL
);
CREATE INDEX invite_misses_of ON invite_misses (subject, missed_at);
CREATE INDEX invite_misses_at ON invite_misses (missed_at);

-- Messages that somebody found worth a moderator's look, kept as they were.
CREATE TABLE request_reports (
    id TEXT PRIMARY KEY,
    request_id TEXT NOT NULL REFERENCES partner_requests (id),
    reporter TEXT NOT NULL REFERENCES users (id),
    reported TEXT NOT NULL REFERENCES users (id),
    message TEXT,
    reason TEXT NOT NULL CHECK (reason IN ('harassment', 'spam', 'other')),
    note TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (request_id, reporter)
);
CREATE INDEX request_reports_of ON request_reports (reporter);
CREATE INDEX request_reports_against ON request_reports (reported);

-- How far the ticker that writes expiry down has come, in the order of ids.
CREATE TABLE expiry_marks (
    name TEXT PRIMARY KEY,
    up_to TEXT NOT NULL
);

-- down
DROP TABLE expiry_marks;
DROP TABLE request_reports;
DROP TABLE invite_misses;
DROP TABLE invites;
DROP TABLE partner_settings;
DROP TABLE partner_refusals;
DROP TABLE partner_requests;
DROP TABLE breakups;
DROP TABLE bond_slots;
DROP TABLE bonds;
