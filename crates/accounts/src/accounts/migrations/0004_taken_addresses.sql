-- up
-- How often it was said that an address is registered, by a keyed hash of the address. Counts of networks before are dropped.
DROP TABLE registration_refusals;
CREATE TABLE registration_refusals (
    id TEXT PRIMARY KEY,
    address BYTEA NOT NULL,
    refused_at BIGINT NOT NULL
);
CREATE INDEX registration_refusals_of_address ON registration_refusals (address, refused_at);

-- down
DROP TABLE registration_refusals;
CREATE TABLE registration_refusals (
    id TEXT PRIMARY KEY,
    network BYTEA NOT NULL,
    refused_at BIGINT NOT NULL
);
CREATE INDEX registration_refusals_of_network ON registration_refusals (network, refused_at);
