-- What a sweep has to look at, in order.
CREATE INDEX keylatch_record_due ON keylatch_record (due_at) WHERE due_at IS NOT NULL
