-- How many events there are of each kind, counted no further than ?1.
SELECT
    (SELECT count(*) FROM (SELECT 1 FROM keylatch_event LIMIT ?1)),
    (SELECT count(*) FROM (SELECT 1 FROM keylatch_event_stuck WHERE state = 'refused' LIMIT ?1)),
    (SELECT count(*) FROM (SELECT 1 FROM keylatch_event_stuck WHERE state = 'held' LIMIT ?1)),
    (SELECT count(*) FROM (SELECT 1 FROM keylatch_event_stuck WHERE state = 'aside' LIMIT ?1)),
    (SELECT created_at FROM keylatch_event ORDER BY seq LIMIT 1)
