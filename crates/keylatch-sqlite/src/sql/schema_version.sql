-- The latest schema of this file, and the lowest version that may use it; 0 if there is none yet.
SELECT coalesce(max(version), 0), coalesce(max(min_reader), 0) FROM keylatch_schema
