-- Amounts are whole millionths, times are milliseconds since 1970. All tables are STRICT, so that a
-- sum which overflows is an error and never a float.

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('order', 0), ('offers', 0);

-- What must outlive a restart and belongs to no table: the pepper of the customers' keys.
CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO secrets VALUES ('pepper', randomblob(32));

CREATE TABLE customers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL UNIQUE,
    tier TEXT NOT NULL DEFAULT '',
    disabled INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
) STRICT;

-- The floor: nobody spends what he does not have, whatever the program believes.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    currency TEXT NOT NULL,
    balance INTEGER NOT NULL DEFAULT 0,
    UNIQUE (owner, kind, currency),
    CHECK (balance >= 0 OR kind IN ('funds', 'owed', 'purse'))
) STRICT;

CREATE TABLE transfers (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    code TEXT NOT NULL,
    owner TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    "order" INTEGER,
    at INTEGER NOT NULL
) STRICT;
CREATE TRIGGER transfers_are_not_changed BEFORE UPDATE ON transfers
BEGIN SELECT raise(ABORT, 'a transfer is never changed; post another one'); END;
CREATE TRIGGER transfers_are_not_deleted BEFORE DELETE ON transfers
BEGIN SELECT raise(ABORT, 'a transfer is never deleted; post another one'); END;

CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    customer INTEGER NOT NULL REFERENCES customers (id),
    service INTEGER NOT NULL,
    type TEXT NOT NULL,
    params TEXT NOT NULL,
    size INTEGER NOT NULL,
    charge INTEGER NOT NULL,
    currency TEXT NOT NULL,
    state TEXT NOT NULL,
    provider TEXT NOT NULL,
    route TEXT NOT NULL,
    upstream_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    attempt_at INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    cost_currency TEXT NOT NULL,
    billed INTEGER,
    exchange TEXT NOT NULL,
    status TEXT NOT NULL,
    start_count INTEGER,
    remains INTEGER,
    runs INTEGER,
    posts INTEGER,
    orders TEXT NOT NULL,
    expiry TEXT NOT NULL,
    cancel TEXT NOT NULL,
    error TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    settled_at INTEGER,
    poll_at INTEGER
) STRICT;
-- Each index but the second holds only the orders that still need something.
CREATE INDEX orders_to_ask ON orders (provider, poll_at) WHERE poll_at IS NOT NULL;
CREATE UNIQUE INDEX orders_by_upstream_id ON orders (provider, upstream_id)
    WHERE upstream_id <> '';
CREATE INDEX orders_undecided ON orders (state) WHERE state IN ('queued', 'sending', 'unknown');
CREATE INDEX orders_to_cancel ON orders (id) WHERE cancel = 'wanted';

CREATE TABLE events (
    "order" INTEGER NOT NULL,
    version INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY ("order", version)
) STRICT, WITHOUT ROWID;

-- What a customer's key, or the content of an order, stands for, so that it is placed once.
CREATE TABLE claims (
    customer INTEGER NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    "order" INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (customer, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_by_order ON claims ("order");
CREATE INDEX claims_by_age ON claims (at);

CREATE TABLE refills (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    "order" INTEGER NOT NULL REFERENCES orders (id),
    customer INTEGER NOT NULL,
    provider TEXT NOT NULL,
    upstream_id TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    poll_at INTEGER
) STRICT;
CREATE INDEX refills_to_ask ON refills (provider, poll_at) WHERE poll_at IS NOT NULL;
CREATE INDEX refills_by_order ON refills ("order");

CREATE TABLE offers (
    provider TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    category TEXT NOT NULL,
    rate TEXT NOT NULL,
    min INTEGER NOT NULL,
    max INTEGER NOT NULL,
    refill INTEGER,
    cancel INTEGER,
    dripfeed INTEGER,
    description TEXT NOT NULL,
    gone_at INTEGER,
    PRIMARY KEY (provider, id)
) STRICT, WITHOUT ROWID;

-- What was last seen of each provider, for people.
CREATE TABLE sightings (
    provider TEXT PRIMARY KEY,
    balance INTEGER,
    currency TEXT NOT NULL DEFAULT '',
    balance_at INTEGER,
    synced_at INTEGER,
    offers INTEGER,
    answered_at INTEGER,
    latency INTEGER,
    failures INTEGER NOT NULL DEFAULT 0,
    trouble TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
