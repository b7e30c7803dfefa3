-- up
-- Accounts whose addresses may have keys that were made when domains were not brought to one form, until they are looked at.
CREATE TABLE email_keys_to_check (
    user_id TEXT PRIMARY KEY
);
INSERT INTO email_keys_to_check (user_id) SELECT id FROM users WHERE octet_length(email_key) <> length(email_key);

-- down
DROP TABLE email_keys_to_check;
