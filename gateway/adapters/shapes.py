"""Where in an answer the things that we look for stand.

Panels of this family wrap, name and order the same facts differently. These functions know the
shapes that are met; what a fact means is the reader's, in ``api_v2``.
"""

from collections.abc import Callable
from typing import TypeVar

from gateway.adapters import wild
from gateway.adapters.wild import Wild
from gateway.errors import Indeterminate
from gateway.model import Action, Call, Offer
from gateway.order_types import fold

T = TypeVar("T")

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


def offer(row: Wild) -> Offer:
    """Read one service; ``ValueError`` names the place in the row that does not fit."""
    if not isinstance(row, dict):
        raise ValueError(f": a map was expected, not {wild.show(row)}")  # noqa: TRY004 - a row that does not fit, like any other
    return Offer(
        id=_fit(row, "service", wild.identity, "an id"),
        name=_fit(row, "name", wild.text, "a name"),
        type=wild.text(row.get("type")) or "Default",
        category=wild.text(row.get("category")),
        rate=_fit(row, "rate", wild.rate, "a rate"),
        min=_fit(row, "min", wild.count, "a count"),
        max=_fit(row, "max", wild.count, "a count"),
        refill=wild.flag(row.get("refill")),
        cancel=wild.flag(row.get("cancel")),
        dripfeed=wild.flag(row.get("dripfeed")),
        description=wild.text(row.get("desc")) or wild.text(row.get("description")),
    )


def _fit(row: dict[str, Wild], name: str, read: Callable[[Wild], T | None], what: str) -> T:
    value = read(row.get(name))
    if value is None or value == "":
        raise ValueError(f".{name}: {wild.show(row.get(name))} is not {what}")
    return value
