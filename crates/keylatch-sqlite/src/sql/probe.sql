-- Changes nothing. SQLite takes one step more in it while a deferred foreign key does not hold: see deferred.rs.
UPDATE temp.keylatch_probe SET b = NULL WHERE a = 1
