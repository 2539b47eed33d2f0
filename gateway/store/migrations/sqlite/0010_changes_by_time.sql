-- What has changed is written a night at a time, and all that is asked of it is about a time: in this
-- order a night fills pages of its own, where each service's history had one that was written anew.
CREATE TABLE changes_by_then (
    at INTEGER NOT NULL,
    provider TEXT NOT NULL,
    offer TEXT NOT NULL,
    kind TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    PRIMARY KEY (at, provider, offer, kind)
) STRICT, WITHOUT ROWID;
INSERT INTO changes_by_then SELECT at, provider, offer, kind, before, after FROM changes
    ORDER BY at, provider, offer, kind;
DROP TABLE changes;
ALTER TABLE changes_by_then RENAME TO changes;
