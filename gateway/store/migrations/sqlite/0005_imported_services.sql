-- The ids of what rules import, each given to a provider's service once and for ever; those that the
-- owner has written under `services` have no provider, and are given to nothing else.
CREATE TABLE imported (
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    service TEXT NOT NULL,
    UNIQUE (provider, service)
) STRICT;

-- Which of them has a name for its own, of those that would have the same.
CREATE TABLE imported_names (
    name TEXT PRIMARY KEY,
    id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
