SELECT * FROM keylatch.read($1)
