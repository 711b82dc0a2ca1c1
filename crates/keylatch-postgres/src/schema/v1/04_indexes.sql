-- What a sweep looks for, the oldest first.
CREATE INDEX record_due ON keylatch.record (due_at) WHERE due_at IS NOT NULL;

-- The running records, of which there are few, in the order in which operators page through them.
CREATE INDEX record_running ON keylatch.record (id) WHERE state = 1;
