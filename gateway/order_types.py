"""What each order type needs, and how its size is counted: a table, and nothing else.

Source: the contract's table, which follows API v2's reference and the providers' documentation.
Names are matched without regard to case, ``_``, ``-`` and spaces.
"""

from enum import StrEnum

import msgspec


class Size(StrEnum):
    """What the charge and the limits of an order count."""

    QUANTITY = "quantity"
    RUNS = "quantity × runs"
    ONE = "1"
    COMMENTS = "lines of comments"
    USERNAMES = "lines of usernames"
    POSTS = "posts × max"


class OrderType(msgspec.Struct, frozen=True):
    """One row of the table; parameters are named as in API v2, beside ``service``."""

    name: str
    required: tuple[str, ...]
    size: Size
    optional: tuple[str, ...] = ()


SUBSCRIPTIONS = "Subscriptions"
LISTS = frozenset({"comments", "usernames", "hashtags", "groups", "keywords"})
"""Parameters that are lists, one entry a line; blank lines don't count."""

_TABLE = (
    OrderType("Default", ("link", "quantity"), Size.RUNS, ("runs", "interval")),
    OrderType("Package", ("link",), Size.ONE),
    OrderType("Custom Comments", ("link", "comments"), Size.COMMENTS),
    OrderType("Custom Comments Package", ("link", "comments"), Size.ONE),
    OrderType("Mentions", ("link", "quantity", "usernames"), Size.QUANTITY),
    OrderType(
        "Mentions with Hashtags", ("link", "quantity", "usernames", "hashtags"), Size.QUANTITY
    ),
    OrderType("Mentions Custom List", ("link", "usernames"), Size.USERNAMES),
    OrderType("Mentions Hashtag", ("link", "quantity", "hashtag"), Size.QUANTITY),
    OrderType("Mentions User Followers", ("link", "quantity", "username"), Size.QUANTITY),
    OrderType("Mentions Media Likers", ("link", "quantity", "media"), Size.QUANTITY),
    OrderType("Comment Likes", ("link", "quantity", "username"), Size.QUANTITY),
    OrderType("Comment Replies", ("link", "username", "comments"), Size.COMMENTS),
    OrderType("Poll", ("link", "quantity", "answer_number"), Size.QUANTITY),
    OrderType("Invites from Groups", ("link", "quantity", "groups"), Size.QUANTITY),
    OrderType("SEO", ("link", "quantity", "keywords"), Size.QUANTITY),
    OrderType(
        "Web Traffic",
        ("link", "quantity", "country", "device", "type_of_traffic"),
        Size.RUNS,
        ("runs", "interval", "google_keyword", "referring_url"),
    ),
    OrderType(
        SUBSCRIPTIONS,
        ("username", "min", "max", "delay"),
        Size.POSTS,
        ("posts", "old_posts", "expiry"),
    ),
)


def fold(name: str) -> str:
    """Fold a type's name, so that ``custom_comments`` and ``Custom Comments`` are one."""
    return name.casefold().translate(_IGNORED)


_IGNORED = dict.fromkeys(map(ord, "_- \t"))
_BY_NAME = {fold(row.name): row for row in _TABLE}


def find(name: str) -> OrderType | None:
    """Return the row for a type as a provider spells it; ``None`` when it is not in the table."""
    return _BY_NAME.get(fold(name))


def table() -> tuple[OrderType, ...]:
    """Return every row, in the order of the contract."""
    return _TABLE
