-- up

-- When servers started and how they ended, for a few days. `place` is the machine and the address it listened on: whoever
-- starts in a place where an earlier one has not said that it ends knows that this was cut short.
CREATE TABLE server_starts (
    id TEXT PRIMARY KEY,
    place TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    cut_short BOOLEAN NOT NULL DEFAULT FALSE
);

-- down

DROP TABLE server_starts;
