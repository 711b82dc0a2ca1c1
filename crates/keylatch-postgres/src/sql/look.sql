SELECT * FROM keylatch.look($1, $2)
