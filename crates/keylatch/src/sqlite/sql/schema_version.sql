-- The latest schema of this file; NULL if there is none yet.
SELECT max(version) FROM keylatch_schema
