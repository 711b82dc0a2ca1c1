-- Which versions of the schema have been applied. A process compares the highest with the one that it knows: it brings an
-- older one up to date, and uses a later one if that says so.
CREATE TABLE keylatch.schema_version (
    version    integer     NOT NULL PRIMARY KEY,
    -- The lowest version that a process may know and still use this one.
    min_reader integer     NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
