SELECT buried, removed, reached FROM keylatch.sweep($1, $2)
