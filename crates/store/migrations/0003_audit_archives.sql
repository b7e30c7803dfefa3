-- up
CREATE INDEX audit_entries_archived ON audit_entries (id) WHERE action = 'audit.archived';

-- down
DROP INDEX audit_entries_archived;
