-- The price group that a customer was in before, and until when: an order of what he has just read at
-- its rates costs no more than that.
ALTER TABLE customers ADD COLUMN tier_before TEXT NOT NULL DEFAULT '';
ALTER TABLE customers ADD COLUMN tier_at INTEGER NOT NULL DEFAULT 0;
