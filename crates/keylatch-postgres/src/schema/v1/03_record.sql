-- One row for each scope and key.
--
-- Instants are milliseconds since 1970 on this server's clock. They were computed when the row was written; nobody but
-- `keylatch.clock()` and the functions beside it compares them with anything.
CREATE TABLE keylatch.record (
    -- Whose record it is: 16 bytes of the scope's hash, 16 of the key's.
    id            bytea    NOT NULL,
    -- Who won the latest claim: the condition of every later write, with the epoch.
    owner         bytea    NOT NULL,
    epoch         bigint   NOT NULL,
    attempt       integer  NOT NULL,
    -- 1 Atomic, 2 Fenced, 3 AtMostOnce. A number that a process does not know makes the row unreadable to it.
    guarantee     smallint NOT NULL,
    -- 1 running, 2 completed. As above.
    state         smallint NOT NULL,
    created_at    bigint   NOT NULL,
    -- From when the same request may take over, and from when anyone may claim the key; null for never.
    takeover_at   bigint,
    free_at       bigint,
    -- Of a running record.
    lease_ends_at bigint,
    -- Of a completed one.
    expires_at    bigint,
    -- A sweep looks at the row from then on: never later than it has something to do. A renewal leaves it as it is,
    -- so that it touches no index (a "heap-only tuple").
    due_at        bigint,
    -- What an attempt leaves for the next one.
    released      boolean  NOT NULL DEFAULT false,
    after_crash   boolean  NOT NULL DEFAULT false,
    fingerprint   bytea    NOT NULL,
    -- The record names its own scope and key; a reader checks them against the identity.
    caller        text     NOT NULL,
    operation     text     NOT NULL,
    key           text     NOT NULL,
    step_names    bytea[],
    step_results  bytea[],
    -- Null in a running record, and in a tombstone.
    outcome       bytea,
    -- No constraint checks the lengths, which every reader does: the server would parse it anew in each statement.
    CONSTRAINT record_pkey PRIMARY KEY (id)
) WITH (
    -- Room in each page for the version that a renewal or a completion writes.
    fillfactor = 85,
    -- Every record dies once or twice: vacuum in small portions, long before a fifth of the table is dead.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05,
    -- Without pauses: it must keep up with the load that makes the garbage.
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.02,
    toast.autovacuum_vacuum_cost_delay = 0
);

-- What is large is compressed before it comes here: trying again costs time and gains nothing.
ALTER TABLE keylatch.record ALTER COLUMN outcome SET STORAGE EXTERNAL;
