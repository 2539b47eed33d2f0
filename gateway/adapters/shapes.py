"""Where in an answer the things that we look for stand.

Panels of this family wrap, name and order the same facts differently. These functions know the
shapes that are met; what a fact means is the reader's, in ``api_v2``.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

from gateway.adapters import wild
from gateway.adapters.wild import Row, Wild
from gateway.errors import Indeterminate
from gateway.model import Action, Call, Offer
from gateway.order_types import fold

_NOTHING = "emptydata"  # SmartPanel's answer where others give an empty list


def subject(action: Action) -> str:
    """Return what the ids of an action are ids of, as the parameter is called."""
    return "refill" if action is Action.REFILL_STATUS else "order"


def orders(answer: Wild) -> list[Wild]:
    """Return what stands where a new order's id may stand."""
    if not isinstance(answer, dict):
        return []
    data = answer.get("data")
    places = [answer, data] if isinstance(data, dict) else [answer]
    return [place[name] for place in places for name in ("order", "order_id") if name in place]


def listed(answer: Wild) -> list[Wild]:
    """Return the rows of a service list, bare or wrapped; ``Indeterminate`` when it is none."""
    if isinstance(answer, list):
        return answer
    if isinstance(answer, dict):
        for name in ("services", "data"):
            inner = answer.get(name)
            if isinstance(inner, list):
                return inner
            if isinstance(inner, str) and fold(inner) == _NOTHING:
                return []
    raise Indeterminate(f"a list of services was expected, not {wild.show(answer)}")


def rows(call: Call, answer: Wild) -> dict[str, Wild]:
    """Find the row of each id: in a map, in a list that names them, or in the order asked.

    An id that was left out is absent. ``Indeterminate``: the answer is about something else.
    """
    found: dict[str, Wild] = {}
    if isinstance(answer, dict):
        found = {name: answer[name] for name in call.ids if name in answer}
        if not found and len(call.ids) == 1 and _names(call, answer) in {"", call.ids[0]}:
            found = {call.ids[0]: answer}
    elif isinstance(answer, list):
        found = _named(call, answer)
        if not found and len(answer) == len(call.ids) and not any(_names(call, r) for r in answer):
            found = dict(zip(call.ids, answer, strict=True))
    # PHP writes an empty map as an empty list: nobody is said anything of, and that is an answer.
    if not found and not (isinstance(answer, dict | list) and len(answer) == 0):
        raise Indeterminate(f"an answer about something else: {wild.show(answer)}")
    return found


def _names(call: Call, row: Wild) -> str:
    """Return the id that a row itself names; for a row without one, ``""``."""
    if not isinstance(row, dict):
        return ""
    name = subject(call.action)
    return wild.identity(row.get(name, row.get(f"{name}_id")))


def _named(call: Call, answer: list[Wild]) -> dict[str, Wild]:
    """Find rows ``{"order": 1, …}`` and ``{"1": …}`` by the id in them; the first of two stays."""
    rows: dict[str, Wild] = {}
    for row in answer:
        if isinstance(row, dict):
            inner = (
                next((name for name in call.ids if name in row), None) if len(row) == 1 else None
            )
            name, said = (_names(call, row), row) if inner is None else (inner, row[inner])
            if name in call.ids:
                rows.setdefault(name, said)
    return rows


_NEEDED: Mapping[str, tuple[Callable[[Wild], object], str]] = {
    "service": (wild.identity, "an id"),
    "name": (wild.text, "a name"),
    "rate": (wild.rate, "a rate"),
    "min": (wild.count, "a count"),
    "max": (wild.count, "a count"),
}
"""What every service has, how it is read, and what is said of anything else."""


def offers() -> Callable[[Wild], Offer]:
    """Return what reads the services of one list; ``ValueError`` names the place that does not fit.

    What the same few values mean that stand in many rows is worked out once, and the rows share
    it; so are their categories, which are a tenth of a list and one text each.
    """
    terms, category = lru_cache(None, typed=True)(_terms), lru_cache(None)(wild.text)

    def read(row: Wild) -> Offer:
        if isinstance(row, dict):
            row = Row.of(row)
        if not isinstance(row, Row):
            raise ValueError(f": a map was expected, not {wild.show(row)}")  # noqa: TRY004 - a row that does not fit, like any other
        one, name, rate = wild.identity(row.service), wild.text(row.name), wild.rate(row.rate)
        said = row.type, row.min, row.max, row.refill, row.cancel, row.dripfeed
        try:
            kind, least, most, refill, cancel, dripfeed = terms(*said)
        except TypeError:  # a list or a map
            kind, least, most, refill, cancel, dripfeed = _terms(*said)
        if not one or not name or rate is None or least is None or most is None:
            raise ValueError(_misfit(row))
        return Offer(
            one,
            name,
            kind,
            category(row.category) if type(row.category) is str else wild.text(row.category),
            rate,
            least,
            most,
            refill,
            cancel,
            dripfeed,
            wild.text(row.desc) or wild.text(row.description),
        )

    return read


def _terms(
    kind: Wild, least: Wild, most: Wild, refill: Wild, cancel: Wild, dripfeed: Wild
) -> tuple[str, int | None, int | None, bool | None, bool | None, bool | None]:
    return (
        wild.text(kind) or "Default",
        wild.count(least),
        wild.count(most),
        wild.flag(refill),
        wild.flag(cancel),
        wild.flag(dripfeed),
    )


def _misfit(row: Row) -> str:
    said = ((name, getattr(row, name), *needed) for name, needed in _NEEDED.items())
    return next(
        f".{name}: {wild.show(value)} is not {what}"
        for name, value, read, what in said
        if read(value) in (None, "")
    )
