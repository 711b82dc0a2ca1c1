-- One row for each consumer and partition of a topic. Instants are milliseconds since 1970 on the clock of this store.
CREATE TABLE keylatch_place (
    consumer       TEXT    NOT NULL,
    topic          TEXT    NOT NULL,
    partition      INTEGER NOT NULL,
    epoch          INTEGER NOT NULL, -- the fencing number: one higher with every owner, and every move by an operator
    owner          BLOB,             -- 16 bytes: who has it; NULL once it was given back
    next           INTEGER,          -- the next offset to apply; NULL until the first owner has said where it begins
    last_offset    INTEGER,          -- the last message that was passed, and its digest
    last_digest    BLOB,
    after_crash    INTEGER NOT NULL, -- whether the owner before this one has not given it back
    tried_offset   INTEGER,          -- the message that is tried by itself, and the tries that have begun
    tried_attempts INTEGER,
    changed_at     INTEGER NOT NULL,
    PRIMARY KEY (consumer, topic, partition)
) STRICT, WITHOUT ROWID
