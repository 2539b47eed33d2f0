"""Bugs to be planted: each breaks one promise in the real code, and the simulation must notice.

Each names what must be noticed: a bug that is found by something else has not been understood.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from math import inf
from types import FunctionType, MappingProxyType
from typing import Any, cast

import msgspec

from gateway import ledger, reporting, settle, transitions, upstream
from gateway.config import Provider
from gateway.errors import Unreachable
from gateway.evidence import Finding, Verdict
from gateway.line import Line, Place
from gateway.model import SETTLED, Code, Kind, Order, State, Transfer
from gateway.moves import Case
from gateway.orders import Orders
from gateway.store import Change, Transition, books, sqlite, sqlite_providers
from gateway.transitions import Choice

Movements = Callable[[Order | None, Order, int], tuple[Transfer, ...]]


class Plant(msgspec.Struct, frozen=True):
    """A bug.

    Attributes:
        bug: returns a context in which the gateway has it.
        violates: matches what is said of the promise that it breaks, and nothing else.

    """

    bug: Callable[[], AbstractContextManager[None]]
    violates: str

    def __call__(self) -> AbstractContextManager[None]:
        """Return a context in which the gateway has the bug."""
        return self.bug()


PLANTED: dict[str, Plant] = {}
"""By the name that ``gateway simulate --plant`` takes."""


def _violates(
    violates: str,
) -> Callable[[Callable[[], AbstractContextManager[None]]], Plant]:
    """Enter a bug, with what it violates, among those that can be planted."""

    def enter(bug: Callable[[], AbstractContextManager[None]]) -> Plant:
        name = cast("FunctionType", bug).__name__.replace("_", "-")
        PLANTED[name] = Plant(bug, violates)
        return PLANTED[name]

    return enter


@contextmanager
def _replaced(owner: object, name: str, other: Callable[[Any], object]) -> Iterator[None]:
    """Put what ``other`` makes of it in the place of something in the gateway, for a while."""
    honest = getattr(owner, name)
    setattr(owner, name, other(honest))
    try:
        yield
    finally:
        setattr(owner, name, honest)


@_violates(r"order \d+ (is queued, and may be with|has failed, and) ")
def retry_on_timeout() -> AbstractContextManager[None]:
    """A provider that did not answer is taken not to have heard."""
    return _replaced(upstream, "Indeterminate", lambda _: Unreachable)


@_violates(r"order \d+ is queued, and may be with ")
def sent_again_after_a_crash() -> AbstractContextManager[None]:
    """What was being sent when the gateway stopped is sent once more."""

    def unknown(words: str, attempt: int, at: int) -> Transition:
        return transitions.refused("unreachable", words, attempt, at, then=None)

    return _replaced(transitions, "unknown", lambda _: unknown)


@_violates(r"order \d+: (held|charged) .* in the books, .* by its state")
def refund_twice() -> AbstractContextManager[None]:
    """A movement is posted again, under a key of its own."""

    def other(honest: Movements) -> Movements:
        def movements(before: Order | None, after: Order, at: int) -> tuple[Transfer, ...]:
            made = honest(before, after, at)
            back = [one for one in made if one.code in (Code.REFUND, Code.RELEASE)]
            return (*made, *(msgspec.structs.replace(one, key=f"{one.key}/2") for one in back))

        return movements

    return _replaced(ledger, "movements", other)


@_violates(r"order \d+: held .* in the books, .* by its state")
def lost_hold() -> AbstractContextManager[None]:
    """An order is placed without a hold on its customer's money."""

    def other(honest: Movements) -> Movements:
        def movements(before: Order | None, after: Order, at: int) -> tuple[Transfer, ...]:
            return tuple(one for one in honest(before, after, at) if one.code is not Code.HOLD)

        return movements

    return _replaced(ledger, "movements", other)


@_violates(r"has an account below zero")
@contextmanager
def unguarded_debit() -> Iterator[None]:
    """Neither the books nor the database mind a balance below zero any more."""

    def other(honest: Callable[..., Any]) -> Callable[..., Any]:
        def connect(*args: object, **options: object) -> object:
            db = honest(*args, **options)
            db.execute("PRAGMA ignore_check_constraints = ON")
            return db

        return connect

    with (
        _replaced(books, "FLOORLESS", lambda _: frozenset(Kind)),
        _replaced(sqlite, "connect", other),
    ):
        yield


@_violates(r"was sent to \S+ though nothing proves that|was sent to \S+ while it was ")
def sent_by_two() -> AbstractContextManager[None]:
    """A process sends an order from the queue though another one is sending it."""

    def other(honest: Callable[[Choice, int, str], Transition]) -> object:
        def sending(choice: Choice, at: int, sender: str = "") -> Transition:
            def change(order: Order) -> Change | None:
                if order.state is State.SENDING:
                    order = msgspec.structs.replace(order, state=State.QUEUED)
                return honest(choice, at, sender)(order)

            return change

        return sending

    return _replaced(transitions, "sending", other)


@_violates(r"order \d+ was sent to \S+ while it was ")
def sent_too_late() -> AbstractContextManager[None]:
    """A process that was stopped for a while goes on to send what was settled meanwhile."""

    def entered(honest: Callable[[Line, float], Place]) -> object:
        def enter(line: Line, at: float) -> Place:
            place = honest(line, at)
            place.not_after, place.nor_after = inf, 1 << 62
            return place

        return enter

    return _replaced(Line, "_entered", entered)


@_violates(r"stands \d+ times|was given the ids|though nothing proves that")
def forgotten_key() -> AbstractContextManager[None]:
    """Nothing finds an order again by its idempotency key."""
    return _replaced(Orders, "_claim", lambda _: lambda *_: None)


@_violates(r"order \d+ has failed, and \S+ has it")
def hasty_evidence() -> AbstractContextManager[None]:
    """An order that the evidence leaves open is taken not to have been placed."""

    def other(honest: Callable[[Case], dict[int, Finding]]) -> object:
        def judge(case: Case) -> dict[int, Finding]:
            return {
                order: Finding(Verdict.NOT_PLACED, one.why) if one.verdict is Verdict.OPEN else one
                for order, one in honest(case).items()
            }

        return judge

    return _replaced(settle, "judge", other)


@_violates(r"; \S+ says \w+, which makes ")
def deaf_to_late_truth() -> AbstractContextManager[None]:
    """What a provider says of an order after its end is not taken over."""

    def other(honest: Callable[..., Transition]) -> object:
        def reported(*news: Any) -> Transition:  # noqa: ANN401  # whatever it is told
            change = honest(*news)
            return lambda order: None if order.status in SETTLED else change(order)

        return reported

    return _replaced(reporting, "reported", other)


@_violates(r"a balance of \S+ is written after a later one")
def missing_fence() -> AbstractContextManager[None]:
    """A process that was stopped for a while still does what is another one's work by now."""
    return _replaced(sqlite_providers, "hold", lambda _: lambda *_: None)


def _limited(
    *, limits: Mapping[str, object] = MappingProxyType({}), **others: object
) -> AbstractContextManager[None]:
    """Let the line to a provider take its limits for others than the owner's file says."""

    def other(honest: Callable[..., None]) -> object:
        def begin(line: Line, name: str, provider: Provider, *rest: object) -> None:
            changed = {"limits": provider.limits.model_copy(update=limits), **others}
            honest(line, name, provider.model_copy(update=changed), *rest)

        return begin

    return _replaced(Line, "__init__", other)


@_violates(r"is asked \d+ times within a second")
def unpaced() -> AbstractContextManager[None]:
    """A provider is asked as often as one likes."""
    return _limited(limits={"per_second": None})


@_violates(r"is asked \d+ things at once")
def crowded() -> AbstractContextManager[None]:
    """A provider is asked as many things at once as there are."""
    return _limited(limits={"concurrency": 100})


@_violates(r"is at risk at ")
def boundless_risk() -> AbstractContextManager[None]:
    """A provider gets orders however many of them are not settled."""
    return _limited(max_unsettled=None)


@_violates(r"is the longest that it may wait")
def boundless_queue() -> AbstractContextManager[None]:
    """An order waits in the queue for as long as it takes."""

    def other(honest: Callable[..., None]) -> object:
        def begin(orders: Orders, *parts: Any) -> None:  # noqa: ANN401  # see there
            store, router, shop, promises, *rest = parts
            endless = promises.model_copy(update={"queue_for": 1e6})
            honest(orders, store, router, shop, endless, *rest)

        return begin

    return _replaced(Orders, "__init__", other)
