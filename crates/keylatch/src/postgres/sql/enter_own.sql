SELECT * FROM keylatch.enter_own($1, $2, $3)
