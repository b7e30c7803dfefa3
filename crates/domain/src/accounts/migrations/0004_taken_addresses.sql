-- up
-- Which address was said to be registered, by its keyed hash.
ALTER TABLE registration_refusals ADD COLUMN address BYTEA;
CREATE INDEX registration_refusals_of_address ON registration_refusals (address, refused_at) WHERE address IS NOT NULL;

-- down
DROP INDEX registration_refusals_of_address;
ALTER TABLE registration_refusals DROP COLUMN address;
