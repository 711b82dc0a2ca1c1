-- One row for each message that was given up, until an operator or a replay removes it.
CREATE TABLE keylatch_dead_letter (
    consumer       TEXT    NOT NULL, -- the place
    topic          TEXT    NOT NULL,
    partition      INTEGER NOT NULL,
    message_offset INTEGER NOT NULL,
    digest         BLOB    NOT NULL, -- SHA-256 of the message: another log may have another one at the offset
    reason         TEXT    NOT NULL, -- rejected, undecodable, exhausted, reused, outcome_unknown
    error          TEXT    NOT NULL,
    attempts       INTEGER NOT NULL,
    trace          TEXT,
    record         BLOB,             -- the identity of the record of its id
    key            BLOB,
    message        BLOB,             -- as its consumer encodes it
    wanted         INTEGER NOT NULL, -- whether an operator wants it to be applied after all
    buried_at      INTEGER NOT NULL,
    PRIMARY KEY (consumer, topic, partition, message_offset, digest)
) STRICT
