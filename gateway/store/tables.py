"""Every table of both databases, for those who go through all of them."""

from collections.abc import Mapping

TABLES: Mapping[str, tuple[str, ...]] = {
    "customers": ("id",),
    "accounts": ("id",),
    "orders": ("id",),
    "refills": ("id",),
    "claims": ("customer", "key"),
    "spending": ("customer", "day"),
    "offers": ("provider", "id"),
    "editions": ("provider",),
    "quarantine": ("provider", "offer"),
    "changes": ("at", "provider", "offer", "kind"),
    "sightings": ("provider",),
    "readings": ("provider", "asked_at"),
    "configurations": ("id",),
    "exchange_rates": ("currency",),
    "imported": ("id",),
    "imported_names": ("name",),
    "events": ("order", "version"),
    "transfers": ("id",),
}
"""Every table whose rows are copied, with its key; after those that it refers to."""
OUTDATED = frozenset({"readings"})
"""Tables that are not restored from a backup: a balance that was seen before it was made proves
nothing, since what was bought afterwards is in no books."""
LEFT = frozenset({"secrets", "counters", "leases", "leaving"})
"""Tables that are not copied: the stores see to the first two, and the others hold for a moment."""

UNFINISHED = "a copy into this database was not finished; repeat it, or begin with an empty one"
NOT_EMPTY = "there is something in this database already; copy into an empty one"
OTHER = "a copy of another database was begun here; begin with an empty one"
