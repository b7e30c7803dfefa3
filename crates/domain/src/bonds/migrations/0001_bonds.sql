-- up
CREATE TABLE bonds (
    id TEXT PRIMARY KEY,
    user_a TEXT NOT NULL REFERENCES users (id),
    user_b TEXT NOT NULL REFERENCES users (id),
    since BIGINT NOT NULL,
    ended_at BIGINT,
    restored_at BIGINT,
    restorations BIGINT NOT NULL DEFAULT 0,
    CHECK (user_a < user_b)
);

CREATE TABLE bond_slots (
    user_id TEXT PRIMARY KEY REFERENCES users (id),
    bond_id TEXT NOT NULL REFERENCES bonds (id)
);

CREATE TABLE partner_requests (
    id TEXT PRIMARY KEY,
    from_user TEXT NOT NULL REFERENCES users (id),
    to_user TEXT NOT NULL REFERENCES users (id),
    pair_key TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'accepted', 'rejected', 'cancelled', 'expired', 'superseded')),
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
-- Few of what a person ever got is pending, and accepting looks at just those.
CREATE INDEX partner_requests_incoming_pending ON partner_requests (to_user, id) WHERE status = 'pending';
CREATE INDEX partner_requests_outgoing_pending ON partner_requests (from_user, id) WHERE status = 'pending';

-- down
DROP TABLE partner_requests;
DROP TABLE bond_slots;
DROP TABLE bonds;
