-- up
CREATE TABLE handled (
    n BIGINT PRIMARY KEY,
    consumer TEXT NOT NULL,
    position BIGINT NOT NULL,
    subject TEXT NOT NULL
);

-- down
DROP TABLE handled;
