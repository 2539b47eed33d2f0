-- Orders that leave for the archive in this transaction: only their transfers may be deleted here.
CREATE TABLE leaving ("order" INTEGER PRIMARY KEY) STRICT;
DROP TRIGGER transfers_are_not_deleted;
CREATE TRIGGER transfers_are_not_deleted BEFORE DELETE ON transfers
WHEN old."order" IS NULL OR NOT EXISTS (SELECT 1 FROM leaving WHERE leaving."order" = old."order")
BEGIN SELECT raise(ABORT, 'a transfer is never deleted; post another one'); END;
