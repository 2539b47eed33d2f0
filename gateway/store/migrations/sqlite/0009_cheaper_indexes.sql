-- What a partial index holds is said without IN, for whose list SQLite makes a table with every row
-- that is written. And an order is put among those that a provider still owes us when it is placed
-- there: those before that are few, and found by their state. All that is asked of it is in the index,
-- so that none of them has to be looked at.
DROP INDEX orders_undecided;
CREATE INDEX orders_undecided ON orders (state)
    WHERE state = 'queued' OR state = 'sending' OR state = 'unknown';
DROP INDEX orders_unsettled;
CREATE INDEX orders_unsettled ON orders (provider, cost, settled_at)
    WHERE state = 'placed' AND settled_at IS NULL;
DROP INDEX transfers_at_providers;
CREATE INDEX transfers_at_providers ON transfers (owner, at)
    WHERE code = 'cost' OR code = 'rebate' OR code = 'deposit';
