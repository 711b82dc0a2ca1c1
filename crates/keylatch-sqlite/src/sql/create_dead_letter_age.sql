-- How old the dead letters of a consumer are: by choice, old ones are removed.
CREATE INDEX keylatch_dead_letter_age ON keylatch_dead_letter (consumer, buried_at)
