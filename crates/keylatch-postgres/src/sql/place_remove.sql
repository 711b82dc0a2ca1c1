-- Removes a place that has the epoch $4, or is not there; returns whether it is gone, and the time.
WITH removed AS (
    DELETE FROM keylatch.place AS p
    WHERE p.consumer = $1 AND p.topic = $2 AND p.partition = $3 AND p.epoch = $4
    RETURNING true
)
SELECT keylatch.clock() AS clock,
       EXISTS (SELECT FROM removed) OR NOT EXISTS (
           SELECT FROM keylatch.place AS p WHERE p.consumer = $1 AND p.topic = $2 AND p.partition = $3
       ) AS applied
