-- Changes of providers' services, and whole lists (then the offer is empty), that wait for the
-- owner's word.
CREATE TABLE quarantine (
    provider TEXT NOT NULL,
    offer TEXT NOT NULL,
    reason TEXT NOT NULL,
    paused INTEGER NOT NULL,
    offered TEXT NOT NULL,
    services INTEGER NOT NULL,
    at INTEGER NOT NULL,
    decision TEXT NOT NULL,
    PRIMARY KEY (provider, offer)
) STRICT, WITHOUT ROWID;

-- Everything that has changed about providers' services.
CREATE TABLE changes (
    provider TEXT NOT NULL,
    offer TEXT NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    PRIMARY KEY (provider, offer, at, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX changes_by_time ON changes (at);

-- In which edition of all offers each provider's have changed last.
CREATE TABLE editions (
    provider TEXT PRIMARY KEY,
    edition INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO editions SELECT DISTINCT provider, (SELECT value FROM counters WHERE name = 'offers')
    FROM offers;

-- The last good exchange rates of the owner's source, and of when each is.
CREATE TABLE exchange_rates (
    currency TEXT PRIMARY KEY,
    rate TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
