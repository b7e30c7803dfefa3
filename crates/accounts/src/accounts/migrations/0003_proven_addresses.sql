-- up
-- When an address was proven to be its owner's. Nobody is found by an address that was not.
ALTER TABLE users ADD COLUMN email_verified_at BIGINT;

-- down
ALTER TABLE users DROP COLUMN email_verified_at;
