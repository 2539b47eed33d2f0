"""The firewall: what of a provider's new list is taken over, and what waits for the owner's word.

Providers change rates overnight, give an id to another service, and answer with half a list. A
list that cannot be true as a whole is not believed; of any other, the changes that may cost money
are held back one by one, and the rest is taken over. Pure: what is known and what is said, in; what
is to be in force and what is held back, out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from operator import attrgetter, not_
from typing import Literal

import msgspec

from gateway.model import Decision, Held, Known, Offer
from gateway.money import EXACT
from gateway.order_types import fold

_RATE = attrgetter("rate")
_WORD = re.compile(r"\w+")
_SHORT = 2
"""A list is short when it has less than one out of so many of the services that were there."""


class Rules(msgspec.Struct, frozen=True):
    """What the owner says.

    Attributes:
        jump: how many times as much, or as little, a rate may become.
        quarantine: what becomes of a service whose change is held back; ``None``: see ``paused``.

    """

    jump: Decimal = Decimal(3)
    quarantine: Literal["keep", "pause"] | None = None


class Judged(msgspec.Struct, frozen=True):
    """A list after the firewall.

    Attributes:
        offers: what is to be in force; where a change is held back, the old row.
        held: the changes that are held back, also those that the owner has rejected.

    """

    offers: list[Offer]
    held: list[Held]


def disbelief(before: int, offers: Sequence[Offer]) -> str:
    """Return why a list as a whole cannot be true; empty when it can.

    ``before``: how many services were there.
    """
    free = sum(map(not_, map(_RATE, offers)))
    if not offers or len(offers) * _SHORT < before:
        return f"lists {len(offers)} services instead of {before}"
    if free * 2 > len(offers):
        return f"lists {free} of {len(offers)} services as free"
    return ""


def judge(
    provider: str,
    known: Known,
    offers: Iterable[Offer],
    before: Mapping[str, Held],
    rules: Rules,
    at: int,
) -> Judged:
    """Judge a list that is believed, row by row.

    Args:
        provider: whose list it is.
        known: what was there before, also what is gone.
        offers: the list.
        before: what is held back already, by the service's id; what the owner has said of a
            change holds until the provider says something else.
        rules: the owner's.
        at: the time.

    """
    found = Judged([], [])
    for offer in offers:
        old, gone_at = known.get(offer.id, (None, None))
        # What is in force just so was believed once, by the firewall or by the owner.
        reason = "" if old == offer and gone_at is None else suspicion(old, offer, rules.jump)
        if not reason:
            found.offers.append(offer)
            continue
        was = before.get(offer.id)
        again = was is not None and was.offered is not None and _same(was.offered, offer)
        found.held.append(
            Held(
                provider,
                offer.id,
                reason,
                paused=paused(old, offer, rules),
                offered=offer,
                at=was.at if was and again else at,
                decision=was.decision if was and again else Decision.NONE,
            )
        )
        if old is not None and gone_at is None:
            found.offers.append(old)
    return found


def suspicion(old: Offer | None, new: Offer, jump: Decimal) -> str:
    """Return what is odd about a row, ``old`` being what was known of its id; empty: nothing.

    Whatever is spelled otherwise, with the same letters and digits, is the same name.
    """
    reasons = []
    if new.min > new.max:
        reasons.append(f"its min, {new.min}, is over its max, {new.max}")
    if old is not None:
        if (old.name, old.category, old.type) != (new.name, new.category, new.type):
            reasons += _renamed(old, new)
        if _jumps(old.rate, new.rate, jump):
            reasons.append(f"its rate was {old.rate:f} and is {new.rate:f}")
    return "; ".join(reasons)


def harmless(before: Decimal, new: Offer, rules: Rules) -> bool:
    """Say whether there is nothing odd about a row that differs by its rate alone.

    It is what ``suspicion`` says, at a third of the cost: in some nights all rows are such.
    """
    return new.min <= new.max and not _jumps(before, new.rate, rules.jump)


def _jumps(before: Decimal, now: Decimal, jump: Decimal) -> bool:
    # What was free was not sold by its own rate, so there is nothing that it could lose.
    low, high = (before, now) if before < now else (now, before)
    return bool(before) and high > EXACT.multiply(low, jump)


def _renamed(old: Offer, new: Offer) -> Iterator[str]:
    for what in ("name", "category", "type"):
        was, now = getattr(old, what), getattr(new, what)
        if _words(was) != _words(now) and fold(was) != fold(now):
            yield f"its {what} was {was!r} and is {now!r}"


def paused(old: Offer | None, new: Offer, rules: Rules) -> bool:
    """Say whether a service is not sold while its change is held back.

    Where the owner does not declare it, the old row stays in force only as long as that can
    neither lose money nor deliver something else: the rate does not rise, the type is the same,
    and of name and category words were only added, or only taken away.
    """
    if rules.quarantine is not None:
        return rules.quarantine == "pause"
    if old is None:
        return False  # it was never sold
    was, now = ({*_words(one.name), *_words(one.category)} for one in (old, new))
    same = fold(old.type) == fold(new.type) and (was <= now or now <= was)
    return new.rate > old.rate or not same


def _same(one: Offer, other: Offer) -> bool:
    """Tell whether two rows say the same, in all that somebody would decide by."""
    return all(
        getattr(one, what) == getattr(other, what)
        for what in ("name", "type", "category", "rate", "min", "max")
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold()) or [text]
