-- A row of our own with a deferred foreign key, which refers to nothing. It lives in memory, with the connection.
CREATE TEMP TABLE keylatch_probe (
    a INTEGER PRIMARY KEY,
    b INTEGER REFERENCES keylatch_probe (a) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO temp.keylatch_probe (a, b) VALUES (1, NULL)
