-- Everything of Keylatch is in this schema. IF NOT EXISTS alone needs the right to create a schema even if there is one.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE concat(nspname, '.') = 'keylatch.') THEN
        CREATE SCHEMA IF NOT EXISTS keylatch;
    END IF;
END
$$;

-- Which versions of the schema have been applied. A process compares the highest with the one that it knows: it brings an
-- older one up to date, and uses a later one if that says so.
CREATE TABLE keylatch.schema_version (
    version    integer     NOT NULL PRIMARY KEY,
    -- The lowest version that a process may know and still use this one.
    min_reader integer     NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row for each scope and key.
--
-- Instants are milliseconds since 1970 on this server's clock, which is `keylatch.clock()`. They were computed when the row
-- was written, and are compared with nothing but that clock.
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
    -- A statement that is prepared while the table looks small reads the whole table for as long as the plan is kept. The
    -- planner assumes at least ten pages for a table that was never analyzed. So the first analysis waits until there are
    -- more, and a table that was emptied keeps its pages. Making it shorter would also lock it.
    autovacuum_vacuum_threshold = 500,
    autovacuum_analyze_threshold = 500,
    vacuum_truncate = off,
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

-- What a sweep looks for, the oldest first.
CREATE INDEX record_due ON keylatch.record (due_at) WHERE due_at IS NOT NULL;

-- The running records, of which there are few, in the order in which operators page through them.
CREATE INDEX record_running ON keylatch.record (id) WHERE state = 1;
