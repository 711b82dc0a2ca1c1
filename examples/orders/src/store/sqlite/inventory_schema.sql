-- What follows from orders. Run at every start.
CREATE TABLE IF NOT EXISTS inventory (
    product_id TEXT PRIMARY KEY NOT NULL,
    -- Pieces in all orders.
    ordered    INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS user_total (
    user_id      TEXT PRIMARY KEY NOT NULL,
    orders       INTEGER NOT NULL,
    -- Money is text: SQLite's numbers are binary fractions, in which there is no 0.10.
    total_amount TEXT NOT NULL
) STRICT;
