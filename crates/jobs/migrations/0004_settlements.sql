-- up
-- Ended jobs whose waiting jobs have not all been told: one transaction tells only so many. Usually empty.
CREATE TABLE job_settlements (
    id SERIAL_ID,
    job BIGINT NOT NULL,
    state BIGINT NOT NULL,
    result TEXT
);

-- down
DROP TABLE job_settlements;
