-- up
-- Keys of spaces are `me:` with a user ID, or `bond:` with a bond ID.
CREATE TABLE space_items (
    id TEXT PRIMARY KEY,
    space TEXT NOT NULL,
    collection TEXT NOT NULL,
    data TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT REFERENCES users (id),
    updated_at BIGINT NOT NULL,
    updated_by TEXT REFERENCES users (id),
    -- Revision of the declared fields by which the item is indexed in `space_item_fields`; 0 if it is not.
    indexed_revision BIGINT NOT NULL
);
CREATE INDEX space_items_listed ON space_items (space, collection, id);
CREATE INDEX space_items_indexed ON space_items (collection, indexed_revision);

-- Number of items and bytes per collection and space. An empty collection has no row.
CREATE TABLE space_collections (
    space TEXT NOT NULL,
    collection TEXT NOT NULL,
    items BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    PRIMARY KEY (space, collection)
);

-- Values of the declared fields of items, encoded as texts that sort like the values.
CREATE TABLE space_item_fields (
    item_id TEXT NOT NULL,
    field TEXT NOT NULL,
    space TEXT NOT NULL,
    collection TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (item_id, field)
);
CREATE INDEX space_item_fields_sorted ON space_item_fields (space, collection, field, value, item_id);

-- A withdrawn declaration keeps its row, so that revisions only increase.
CREATE TABLE collection_declarations (
    name TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    revision BIGINT NOT NULL,
    declared BOOLEAN NOT NULL,
    schema TEXT,
    fields TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Next due time of each reminder.
CREATE TABLE space_reminders (
    item_id TEXT NOT NULL,
    minutes_before BIGINT NOT NULL,
    space TEXT NOT NULL,
    due_at BIGINT NOT NULL,
    PRIMARY KEY (item_id, minutes_before)
);
CREATE INDEX space_reminders_due ON space_reminders (due_at, item_id);

-- Archived spaces of bonds with their size and the time of their purge.
CREATE TABLE archived_spaces (
    bond_id TEXT PRIMARY KEY REFERENCES bonds (id),
    archived_at BIGINT NOT NULL,
    items BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    purge_at BIGINT,
    -- Observed time at which the hold of an archive ends.
    purge_elapsed_ms BIGINT,
    purged_at BIGINT,
    manifest TEXT
);
CREATE INDEX archived_spaces_latest ON archived_spaces (archived_at);
CREATE INDEX archived_spaces_retained ON archived_spaces (archived_at) WHERE purged_at IS NULL AND purge_at IS NULL;
CREATE INDEX archived_spaces_held ON archived_spaces (purge_at) WHERE purged_at IS NULL AND purge_at IS NOT NULL;

CREATE TABLE archived_space_items (
    id TEXT PRIMARY KEY,
    space TEXT NOT NULL,
    collection TEXT NOT NULL,
    data TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT REFERENCES users (id),
    updated_at BIGINT NOT NULL,
    updated_by TEXT REFERENCES users (id)
);
CREATE INDEX archived_space_items_listed ON archived_space_items (space, collection, id);

-- down
DROP TABLE archived_space_items;
DROP TABLE archived_spaces;
DROP TABLE space_reminders;
DROP TABLE collection_declarations;
DROP TABLE space_item_fields;
DROP TABLE space_collections;
DROP TABLE space_items;
