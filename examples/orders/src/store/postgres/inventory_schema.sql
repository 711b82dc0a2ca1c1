-- What follows from orders. Run by whoever starts first.
CREATE TABLE IF NOT EXISTS inventory (
    product_id text PRIMARY KEY,
    -- Pieces in all orders.
    ordered    bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS user_total (
    user_id      text PRIMARY KEY,
    orders       bigint NOT NULL,
    -- Without a scale of its own, it keeps the decimals that it is given.
    total_amount numeric NOT NULL
);
