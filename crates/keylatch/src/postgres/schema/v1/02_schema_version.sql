-- Which versions of the schema have been applied. A process compares the highest with the one that it knows.
CREATE TABLE keylatch.schema_version (
    version    integer     NOT NULL PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
