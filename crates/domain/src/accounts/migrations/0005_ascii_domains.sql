-- up
-- Addresses whose keys may have been made when domains were not brought to one form.
CREATE INDEX users_to_rekey ON users (id) WHERE octet_length(email_key) <> length(email_key);

-- down
DROP INDEX users_to_rekey;
