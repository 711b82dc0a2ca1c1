-- One row for each intent that has no final answer yet.
CREATE TABLE intent (
    key TEXT PRIMARY KEY,
    -- When it was begun, by the machine's clock.
    created_unix_ms INTEGER NOT NULL,
    method TEXT NOT NULL,
    url TEXT NOT NULL,
    -- A line for each header, "name:value", without credentials.
    headers BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
