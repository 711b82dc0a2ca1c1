SELECT * FROM keylatch.list($1, $2, $3, $4)
