-- Every look-up is by identity. An index beside a rowid table keeps the rows in the order in which they came.
CREATE UNIQUE INDEX keylatch_record_id ON keylatch_record (id)
