-- How many events there are of each kind, counted no further than $1.
SELECT
    keylatch.clock() AS clock,
    (SELECT count(*) FROM (SELECT FROM keylatch.event LIMIT $1) AS e) AS waiting,
    (SELECT count(*) FROM (SELECT FROM keylatch.event_stuck AS s WHERE s.state = 1 LIMIT $1) AS e) AS refused,
    (SELECT count(*) FROM (SELECT FROM keylatch.event_stuck AS s WHERE s.state = 2 LIMIT $1) AS e) AS held,
    (SELECT count(*) FROM (SELECT FROM keylatch.event_stuck AS s WHERE s.state = 3 LIMIT $1) AS e) AS set_aside,
    (SELECT e.created_at FROM keylatch.event AS e ORDER BY e.seq LIMIT 1) AS oldest
