-- up
CREATE TABLE things (
    name TEXT PRIMARY KEY
);

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    n BIGINT NOT NULL CHECK (n >= 0)
);

CREATE TABLE parts (
    thing TEXT NOT NULL REFERENCES things (name),
    n BIGINT NOT NULL,
    PRIMARY KEY (thing, n)
);

CREATE TABLE kinds (
    id BIGINT PRIMARY KEY,
    t TEXT,
    n BIGINT,
    b BOOLEAN NOT NULL DEFAULT TRUE,
    x DOUBLE PRECISION,
    bytes BYTEA
);
CREATE UNIQUE INDEX kinds_one_pending ON kinds (t) WHERE b;

-- down
DROP TABLE kinds;
DROP TABLE parts;
DROP TABLE counters;
DROP TABLE things;
