-- Takes back what the unit wrote, and nothing else of the batch.
ROLLBACK TO keylatch_unit
