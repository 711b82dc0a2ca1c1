-- The name space of everything that is Keylatch's. The migration has made sure that it may.
CREATE SCHEMA IF NOT EXISTS keylatch;
