-- One row for one (scope, key). All instants are milliseconds since 1970 on the clock of this store.
CREATE TABLE keylatch_record (
    id            BLOB    NOT NULL, -- 32 bytes: half the digest of the scope, half that of scope and key
    caller        TEXT    NOT NULL, -- the scope: who calls
    operation     TEXT    NOT NULL, -- the scope: what is called
    key           TEXT    NOT NULL,
    fingerprint   BLOB    NOT NULL, -- SHA-256 of the request
    guarantee     TEXT    NOT NULL, -- atomic, fenced, at_most_once
    epoch         INTEGER NOT NULL, -- the fencing number
    owner         BLOB    NOT NULL, -- 16 bytes: who won the latest claim
    attempt       INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    takeover_at   INTEGER,          -- from when the same request may take over; NULL for never
    free_at       INTEGER,          -- from when anyone may claim it anew; NULL for never
    state         TEXT    NOT NULL, -- running, completed
    lease_ends_at INTEGER,          -- of a running record
    expires_at    INTEGER,          -- of a completed record: when the answer stops being given
    outcome       BLOB,             -- of a completed record, until a sweep takes it
    notes         BLOB,             -- of a running record, if it has any
    due_at        INTEGER           -- from when a sweep has something to do; NULL for never
) STRICT
