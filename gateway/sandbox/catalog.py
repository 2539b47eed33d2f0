"""What the practice panels sell: one table a panel, with at least one service of every type.

Ids, names and rates follow the examples of the providers' own documentation where it has any;
types that none of the five documents are shared out among those that speak the common dialect.
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


PACKAGES = frozenset({"Package", "Custom Comments Package"})
"""Types that are sold whole: their size is 1, and the rate is the price."""
SUBSCRIPTIONS = "Subscriptions"

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
    SUBSCRIPTIONS: ("username", "min", "max", "delay"),
}
"""What a panel wants to be told for each type, under API v2's names."""

TRAFFIC = {"1": "google_keyword", "2": "referring_url"}
"""What Web Traffic needs beside that, by ``type_of_traffic``."""

CATALOGS: dict[str, tuple[Row, ...]] = {
    "smm-panel.in": (
        Row(
            1,
            "Instagram Followers | Real | 365 Days Refill",
            "Default",
            Decimal("26.88"),
            100,
            10000,
            category="Instagram - Followers",
            refill=True,
            dripfeed=True,
        ),
        Row(
            2,
            "Instagram Likes | Instant",
            "Default",
            Decimal("5.48"),
            50,
            20000,
            category="Instagram - Likes",
            dripfeed=True,
        ),
        Row(42, "Instagram Comments | Custom", "Custom Comments", Decimal(240), 1, 500),
        Row(55, "Instagram Likes | Auto for new posts", SUBSCRIPTIONS, Decimal("9.10"), 10, 5000),
        Row(
            60,
            "Telegram Members | No refill, no cancel",
            "Default",
            Decimal("31.5"),
            10,
            50000,
            category="Telegram",
            cancel=False,
        ),
    ),
    "instasmm": (
        Row(1, "Followers", "Default", Decimal("0.90"), 50, 10000, refill=True, dripfeed=True),
        Row(2, "Comments", "Custom Comments", Decimal(8), 1, 1500, "Second Category"),
        Row(3, "Likes", "Default", Decimal("0.12"), 20, 50000, dripfeed=True),
    ),
    "smmproxy": (
        Row(
            1,
            "Followers",
            "Default",
            Decimal("0.90"),
            50,
            10000,
            refill=True,
            dripfeed=True,
            desc="High quality followers",
        ),
        Row(
            2,
            "Comments",
            "Custom Comments",
            Decimal(8),
            1,
            1500,
            category="Second Category",
            cancel=False,
            desc="Custom comments service",
        ),
        Row(3, "Auto likes", SUBSCRIPTIONS, Decimal("0.75"), 10, 5000, desc="For every new post"),
        Row(4, "Views", "Default", Decimal("0.0009"), 100, 1000000, desc="Instant, no drip-feed"),
    ),
    "smmai": (
        Row(1, "Followers", "Default", Decimal("0.90"), 50, 10000, refill=True, dripfeed=True),
        Row(2, "Comments", "Custom Comments", Decimal(8), 1, 1500, "Second Category"),
        Row(3, "Starter package", "Package", Decimal("4.50"), 1, 1),
        Row(4, "Mentions by list and hashtags", "Mentions with Hashtags", Decimal(3), 10, 5000),
        Row(5, "Mentions of a list", "Mentions Custom List", Decimal("3.20"), 1, 5000),
        Row(6, "Mentions by hashtag", "Mentions Hashtag", Decimal("2.80"), 10, 5000),
        Row(7, "Mentions of followers", "Mentions User Followers", Decimal("2.90"), 10, 5000),
        Row(8, "Auto likes", SUBSCRIPTIONS, Decimal("0.80"), 10, 5000),
        Row(9, "Ten comments of yours", "Custom Comments Package", Decimal("1.10"), 1, 1),
        Row(10, "Poll votes", "Poll", Decimal("1.40"), 10, 20000),
    ),
    "smm1st": (
        Row(1, "Followers", "Default", Decimal("0.90"), 50, 10000, refill=True, dripfeed=True),
        Row(2, "Comments", "Custom Comments", Decimal(8), 1, 1500, "Second Category"),
        Row(3, "Mentions", "Mentions", Decimal("2.70"), 10, 5000),
        Row(4, "Mentions of likers", "Mentions Media Likers", Decimal("2.60"), 10, 5000),
        Row(5, "Likes for a comment", "Comment Likes", Decimal("1.05"), 10, 5000),
        Row(6, "Replies to a comment", "Comment Replies", Decimal(9), 1, 500),
        Row(7, "Invites from groups", "Invites from Groups", Decimal(4), 10, 5000),
        Row(8, "Search ranking", "SEO", Decimal(6), 10, 5000),
        Row(9, "Website visitors", "Web Traffic", Decimal("0.55"), 100, 100000, dripfeed=True),
        Row(10, "Starter package", "Package", Decimal("4.40"), 1, 1),
    ),
}
CURRENCIES = dict.fromkeys(CATALOGS, "USD") | {"smm-panel.in": "INR"}
"""What each panel's rates, charges and balance are in."""
