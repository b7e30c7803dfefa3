-- up
-- Fencing token of the claim that a running job belongs to: random, so that it differs from the token of a claim that a
-- crash of the database undid, whose attempt number is used again. 0: claimed before tokens were introduced.
ALTER TABLE jobs ADD COLUMN claim_token BIGINT NOT NULL DEFAULT 0;

-- down
ALTER TABLE jobs DROP COLUMN claim_token;
