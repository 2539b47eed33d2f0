-- When the provider was asked for what is known of an order, so that nothing older replaces it; and
-- whether the order counts against its customer's daily cap.
ALTER TABLE orders ADD COLUMN reported_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE orders ADD COLUMN capped INTEGER NOT NULL DEFAULT 0;
