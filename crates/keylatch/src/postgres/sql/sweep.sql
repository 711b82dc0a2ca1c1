SELECT buried, removed FROM keylatch.sweep($1)
