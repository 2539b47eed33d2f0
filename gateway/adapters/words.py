"""What providers' words mean: statuses, refill statuses, refusals. Tables, and nothing else.

Source: the documentation of the five providers, and the spellings that panels and their clients are
known to use. A word or a text that is not here is *unknown*; it is never guessed.
"""

import re
from collections.abc import Mapping, Sequence

from gateway.errors import ErrorText, Fault
from gateway.model import RefillStatus, Status

STATUSES: Mapping[str, Status] = {
    "pending": Status.PENDING,
    "awaiting": Status.PENDING,
    "processing": Status.PROCESSING,
    "processed": Status.PROCESSING,  # said of an order that was accepted, not of a finished one
    "inprogress": Status.IN_PROGRESS,
    "progress": Status.IN_PROGRESS,
    "completed": Status.COMPLETED,
    "success": Status.COMPLETED,
    "partial": Status.PARTIAL,
    "canceled": Status.CANCELED,
    "cancelled": Status.CANCELED,
    "refunded": Status.CANCELED,
    "rejected": Status.CANCELED,
    "fail": Status.CANCELED,
    "failed": Status.CANCELED,
    "error": Status.CANCELED,
    "active": Status.ACTIVE,
    "paused": Status.PAUSED,
    "expired": Status.EXPIRED,
}
"""Order statuses by folded word: case, spaces, ``_`` and ``-`` don't count."""

ENVELOPE = frozenset({"success", "error", "fail", "failed"})
"""Words that also say how the *call* went; of an order only in a row with its charge or remains."""

REFILL_STATUSES: Mapping[str, RefillStatus] = {
    "pending": RefillStatus.PENDING,
    "awaiting": RefillStatus.PENDING,
    "processing": RefillStatus.IN_PROGRESS,
    "inprogress": RefillStatus.IN_PROGRESS,
    "progress": RefillStatus.IN_PROGRESS,
    "completed": RefillStatus.COMPLETED,
    "rejected": RefillStatus.REJECTED,
    "canceled": RefillStatus.REJECTED,
    "cancelled": RefillStatus.REJECTED,
    "error": RefillStatus.REJECTED,
    "fail": RefillStatus.REJECTED,
    "failed": RefillStatus.REJECTED,
}
"""Refill statuses, folded in the same way."""

TOLD: Mapping[Fault, ErrorText] = {
    Fault.CUSTOMER: ErrorText.INCORRECT_REQUEST,
    Fault.ACCOUNT: ErrorText.UNAVAILABLE,
    Fault.SERVICE: ErrorText.UNAVAILABLE,
    Fault.BUSY: ErrorText.UNAVAILABLE,
}
"""What a customer is told of a refusal that an owner has classified."""

Row = tuple[Fault, ErrorText, str]
"""Whose matter it is, what a customer may be told, and the phrases that say so."""

# Read from the top: the first row with a phrase that occurs, at the beginning of a word, decides.
# Our key and our purse come first, so that nothing else in a sentence can turn "our money is gone
# there" into something that a customer would take for his own. What an order, refill or cancel is
# told comes before the services, because those sentences name the service too.
REFUSALS: tuple[Row, ...] = (
    (
        Fault.ACCOUNT,
        ErrorText.UNAVAILABLE,
        (
            "not enough fund | not enough money | not enough credit | insufficient fund | "
            "insufficient credit | insufficient money | balance | low fund | add fund"
        ),
    ),
    (
        Fault.ACCOUNT,
        ErrorText.UNAVAILABLE,
        (
            "api key | apikey | invalid key | incorrect key | wrong key | missing key | "
            "key is invalid | key is incorrect | key is required | unauthorized | "
            "unauthenticated | forbidden | access denied | ip address | ip not allowed"
        ),
    ),
    (
        Fault.ACCOUNT,
        ErrorText.UNAVAILABLE,
        (
            "account is suspended | account banned | account has been ban | "
            "account has been block | account has been disab | account is banned | "
            "account blocked | account is blocked | account disabled | "
            "account is disabled | account inactive | account is inactive | user is blocked | "
            "suspended | api disabled | api is disable | api access | daily limit"
        ),
    ),
    (
        Fault.BUSY,
        ErrorText.UNAVAILABLE,
        "too many request | too many order | too many attempt | rate limit | slow down",
    ),
    (
        # Another route would place it twice: what is identical has landed here.
        Fault.CUSTOMER,
        ErrorText.IDENTICAL_ORDER,
        "identical order | duplicate order",
    ),
    (
        Fault.BUSY,
        ErrorText.ACTIVE_ORDER,
        (
            "active order | link duplicate | duplicate link | order with this link | "
            "order for this link"
        ),
    ),
    (
        Fault.ORDER,
        ErrorText.REFILL_NOT_FOUND,
        (
            "refill not found | incorrect refill id | invalid refill id | incorrect refill | "
            "invalid refill"
        ),
    ),
    (
        Fault.ORDER,
        ErrorText.NO_REFILL,
        "refill | order is not completed | order not completed",
    ),
    (
        Fault.ORDER,
        ErrorText.NO_CANCEL,
        "cancel",
    ),
    (
        Fault.ORDER,
        ErrorText.INCORRECT_ORDER,
        (
            "incorrect order id | invalid order id | wrong order id | incorrect orders | "
            "order not found | order does not exist | order doesn t exist | no such order"
        ),
    ),
    (
        Fault.SERVICE,
        ErrorText.NO_DRIPFEED,
        "dripfeed | drip feed",
    ),
    (
        Fault.SERVICE,
        ErrorText.INVALID_QUANTITY,  # our own list said that it fits: theirs has changed
        "quantity | less than min | more than max | minimum order | maximum order",
    ),
    (
        Fault.SERVICE,
        ErrorText.UNAVAILABLE,
        (
            "service id | incorrect service | invalid service | disabled service | "
            "service not found | service inactive | service is | service unavailable | "
            "service disabled | service temporarily | service does not exist | service type"
        ),
    ),
    (
        Fault.BUSY,
        ErrorText.UNAVAILABLE,
        (
            "maintenance | temporarily unavailable | try again later | try later | overload | "
            "server is busy | please wait"
        ),
    ),
    (
        Fault.CUSTOMER,
        ErrorText.INCORRECT_COMMENTS,
        "comment",
    ),
    (
        Fault.CUSTOMER,
        ErrorText.INCORRECT_RUNS,
        "runs",
    ),
    (
        Fault.CUSTOMER,
        ErrorText.INCORRECT_INTERVAL,
        "interval",
    ),
    (
        Fault.CUSTOMER,
        ErrorText.BAD_LINK,
        "link | url | private",
    ),
    (
        Fault.CUSTOMER,
        ErrorText.INCORRECT_REQUEST,
        (
            "incorrect request | bad request | invalid request | incorrect parameter | "
            "invalid parameter | missing parameter | missing required | required parameter | "
            "username | hashtag | keyword | answer number | country | device | media | groups | "
            "delay | expiry | posts | schedule time"
        ),
    ),
)

NEGATIVE = (
    "not | no | never | cannot | can t | could t | don t | doesn t | isn t | won t | "
    "unable | fail | error | incorrect | invalid | wrong | disabled | unavailable | unsupported | "
    "expired | over | denied | reject | refused | declined | forbidden | already | too | missing | "
    "only | must | maximum | minimum | exceed | less than | more than | later | wait"
)
"""Words without which a sentence is no refusal: "Cancel request sent" tells of none."""

_SEPARATORS = re.compile(r"[\W_]+")


def _split(rows: Sequence[Row]) -> tuple[tuple[Fault, ErrorText, tuple[str, ...]], ...]:
    return tuple(
        (fault, told, tuple(f" {phrase}" for phrase in phrases.split(" | ")))
        for fault, told, phrases in rows
    )


_PHRASES = _split(REFUSALS)
_NEGATIVE = re.compile(rf" (?:{NEGATIVE.replace(' | ', '|')})")


def folded(words: str) -> str:
    """Return words as they are compared: case, dots, dashes and underscores don't count."""
    return " " + _SEPARATORS.sub(" ", words.casefold()).strip()


def classify(
    words: str, own: Sequence[Row] = (), *, ordering: bool = False
) -> tuple[Fault, ErrorText]:
    """Return whose matter an error text is, and what a customer may be told of it.

    ``own``: rows of this provider, which come before everybody's. ``ordering``: it is said of an
    order that was to be placed, so it cannot be about one that there is.

    The coded family (``neworder.error.min_quantity``) is read by the same rows: dots, dashes and
    underscores count as spaces.
    """
    said = folded(words)
    for fault, told, phrases in (*_split(own), *_PHRASES):
        if ordering and fault is Fault.ORDER:
            continue
        if any(phrase in said for phrase in phrases):
            return fault, told
    return Fault.UNKNOWN, ErrorText.UNAVAILABLE


def refuses(words: str) -> bool:
    """Tell whether a sentence that stands in place of a result says no."""
    return _NEGATIVE.search(folded(words)) is not None
