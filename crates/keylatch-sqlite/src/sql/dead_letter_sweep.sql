-- Dead letters of the consumer ?1 that were given up before ?2 and that nobody wants, ?3 at most.
DELETE FROM keylatch_dead_letter
WHERE rowid IN (
    SELECT rowid FROM keylatch_dead_letter
    WHERE consumer = ?1 AND buried_at < ?2 AND NOT wanted
    LIMIT ?3
)
