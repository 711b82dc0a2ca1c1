-- Orders. Run by whoever starts first.
CREATE TABLE IF NOT EXISTS orders (
    -- Begins with the time, so its order is that in which orders were taken.
    order_id     uuid PRIMARY KEY,
    -- Who placed the order, and the key under which.
    caller       text NOT NULL,
    key          text NOT NULL,
    user_id      text NOT NULL,
    cart_id      text NOT NULL,
    status       text NOT NULL,
    -- Without a scale of its own, it keeps the decimals that it is given.
    total_amount numeric NOT NULL,
    -- The items, as the API shows them.
    items        jsonb NOT NULL,
    created_at   timestamptz NOT NULL,
    -- The second fence: one order for one key, even if Keylatch's record were lost.
    UNIQUE (caller, key)
);

CREATE INDEX IF NOT EXISTS orders_by_user ON orders (user_id, order_id);
