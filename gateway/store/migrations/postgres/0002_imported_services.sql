-- The ids of what rules import, each given to a provider's service once and for ever; those that the
-- owner has written under `services` have no provider, and are given to nothing else.
CREATE TABLE imported (
    id BIGINT PRIMARY KEY,
    provider TEXT COLLATE "C" NOT NULL,
    service TEXT COLLATE "C" NOT NULL,
    UNIQUE (provider, service)
);

-- Which of them has a name for its own, of those that would have the same.
CREATE TABLE imported_names (
    name TEXT COLLATE "C" PRIMARY KEY,
    id BIGINT NOT NULL
);
