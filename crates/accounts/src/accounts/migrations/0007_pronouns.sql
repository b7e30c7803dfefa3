-- up
ALTER TABLE users ADD COLUMN pronouns TEXT;

-- down
ALTER TABLE users DROP COLUMN pronouns;
