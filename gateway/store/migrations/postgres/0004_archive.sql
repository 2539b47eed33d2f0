-- Old settled orders with their history and their money, in parts of ten million orders each, which
-- may be put on slower disks. Nothing that is done all the time looks here.
CREATE SCHEMA archive;
CREATE TABLE archive.orders (LIKE orders, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE archive.events (LIKE events, PRIMARY KEY ("order", version))
    PARTITION BY RANGE ("order");
CREATE TABLE archive.transfers (LIKE transfers, PRIMARY KEY ("order", id))
    PARTITION BY RANGE ("order");

-- What is still in use and what is archived, for those who read everything: the audit, copies.
CREATE SCHEMA whole;
CREATE VIEW whole.orders AS SELECT * FROM orders UNION ALL SELECT * FROM archive.orders;
CREATE VIEW whole.events AS SELECT * FROM events UNION ALL SELECT * FROM archive.events;
CREATE VIEW whole.transfers AS SELECT * FROM transfers UNION ALL SELECT * FROM archive.transfers;

-- A transfer leaves only when it stands in the archive, word for word.
CREATE OR REPLACE FUNCTION transfers_stand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (
            SELECT FROM archive.transfers AS kept
            WHERE (kept."order", kept.id) = (OLD."order", OLD.id) AND kept = OLD
        ) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'a transfer is never changed or deleted; post another one'
        USING ERRCODE = 'integrity_constraint_violation';
END
$$;
