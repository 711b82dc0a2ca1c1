-- Events that cannot be published until an operator acts, apart from the others.
CREATE TABLE keylatch_event_stuck (
    seq        INTEGER NOT NULL PRIMARY KEY,
    id         BLOB    NOT NULL,
    topic      TEXT    NOT NULL,
    key        BLOB,
    key_hash   INTEGER,
    value      BLOB,
    headers    BLOB,
    bytes      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    state      TEXT    NOT NULL, -- refused: it holds back its key; held: it waits behind a refused one; aside: neither
    stuck_at   INTEGER NOT NULL,
    reason     TEXT              -- why the publisher refused it
) STRICT
