-- The owner's file as it was taken up, so that a mistake in the next one leaves a gateway that works,
-- also across a restart. Keys are not in it: the file only names the variables that hold them.
CREATE TABLE configurations (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
