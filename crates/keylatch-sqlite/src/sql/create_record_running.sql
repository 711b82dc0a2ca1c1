-- What is running, which at any moment are few: among them are those whose lease has ended.
CREATE INDEX keylatch_record_running ON keylatch_record (id) WHERE state = 'running'
