-- up
-- Keys of the audit chain, sealed under a secret that the database does not hold. A key seals the links from
-- `first_link` to the next key's; links before the first key were sealed without one.
CREATE TABLE audit_keys (
    id BIGINT PRIMARY KEY,
    first_link BIGINT NOT NULL,
    sealed BYTEA NOT NULL,
    is_retired BOOLEAN NOT NULL DEFAULT FALSE
);

-- down
DROP TABLE audit_keys;
