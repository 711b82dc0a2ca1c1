-- Whether Keylatch was ever set up in this file.
SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'keylatch_schema')
