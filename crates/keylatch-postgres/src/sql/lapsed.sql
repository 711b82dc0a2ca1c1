SELECT * FROM keylatch.lapsed($1, $2)
