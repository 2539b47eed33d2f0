-- Who does a piece of background work, until when, and the how manyeth that is: what a former
-- holder still writes is refused by that number.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    fence INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE orders ADD COLUMN sender TEXT NOT NULL DEFAULT '';
ALTER TABLE orders ADD COLUMN queued_at INTEGER NOT NULL DEFAULT 0;
UPDATE orders SET queued_at = created_at WHERE state = 'queued';

ALTER TABLE customers ADD COLUMN daily_cap INTEGER;
ALTER TABLE customers ADD COLUMN addresses TEXT NOT NULL DEFAULT '[]';
ALTER TABLE customers ADD COLUMN per_second INTEGER;

-- What the orders of a customer with a daily cap have cost, by the day that they were placed.
CREATE TABLE spending (
    customer INTEGER NOT NULL,
    day INTEGER NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (customer, day)
) STRICT, WITHOUT ROWID;

-- Our balance at each provider, every time that it was asked for.
CREATE TABLE readings (
    provider TEXT NOT NULL,
    asked_at INTEGER NOT NULL,
    answered_at INTEGER NOT NULL,
    balance INTEGER NOT NULL,
    currency TEXT NOT NULL,
    checked INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (provider, asked_at)
) STRICT, WITHOUT ROWID;

-- What moved money at a provider lately, to compare with its balance.
CREATE INDEX transfers_at_providers ON transfers (owner, at)
    WHERE code IN ('cost', 'rebate', 'deposit');

-- The orders that a provider still owes us, or may have without our knowing.
CREATE INDEX orders_unsettled ON orders (provider, cost)
    WHERE state IN ('sending', 'unknown') OR (state = 'placed' AND settled_at IS NULL);

-- Two kinds of orders that are rare and that somebody has to look after: known to be placed, but not
-- under which id; and taken by a provider after they were given up.
CREATE INDEX orders_without_id ON orders (provider) WHERE state = 'placed' AND upstream_id = '';
CREATE INDEX orders_taken_too_late ON orders (provider, attempt_at)
    WHERE state = 'failed' AND upstream_id <> '';

-- New names for accounts that may be below zero.
CREATE TABLE accounts_2 (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    currency TEXT NOT NULL,
    balance INTEGER NOT NULL DEFAULT 0,
    UNIQUE (owner, kind, currency),
    CHECK (balance >= 0 OR kind IN ('funds', 'owed', 'paid', 'purse'))
) STRICT;
INSERT INTO accounts_2 SELECT id, kind, owner, currency, balance FROM accounts;
DROP TABLE accounts;
ALTER TABLE accounts_2 RENAME TO accounts;
