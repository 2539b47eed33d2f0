"""From what a customer sends to what is ordered: checked parameters, and the order's size.

Every number is checked on its own, so that two negative ones never make a positive product.
Nothing here knows a provider: whatever is well formed and within the service's limits passes.
"""

import re
from collections.abc import Container, Mapping

import msgspec

from gateway.errors import CustomerError, ErrorText
from gateway.order_types import LISTS, OrderType, Size, table

MOST_UNITS = 10**12
"""No order counts more units than this, whatever a service's limits say."""
LONGEST_LINK = 2048
LONGEST_DELAY = 600

_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)
_DATE = re.compile(r"(0?[1-9]|[12][0-9]|3[01])/(0?[1-9]|1[0-2])/([0-9]{4})", re.ASCII)
_NOT_IN_A_LINK = re.compile(r"[\s\x00-\x1f\x7f]")
_NO_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//)?[/?#]?$|(?i:javascript|data|vbscript):")

ALIASES: Mapping[str, tuple[str, ...]] = {
    "link": ("url",),
    "username": ("usernames", "comment_username"),  # seen for Comment Likes in old clients
}
"""Other names under which clients send a parameter; looked at only where it is missing."""

KNOWN = frozenset(
    {"service"}
    | {name for row in table() for name in (*row.required, *row.optional)}
    | {alias for aliases in ALIASES.values() for alias in aliases}
)
"""Every parameter of every type: what makes two orders the same; others are ignored."""
NUMBERS = frozenset(
    {"service", "quantity", "runs", "interval", "min", "max"}
    | {"posts", "old_posts", "delay", "answer_number"}
)
"""Those that may be spelled in several ways: ``007`` is 7, but as a link it is not."""


class Limits(msgspec.Struct, frozen=True):
    """What a service allows."""

    min: int
    max: int
    dripfeed: bool
    posts: int
    """How many posts a subscription without a limit is bought for."""


class Form(msgspec.Struct, frozen=True):
    """An order as it will be kept and sent: only the type's own parameters, all well formed.

    Attributes:
        quantity: what must lie within a route's own limits; ``None`` where nothing must.

    """

    params: dict[str, str]
    size: int
    quantity: int | None


def read(kind: OrderType, sent: Mapping[str, str], limits: Limits) -> Form:
    """Check what a customer sent for a service of this type.

    Raises ``CustomerError`` with the text that says which parameter is wrong.
    """
    params = _params(kind, sent)
    if "link" in params:
        _check_link(params["link"])
    if kind.size is Size.POSTS:
        return _subscription(params, limits)
    if kind.name == "Web Traffic":
        _check_traffic(params)
    if "answer_number" in params:
        number(params["answer_number"], ErrorText.INCORRECT_REQUEST)
    quantity = _quantity(kind, params)
    if quantity is not None and not max(limits.min, 1) <= quantity <= limits.max:
        raise CustomerError(ErrorText.INVALID_QUANTITY)
    size = 1 if quantity is None else quantity
    if kind.size is Size.RUNS:
        size *= _runs(params, limits)
    if size > MOST_UNITS:
        raise CustomerError(ErrorText.INVALID_QUANTITY)
    return Form(params, size, quantity)


def number(text: str, error: ErrorText) -> int:
    """Read a whole number as customers may write it: ASCII digits, nothing else."""
    if not _NUMBER.fullmatch(text):
        raise CustomerError(error)
    return int(text)


def lines(text: str) -> list[str]:
    r"""Return a list's entries: separated by ``\n`` or ``\r\n``, without the blank ones."""
    return [line for line in text.replace("\r", "\n").split("\n") if line.strip()]


def canonical(sent: Mapping[str, str], declared: Container[str] = ()) -> list[tuple[str, str]]:
    """Return what an order says, however it is spelled: what makes two of them the same.

    Without the service's own rules, so that a repeat is known even when the service is gone.
    ``declared``: parameters that the owner has named beside those of the types.
    """
    said = {name: value for name, value in sent.items() if name in KNOWN or name in declared}
    if "url" in said:
        said.setdefault("link", said.pop("url"))
    for name, value in said.items():
        if name in LISTS:
            said[name] = "\n".join(lines(value))
        elif name in NUMBERS and _NUMBER.fullmatch(value):
            said[name] = str(int(value))
    return sorted(said.items())


def _params(kind: OrderType, sent: Mapping[str, str]) -> dict[str, str]:
    """Return the type's own parameters, under their own names, lists tidied."""
    params = {}
    for name in (*kind.required, *kind.optional):
        value = sent.get(name, "")
        for alias in ALIASES.get(name, ()):
            # An alias that is a parameter of this type means itself.
            value = value or ("" if alias in kind.required else sent.get(alias, ""))
        if name in LISTS and value:
            entries = lines(value)
            if not entries:
                comments = name == "comments"
                raise CustomerError(
                    ErrorText.INCORRECT_COMMENTS if comments else ErrorText.INCORRECT_REQUEST
                )
            value = "\n".join(entries)
        value = value.strip()
        if value:
            params[name] = value
        elif name in kind.required:
            raise CustomerError(ErrorText.INCORRECT_REQUEST)
    return params


def _check_link(link: str) -> None:
    if len(link) > LONGEST_LINK or _NOT_IN_A_LINK.search(link) or _NO_HOST.match(link):
        raise CustomerError(ErrorText.BAD_LINK)


def _quantity(kind: OrderType, params: dict[str, str]) -> int | None:
    if kind.size in (Size.QUANTITY, Size.RUNS):
        quantity = number(params["quantity"], ErrorText.INVALID_QUANTITY)
        params["quantity"] = str(quantity)
        return quantity
    if kind.size is Size.ONE:
        return None
    return len(params["comments" if kind.size is Size.COMMENTS else "usernames"].split("\n"))


def _runs(params: dict[str, str], limits: Limits) -> int:
    """Return how often the quantity is delivered; one run is an ordinary order."""
    runs = number(params.get("runs", "1"), ErrorText.INCORRECT_RUNS)
    if runs < 1:
        raise CustomerError(ErrorText.INCORRECT_RUNS)
    interval = params.get("interval")
    if interval is not None:
        params["interval"] = str(number(interval, ErrorText.INCORRECT_INTERVAL))
    if runs == 1:
        params.pop("runs", None)
        params.pop("interval", None)
        return 1
    if not limits.dripfeed:
        raise CustomerError(ErrorText.NO_DRIPFEED)
    if interval is None:
        raise CustomerError(ErrorText.INCORRECT_INTERVAL)
    params["runs"] = str(runs)
    return runs


def _check_traffic(params: dict[str, str]) -> None:
    """Two of the three kinds of traffic need to be told where it comes from."""
    needs = {"1": "google_keyword", "2": "referring_url", "3": None}
    kind, device = params["type_of_traffic"], params["device"]
    if kind not in needs or device not in {"1", "2", "3", "4", "5"}:
        raise CustomerError(ErrorText.INCORRECT_REQUEST)
    need = needs[kind]
    if need and need not in params:
        raise CustomerError(ErrorText.INCORRECT_REQUEST)


def _subscription(params: dict[str, str], limits: Limits) -> Form:
    """Check a subscription; one without a limit of posts is given one, since it is paid ahead."""
    least = number(params["min"], ErrorText.INVALID_QUANTITY)
    most = number(params["max"], ErrorText.INVALID_QUANTITY)
    if not max(limits.min, 1) <= least <= most <= limits.max:
        raise CustomerError(ErrorText.INVALID_QUANTITY)
    if number(params["delay"], ErrorText.INCORRECT_REQUEST) > LONGEST_DELAY:
        raise CustomerError(ErrorText.INCORRECT_REQUEST)
    old = number(params.get("old_posts", "0"), ErrorText.INCORRECT_REQUEST)
    new = number(params.get("posts", "0"), ErrorText.INCORRECT_REQUEST) or limits.posts
    if "expiry" in params and not _DATE.fullmatch(params["expiry"]):
        raise CustomerError(ErrorText.INCORRECT_REQUEST)
    if (posts := old + new) * most > MOST_UNITS:
        raise CustomerError(ErrorText.INVALID_QUANTITY)
    tidy = {"min": str(least), "max": str(most), "posts": str(new)}
    return Form(params | tidy, posts * most, most)
