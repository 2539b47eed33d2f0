"""What is bought in the demonstration, and what must come of each order."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scene:
    """One order.

    Attributes:
        service: our id, as in ``providers.yaml`` beside this file.
        params: what the customer sends beside it.
        ends: the status that it must reach.
        share: the part of its charge, in thousandths, that must be charged in the end.
        then: ``refill`` or ``cancel``, asked for on the way.
        refilled: the refill status that must be reached, where one is asked for.

    """

    about: str
    service: int
    params: dict[str, str] = field(default_factory=dict)
    ends: str = "Completed"
    share: int = 1000
    then: str = ""
    refilled: str = "Completed"


def _default(link: str = "https://instagram.com/you", quantity: int = 1000) -> dict[str, str]:
    return {"link": link, "quantity": str(quantity)}


LINK = {"link": "https://instagram.com/p/one"}
COMMENTS = {"comments": "Great post!\nLove this & that\nAmazing + 100 %"}
NAMES = {"usernames": "ann\nbob\ncarl\ndora"}
PARTIAL = "https://instagram.com/partial"
CANCELED = "https://instagram.com/cancel"

SCENES: tuple[Scene, ...] = (
    Scene("followers, in rupees", 101, _default(), then="refill"),
    Scene("drip-feed, 5 runs", 102, _default(quantity=100) | {"runs": "5", "interval": "60"}),
    Scene("custom comments", 103, LINK | COMMENTS),
    Scene(
        "subscription, 3 posts",
        104,
        {"username": "you", "min": "100", "max": "500", "delay": "30", "posts": "3"},
    ),
    Scene("partial: 30 % refunded", 101, _default(PARTIAL), "Partial", 700),
    Scene("canceled by the panel", 102, _default(CANCELED), "Canceled", 0),
    # Its dialect has no refill status: a refill that was taken stays Pending, and that is true.
    Scene("followers", 201, _default(), then="refill", refilled="Pending"),
    Scene("custom comments", 202, LINK | COMMENTS),
    Scene("cancel asked for at once", 203, _default(quantity=500), "Canceled", 0, then="cancel"),
    Scene("partial: 30 % refunded", 201, _default(PARTIAL), "Partial", 700),
    Scene("followers", 301, _default(), then="refill"),
    Scene("custom comments", 302, LINK | COMMENTS),
    Scene(
        "subscription, 2 posts",
        303,
        {"username": "you", "min": "50", "max": "200", "delay": "5", "posts": "2"},
    ),
    Scene("a rate of 0.0009", 304, _default(quantity=1000)),
    Scene("drip-feed, 4 runs", 301, _default(quantity=250) | {"runs": "4", "interval": "30"}),
    Scene("canceled by the panel", 301, _default(CANCELED), "Canceled", 0),
    Scene("followers", 401, _default(), then="refill"),
    Scene("custom comments", 402, LINK | COMMENTS),
    Scene("package", 403, LINK),
    Scene("mentions with hashtags", 404, _default() | NAMES | {"hashtags": "#one\n#two"}),
    Scene("mentions, custom list", 405, LINK | NAMES),
    Scene("mentions by hashtag", 406, _default() | {"hashtag": "#one"}),
    Scene("mentions of followers", 407, _default() | {"username": "https://instagram.com/x"}),
    Scene(
        "subscription until a day",
        408,
        {
            "username": "you",
            "min": "50",
            "max": "100",
            "delay": "0",
            "posts": "2",
            "expiry": "31/12/2030",
        },
    ),
    Scene("custom comments package", 409, LINK | COMMENTS),
    Scene("poll", 410, _default() | {"answer_number": "2"}),
    Scene("followers", 501, _default()),
    Scene("custom comments", 502, LINK | COMMENTS),
    Scene("mentions", 503, _default() | NAMES),
    Scene("mentions of likers", 504, _default() | {"media": "https://instagram.com/p/two"}),
    Scene("likes for a comment", 505, _default() | {"username": "you"}),
    Scene("replies to a comment", 506, LINK | {"username": "you"} | COMMENTS),
    Scene("invites from groups", 507, _default() | {"groups": "group one\ngroup two"}),
    Scene("search ranking", 508, _default() | {"keywords": "shoes\nred shoes"}),
    Scene(
        "website visitors",
        509,
        _default("https://example.com/shop")
        | {
            "country": "DE",
            "device": "5",
            "type_of_traffic": "1",
            "google_keyword": "shoes",
        },
    ),
    Scene("package", 510, LINK),
    Scene("partial: 30 % refunded", 501, _default(PARTIAL), "Partial", 700),
    Scene("whoever is cheapest", 901, _default()),
    Scene(
        "answer lost after it was taken",
        401,
        _default("https://instagram.com/?fault=502-after"),
        "Pending",
    ),
)
