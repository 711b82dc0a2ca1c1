SELECT clock, applied FROM keylatch.complete($1, $2, $3, $4, $5, $6)
