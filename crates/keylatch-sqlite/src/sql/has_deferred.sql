-- Whether any table but our own has a constraint that may be deferred. The word may stand elsewhere: then it is looked
-- for in vain.
SELECT EXISTS (
    SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE '%deferred%'
    UNION ALL
    SELECT 1 FROM temp.sqlite_schema WHERE type = 'table' AND sql LIKE '%deferred%' AND name <> 'keylatch_probe'
)
