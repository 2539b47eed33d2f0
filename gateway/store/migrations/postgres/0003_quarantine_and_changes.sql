-- Changes of providers' services, and whole lists (then the offer is empty), that wait for the
-- owner's word.
CREATE TABLE quarantine (
    provider TEXT NOT NULL,
    offer TEXT NOT NULL,
    reason TEXT NOT NULL,
    paused BOOLEAN NOT NULL,
    offered TEXT NOT NULL,
    services BIGINT NOT NULL,
    at BIGINT NOT NULL,
    decision TEXT NOT NULL,
    PRIMARY KEY (provider, offer)
);

-- Everything that has changed about providers' services.
CREATE TABLE changes (
    provider TEXT NOT NULL,
    offer TEXT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    PRIMARY KEY (provider, offer, at, kind)
);
CREATE INDEX changes_by_time ON changes (at);

-- In which edition of all offers each provider's have changed last.
CREATE TABLE editions (
    provider TEXT PRIMARY KEY,
    edition BIGINT NOT NULL
);
INSERT INTO editions SELECT DISTINCT provider, (SELECT value FROM counters WHERE name = 'offers')
    FROM offers;

-- The last good exchange rates of the owner's source, and of when each is.
CREATE TABLE exchange_rates (
    currency TEXT PRIMARY KEY,
    rate TEXT NOT NULL,
    at BIGINT NOT NULL
);
