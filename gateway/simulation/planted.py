"""Bugs to be planted: each breaks one promise in the real code, and the simulation must notice."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec

from gateway import ledger, settle, transitions, upstream
from gateway.errors import Unreachable
from gateway.evidence import Case, Finding, Verdict
from gateway.model import SETTLED, Code, Kind, Order, Report, State, Transfer
from gateway.orders import Orders
from gateway.store import Change, Transition, books, sqlite
from gateway.transitions import Choice, Following

Movements = Callable[[Order | None, Order, int], tuple[Transfer, ...]]


@contextmanager
def _replaced(owner: object, name: str, other: Callable[[Any], object]) -> Iterator[None]:
    """Put what ``other`` makes of it in the place of something in the gateway, for a while."""
    honest = getattr(owner, name)
    setattr(owner, name, other(honest))
    try:
        yield
    finally:
        setattr(owner, name, honest)


def retry_on_timeout() -> AbstractContextManager[None]:
    """A provider that did not answer is taken not to have heard."""
    return _replaced(upstream, "Indeterminate", lambda _: Unreachable)


def sent_again_after_a_crash() -> AbstractContextManager[None]:
    """What was being sent when the gateway stopped is sent once more."""

    def unknown(words: str, attempt: int, at: int) -> Transition:
        return transitions.refused("unreachable", words, attempt, at, then=None)

    return _replaced(transitions, "unknown", lambda _: unknown)


def refund_twice() -> AbstractContextManager[None]:
    """A movement is posted again, under a key of its own."""

    def other(honest: Movements) -> Movements:
        def movements(before: Order | None, after: Order, at: int) -> tuple[Transfer, ...]:
            made = honest(before, after, at)
            back = [one for one in made if one.code in (Code.REFUND, Code.RELEASE)]
            return (*made, *(msgspec.structs.replace(one, key=f"{one.key}/2") for one in back))

        return movements

    return _replaced(ledger, "movements", other)


def lost_hold() -> AbstractContextManager[None]:
    """An order is placed without a hold on its customer's money."""

    def other(honest: Movements) -> Movements:
        def movements(before: Order | None, after: Order, at: int) -> tuple[Transfer, ...]:
            return tuple(one for one in honest(before, after, at) if one.code is not Code.HOLD)

        return movements

    return _replaced(ledger, "movements", other)


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


def missing_fence() -> AbstractContextManager[None]:
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


def sent_too_late() -> AbstractContextManager[None]:
    """A process that was stopped for a while goes on to send what was settled meanwhile."""
    return _replaced(upstream, "in_time", lambda _: lambda _: None)


def forgotten_key() -> AbstractContextManager[None]:
    """Nothing finds an order again by its idempotency key."""
    return _replaced(Orders, "_claim", lambda _: lambda *_: None)


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


def deaf_to_late_truth() -> AbstractContextManager[None]:
    """What a provider says of an order after its end is not taken over."""

    def other(honest: Callable[[Report, int, Following], Transition]) -> object:
        def reported(report: Report, at: int, following: Following) -> Transition:
            change = honest(report, at, following)
            return lambda order: None if order.status in SETTLED else change(order)

        return reported

    return _replaced(transitions, "reported", other)


PLANTED: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    plant.__name__.replace("_", "-"): plant
    for plant in (
        retry_on_timeout,
        sent_again_after_a_crash,
        refund_twice,
        lost_hold,
        unguarded_debit,
        missing_fence,
        sent_too_late,
        forgotten_key,
        hasty_evidence,
        deaf_to_late_truth,
    )
}
"""By the name that ``gateway simulate --plant`` takes."""
