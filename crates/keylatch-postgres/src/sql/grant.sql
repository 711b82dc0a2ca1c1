-- What a role needs to use a store, and nothing else: it can neither change the schema nor say which version it has.
GRANT USAGE ON SCHEMA :schema TO :role;
GRANT SELECT ON :schema.schema_version TO :role;
GRANT SELECT, INSERT, UPDATE, DELETE ON :schema.record TO :role;
GRANT SELECT, INSERT, DELETE ON :schema.event TO :role;
GRANT SELECT, INSERT, UPDATE, DELETE ON :schema.event_stuck TO :role;
GRANT SELECT, UPDATE ON :schema.event_lane TO :role;
GRANT SELECT, INSERT, UPDATE, DELETE ON :schema.place TO :role;
GRANT SELECT, INSERT, UPDATE, DELETE ON :schema.dead_letter TO :role;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA :schema TO :role;
