-- The outbox: one row for each event that waits to be published. There is one writer, so `seq` is in the order of the
-- commits. A relay reads from the start, and deletes each after the broker has acknowledged it.
CREATE TABLE keylatch_event (
    seq        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, -- never used twice
    id         BLOB    NOT NULL, -- 16 bytes: the same however often it is published
    topic      TEXT    NOT NULL,
    key        BLOB,             -- events with one topic and one key are published in order
    key_hash   INTEGER,          -- of topic and key, for look-ups; NULL without a key
    value      BLOB,
    headers    BLOB,             -- encoded; NULL for none
    bytes      INTEGER NOT NULL, -- of topic, key, value and headers
    created_at INTEGER NOT NULL
) STRICT
