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
