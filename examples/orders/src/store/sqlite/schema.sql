-- Orders. Run at every start.
CREATE TABLE IF NOT EXISTS orders (
    -- Begins with the time, so its order is that in which orders were taken.
    order_id     TEXT PRIMARY KEY NOT NULL,
    -- Who placed the order, and the key under which.
    caller       TEXT NOT NULL,
    key          TEXT NOT NULL,
    user_id      TEXT NOT NULL,
    cart_id      TEXT NOT NULL,
    status       TEXT NOT NULL,
    -- Money is text: SQLite's numbers are binary fractions, in which there is no 0.10.
    total_amount TEXT NOT NULL,
    -- The items as JSON, as the API shows them.
    items        TEXT NOT NULL,
    -- Milliseconds since 1970.
    created_at   INTEGER NOT NULL,
    -- The second fence: one order for one key, even if Keylatch's record were lost.
    UNIQUE (caller, key)
) STRICT;

CREATE INDEX IF NOT EXISTS orders_by_user ON orders (user_id, order_id);
