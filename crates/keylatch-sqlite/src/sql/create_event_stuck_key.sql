-- Whether a key is held back, and by what.
CREATE INDEX keylatch_event_stuck_key ON keylatch_event_stuck (key_hash, seq) WHERE state <> 'aside'
