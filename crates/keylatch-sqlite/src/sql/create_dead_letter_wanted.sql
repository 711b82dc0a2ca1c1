-- The dead letters that are to be applied, of which there are few: owners look for them again and again.
CREATE INDEX keylatch_dead_letter_wanted ON keylatch_dead_letter (consumer, topic, partition, message_offset, digest) WHERE wanted
