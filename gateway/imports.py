"""Whole catalogs by rule: which offers are sold, under which ids and names. Pure.

An id is given to a provider's service once and stays its own, whatever becomes of either. A name
that several services would have is given to the first that comes, for ever; the others have their
ids behind it, since some clients know services by their names.
"""

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from gateway import order_types
from gateway.config import Config, Import
from gateway.config.values import LARGEST_ID
from gateway.model import Offer
from gateway.order_types import OrderType

LONGEST = 200
"""Characters of a name that can be one service's own; a longer one always has the id behind it."""

_WITH_ID = re.compile(r"\([0-9]+\)$")

Key = tuple[str, str]
"""A provider, and its own id of a service."""


class Found(msgspec.Struct, frozen=True, gc=False):
    """An offer that a rule takes over.

    Attributes:
        rule: which one, counted from 0.
        name, category: as the rule has them written.

    """

    rule: int
    provider: str
    offer: Offer
    type: OrderType
    name: str
    category: str

    @property
    def key(self) -> Key:
        """What an id is given to."""
        return self.provider, self.offer.id


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """A provider's service that needs an id, or a name.

    Attributes:
        name: the one it would have alone; empty when it can't be its own.
        first, below: the ids that its rule gives are these; when they are used up, any above.

    """

    provider: str
    service: str
    name: str
    first: int
    below: int


class Given:
    """What has been given out.

    Attributes:
        ids: of each provider's service.
        sold: the same ids.
        owners: those that the owner gave himself; where they are added they have no provider.
        names: the id of the service that has a name for its own.

    """

    def __init__(self, ids: Mapping[Key, int] = {}, names: Mapping[str, int] = {}) -> None:
        self.ids: dict[Key, int] = {}
        self.names: dict[str, int] = {}
        self.sold: set[int] = set()
        self.owners: set[int] = set()
        self.add(ids, names)

    def add(
        self, ids: Mapping[Key, int], names: Mapping[str, int], owners: Iterable[int] = ()
    ) -> None:
        """Take in what was given since."""
        for key, number in ids.items():
            if key[0]:
                self.ids[key] = number
                self.sold.add(number)
            else:  # there may be ten thousand, of which nobody wants more than the number
                self.owners.add(number)
        self.owners.update(owners)
        self.names |= names


def find(config: Config, offers: Mapping[str, Mapping[str, Offer]]) -> Iterator[Found]:
    """Yield each offer that a rule takes over; of several the first one does.

    What an entry under ``services`` names as a route is left to that entry. What has no rate, or
    a type of which nobody knows what it takes, is not sold.
    """
    own = {
        (one.provider, one.service) for entry in config.services.values() for one in entry.routes
    }
    rules = [(index, rule, _fits(rule)) for index, rule in enumerate(config.imports)]
    for provider in dict.fromkeys(rule.provider for rule in config.imports):
        here = [entry for entry in rules if entry[1].provider == provider]
        for offer in sorted(offers.get(provider, {}).values(), key=_place):
            kind = order_types.find(offer.type)
            if kind is None or not offer.rate or (provider, offer.id) in own:
                continue
            for index, rule, fits in here:
                if fits(offer):
                    yield Found(index, provider, offer, kind, *_rewritten(rule, offer))
                    break


def _place(offer: Offer) -> tuple[int, str]:
    """Return where an offer stands among the provider's: by number, as ids are given."""
    return int(offer.id) if offer.id.isascii() and offer.id.isdigit() else LARGEST_ID, offer.id


def _fits(rule: Import) -> Callable[[Offer], bool]:
    categories, names, unless = (
        _any(patterns) for patterns in (rule.categories, rule.names, rule.except_)
    )

    def fits(offer: Offer) -> bool:
        if rule.categories and not categories(offer.category):
            return False
        if rule.names and not names(offer.name):
            return False
        return not any(unless(text) for text in (offer.name, offer.category, offer.id))

    return fits


def _any(patterns: Sequence[str]) -> Callable[[str], object]:
    """Return what tells whether a text fits one of these shell patterns."""
    if not patterns:
        return lambda _: None
    return re.compile("|".join(fnmatch.translate(one) for one in patterns)).match


def _rewritten(rule: Import, offer: Offer) -> tuple[str, str]:
    name, category = offer.name, offer.category
    for text, instead in rule.rewrite.replace.items():
        name, category = name.replace(text, instead), category.replace(text, instead)
    if rule.rewrite.replace:  # a name that is replaced as a whole would be none
        name = " ".join(name.split()) or offer.name
        category = " ".join(category.split()) or offer.category
    return (
        rule.rewrite.name.replace("{name}", name).replace("{category}", category),
        rule.rewrite.category.replace("{name}", name).replace("{category}", category),
    )


def wanted(config: Config, found: Iterable[Found], given: Given) -> list[Wanted]:
    """Return what has no id yet, or a name that nobody has for its own."""
    firsts = sorted(rule.ids_from for rule in config.imports)
    ranges = [
        (rule.ids_from, next((one for one in firsts if one > rule.ids_from), LARGEST_ID + 1))
        for rule in config.imports
    ]
    needs = []
    for one in found:
        name = one.name if len(one.name) <= LONGEST and not _WITH_ID.search(one.name) else ""
        if one.key not in given.ids or (name and name not in given.names):
            needs.append(Wanted(one.provider, one.offer.id, name, *ranges[one.rule]))
    return needs


def allocate(
    ranges: Sequence[tuple[int, int]],
    highest: Mapping[tuple[int, int], int | None],
    last: int,
    reserved: Collection[int],
) -> list[int | None]:
    """Return a new id for each of these; ``None`` when there is none left.

    Args:
        ranges: for each, the ids that its rule gives: the first, and the one after the last.
        highest: of each range, the highest that was ever given to a provider's service.
        last: the highest of all that were.
        reserved: those that the owner has ever given himself.

    """
    reached = {one: (high or one[0] - 1) for one, high in highest.items()}
    ids: list[int | None] = []
    for one in ranges:
        number = _free(reached[one] + 1, reserved)
        if number >= one[1]:
            number = _free(max(last + 1, one[1]), reserved)
        if number > LARGEST_ID:
            ids.append(None)
            continue
        ids.append(number)
        last = max(last, number)
        for (first, below), high in reached.items():
            if first <= number < below:
                reached[first, below] = max(high, number)
    return ids


def _free(number: int, reserved: Collection[int]) -> int:
    while number in reserved:
        number += 1
    return number


def without_id(wanted: Iterable[Wanted], given: Given) -> list[Wanted]:
    """Return those to which no id was given yet, each once."""
    found = {(one.provider, one.service): one for one in wanted}
    return [one for key, one in found.items() if key not in given.ids]


def give(given: Given, wanted: Sequence[Wanted], owners: Iterable[int]) -> None:
    """Give what is wanted, in memory alone: what the stores do, without remembering it."""
    given.add({}, {}, owners)
    new = without_id(wanted, given)
    ranges = [(one.first, one.below) for one in new]
    highest = {
        (a, b): max((number for number in given.sold if a <= number < b), default=None)
        for a, b in set(ranges)
    }
    ids = allocate(ranges, highest, max(given.sold, default=0), given.owners)
    fresh = {(w.provider, w.service): number for w, number in zip(new, ids, strict=True) if number}
    given.add(fresh, {})
    for one in wanted:
        number = given.ids.get((one.provider, one.service))
        if one.name and number:
            given.names.setdefault(one.name, number)


def named(found: Found, number: int, given: Given, taken: Collection[str]) -> str:
    """Return the name of an imported service: one that nothing else that is sold has.

    ``taken`` are the names of the owner's own services.
    """
    name = found.name
    if given.names.get(name) == number and name not in taken:
        return name
    name = f"{name} ({number})"
    while name in taken:
        name = f"{name} ({number})"
    return name
