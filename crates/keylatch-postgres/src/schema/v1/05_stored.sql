-- A record as every function returns it. A later version may add columns to the table and leave this as it is.
CREATE VIEW keylatch.stored AS
SELECT id, owner, epoch, attempt, guarantee, state, created_at, takeover_at, free_at, lease_ends_at, expires_at,
       released, after_crash, fingerprint, caller, operation, key, step_names, step_results, outcome
FROM keylatch.record;

-- What a function found: the server's clock, what the function says beyond the record (see each), and the record, or
-- nulls if there is none.
CREATE TYPE keylatch.found AS (
    clock         bigint,
    flag          smallint,
    id            bytea,
    owner         bytea,
    epoch         bigint,
    attempt       integer,
    guarantee     smallint,
    state         smallint,
    created_at    bigint,
    takeover_at   bigint,
    free_at       bigint,
    lease_ends_at bigint,
    expires_at    bigint,
    released      boolean,
    after_crash   boolean,
    fingerprint   bytea,
    caller        text,
    operation     text,
    key           text,
    step_names    bytea[],
    step_results  bytea[],
    outcome       bytea
);
