-- up
CREATE TABLE bonds (
    id TEXT PRIMARY KEY,
    user_a TEXT NOT NULL REFERENCES users (id),
    user_b TEXT NOT NULL REFERENCES users (id),
    since BIGINT NOT NULL,
    ended_at BIGINT,
    restored_at BIGINT,
    restorations BIGINT NOT NULL DEFAULT 0,
    -- Time from which on the bond cannot be restored.
    archived_at BIGINT,
    -- Display names of both users when the bond ended.
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

-- Breakups of bonds. Only the user who ended the bond can read who ended it and the reason.
CREATE TABLE breakups (
    bond_id TEXT NOT NULL REFERENCES bonds (id),
    -- Number of restorations before this breakup.
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
    -- NULL if no account has the address, or its owner cannot be found by it.
    to_user TEXT REFERENCES users (id),
    -- Display names of both users when the request was sent.
    from_name TEXT NOT NULL,
    to_name TEXT,
    -- E-mail address as entered and its comparison key, if the request was sent by address.
    to_email TEXT,
    to_email_key TEXT,
    -- FALSE if the recipient must not see the request.
    delivered BOOLEAN NOT NULL,
    -- Key of the pair. A request that is not delivered has a key of its own and does not block other requests.
    pair_key TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'accepted', 'rejected', 'cancelled', 'expired', 'superseded')),
    -- Status that the sender sees. The sender of a request by address learns only of acceptance.
    sender_visible_status TEXT NOT NULL
        CHECK (sender_visible_status IN ('pending', 'accepted', 'rejected', 'cancelled', 'expired', 'superseded')),
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
CREATE INDEX partner_requests_of_bond ON partner_requests (bond_id, from_user, id) WHERE bond_id IS NOT NULL;
-- Few of a user's requests are pending, and accepting one reads only these.
CREATE INDEX partner_requests_incoming_pending ON partner_requests (to_user, id) WHERE status = 'pending';
CREATE INDEX partner_requests_outgoing_pending ON partner_requests (from_user, id)
    WHERE sender_visible_status = 'pending';

CREATE INDEX partner_requests_by_address ON partner_requests (id) WHERE to_email_key IS NOT NULL;

-- Refusals of one user's requests by another user, since the latter last sent or accepted one.
CREATE TABLE partner_refusals (
    from_user TEXT NOT NULL REFERENCES users (id),
    to_user TEXT NOT NULL REFERENCES users (id),
    -- Number of rejections, cancellations and expiries.
    steps BIGINT NOT NULL,
    last_step_at BIGINT NOT NULL,
    -- End of the wait after the last rejection.
    wait_until BIGINT,
    cancelled_at BIGINT,
    -- Requests by address are counted separately: otherwise limits on requests by ID would reveal who has the address.
    by_email BOOLEAN NOT NULL,
    PRIMARY KEY (from_user, to_user, by_email)
);

CREATE TABLE partner_settings (
    user_id TEXT PRIMARY KEY REFERENCES users (id),
    accepts_requests_from TEXT NOT NULL CHECK (accepts_requests_from IN ('anyone', 'invited', 'nobody')),
    discoverable_by_email BOOLEAN NOT NULL,
    discreet BOOLEAN NOT NULL
);

CREATE TABLE invites (
    id TEXT PRIMARY KEY,
    -- Keyed hash: codes cannot be guessed from the table.
    code_hash BYTEA NOT NULL UNIQUE,
    inviter TEXT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- User who redeemed the invite, or the inviter if it was revoked.
    spent_by TEXT REFERENCES users (id),
    spent_at BIGINT
);
CREATE INDEX invites_of ON invites (inviter, id);
CREATE INDEX invites_open_of ON invites (inviter, id) WHERE spent_at IS NULL;
CREATE INDEX invites_used_by ON invites (spent_by) WHERE spent_by IS NOT NULL;
CREATE INDEX invites_by_end ON invites (expires_at);

-- Failed attempts with invite codes, by user and by client network.
CREATE TABLE failed_invite_attempts (
    id TEXT PRIMARY KEY,
    subject BYTEA NOT NULL,
    failed_at BIGINT NOT NULL
);
CREATE INDEX failed_invite_attempts_of ON failed_invite_attempts (subject, failed_at);
CREATE INDEX failed_invite_attempts_at ON failed_invite_attempts (failed_at);

-- Reported messages with a copy of the text.
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

-- ID up to which the maintenance job has recorded expiry.
CREATE TABLE expiry_progress (
    name TEXT PRIMARY KEY,
    up_to TEXT NOT NULL
);

-- down
DROP TABLE expiry_progress;
DROP TABLE request_reports;
DROP TABLE failed_invite_attempts;
DROP TABLE invites;
DROP TABLE partner_settings;
DROP TABLE partner_refusals;
DROP TABLE partner_requests;
DROP TABLE breakups;
DROP TABLE bond_slots;
DROP TABLE bonds;
