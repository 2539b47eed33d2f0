-- An order is put among those that a provider still owes us when it is placed there; those before
-- that are few, and found by their state.
DROP INDEX orders_unsettled;
CREATE INDEX orders_unsettled ON orders (provider, cost)
    WHERE state = 'placed' AND settled_at IS NULL;
