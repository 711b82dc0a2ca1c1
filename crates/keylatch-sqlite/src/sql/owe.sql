-- A row that refers to one that is not there.
INSERT INTO temp.keylatch_probe (a, b) VALUES (2, 3)
