SELECT keylatch.count($1, $2, $3)
