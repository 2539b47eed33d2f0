"""What the practice panels sell: one table a panel, with at least one service of every type.

Ids, names and rates follow the examples of the providers' own documentation where it has any.
"""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Row:
    """One row of a service list; ``rate`` is per 1000, or for one package."""

    id: int
    name: str
    type: str
    rate: Decimal
    min: int
    max: int
    category: str = "First Category"
    refill: bool = False
    cancel: bool = True
    dripfeed: bool = False
    desc: str = ""


def _row(id_: int, name: str, type_: str, rate: str, least: int, most: int, **more: object) -> Row:
    return Row(id_, name, type_, Decimal(rate), least, most, **more)  # type: ignore[arg-type]


NEEDS: dict[str, tuple[str, ...]] = {
    "Default": ("link", "quantity"),
    "Package": ("link",),
    "Custom Comments": ("link", "comments"),
    "Custom Comments Package": ("link", "comments"),
    "Mentions": ("link", "quantity", "usernames"),
    "Mentions with Hashtags": ("link", "quantity", "usernames", "hashtags"),
    "Mentions Custom List": ("link", "usernames"),
    "Mentions Hashtag": ("link", "quantity", "hashtag"),
    "Mentions User Followers": ("link", "quantity", "username"),
    "Mentions Media Likers": ("link", "quantity", "media"),
    "Comment Likes": ("link", "quantity", "username"),
    "Comment Replies": ("link", "username", "comments"),
    "Poll": ("link", "quantity", "answer_number"),
    "Invites from Groups": ("link", "quantity", "groups"),
    "SEO": ("link", "quantity", "keywords"),
    "Web Traffic": ("link", "quantity", "country", "device", "type_of_traffic"),
    "Subscriptions": ("username", "min", "max", "delay"),
}
"""What a panel wants to be told for each type, under API v2's names."""

CATALOGS: dict[str, tuple[Row, ...]] = {
    "smm-panel.in": (
        _row(
            1,
            "Instagram Followers | Real | 365 Days Refill",
            "Default",
            "26.88",
            100,
            10000,
            category="Instagram - Followers",
            refill=True,
            dripfeed=True,
        ),
        _row(
            2,
            "Instagram Likes | Instant",
            "Default",
            "5.48",
            50,
            20000,
            category="Instagram - Likes",
            dripfeed=True,
        ),
        _row(42, "Instagram Comments | Custom", "Custom Comments", "240", 1, 500),
        _row(55, "Instagram Likes | Auto for new posts", "Subscriptions", "9.10", 10, 5000),
        _row(
            60,
            "Telegram Members | No refill, no cancel",
            "Default",
            "31.5",
            10,
            50000,
            category="Telegram",
            cancel=False,
        ),
    ),
    "instasmm": (
        _row(1, "Followers", "Default", "0.90", 50, 10000, refill=True, dripfeed=True),
        _row(2, "Comments", "Custom Comments", "8", 1, 1500, category="Second Category"),
        _row(3, "Likes", "Default", "0.12", 20, 50000, dripfeed=True),
    ),
    "smmproxy": (
        _row(
            1,
            "Followers",
            "Default",
            "0.90",
            50,
            10000,
            refill=True,
            dripfeed=True,
            desc="High quality followers",
        ),
        _row(
            2,
            "Comments",
            "Custom Comments",
            "8",
            1,
            1500,
            category="Second Category",
            cancel=False,
            desc="Custom comments service",
        ),
        _row(3, "Auto likes", "Subscriptions", "0.75", 10, 5000, desc="For every new post"),
        _row(4, "Views", "Default", "0.0009", 100, 1000000, desc="Instant, no drip-feed"),
    ),
    "smmai": (
        _row(1, "Followers", "Default", "0.90", 50, 10000, refill=True, dripfeed=True),
        _row(2, "Comments", "Custom Comments", "8", 1, 1500, category="Second Category"),
        _row(3, "Starter package", "Package", "4.50", 1, 1),
        _row(4, "Mentions by list and hashtags", "Mentions with Hashtags", "3", 10, 5000),
        _row(5, "Mentions of a list", "Mentions Custom List", "3.20", 1, 5000),
        _row(6, "Mentions by hashtag", "Mentions Hashtag", "2.80", 10, 5000),
        _row(7, "Mentions of followers", "Mentions User Followers", "2.90", 10, 5000),
        _row(8, "Auto likes", "Subscriptions", "0.80", 10, 5000),
        _row(9, "Ten comments of yours", "Custom Comments Package", "1.10", 1, 1),
        _row(10, "Poll votes", "Poll", "1.40", 10, 20000),
    ),
    "smm1st": (
        _row(1, "Followers", "Default", "0.90", 50, 10000, refill=True, dripfeed=True),
        _row(2, "Comments", "Custom Comments", "8", 1, 1500, category="Second Category"),
        _row(3, "Mentions", "Mentions", "2.70", 10, 5000),
        _row(4, "Mentions of likers", "Mentions Media Likers", "2.60", 10, 5000),
        _row(5, "Likes for a comment", "Comment Likes", "1.05", 10, 5000),
        _row(6, "Replies to a comment", "Comment Replies", "9", 1, 500),
        _row(7, "Invites from groups", "Invites from Groups", "4", 10, 5000),
        _row(8, "Search ranking", "SEO", "6", 10, 5000),
        _row(9, "Website visitors", "Web Traffic", "0.55", 100, 100000, dripfeed=True),
        _row(10, "Starter package", "Package", "4.40", 1, 1),
    ),
}
CURRENCIES = {"smm-panel.in": "INR"}
