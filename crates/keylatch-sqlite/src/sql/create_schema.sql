-- Which schemas were applied to this file, and when. The file is shared with the user's own tables, so its
-- user_version is the user's.
CREATE TABLE IF NOT EXISTS keylatch_schema (
    version    INTEGER NOT NULL PRIMARY KEY,
    min_reader INTEGER NOT NULL, -- the lowest version that a process may know and still use the file
    applied_at INTEGER NOT NULL  -- milliseconds since 1970
) STRICT
