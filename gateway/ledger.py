"""Double entry: where an order's money stands, which transfers that takes, and the proof.

An order's money is a pure function of the order: what is *held* for it, its *net* charge, and its
*cost* at the provider. Whatever happens to an order, the transfers are the differences between
the order before and after. So a report that says the same twice moves nothing, and
Completed → Partial → Canceled → Completed ends right, without a rule for any of these steps.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from gateway import money
from gateway.model import MOVES, Code, Kind, Order, State, Status, Transfer
from gateway.order_types import SUBSCRIPTIONS

if TYPE_CHECKING:
    from gateway.store import Snapshot

UNDECIDED = frozenset({State.QUEUED, State.SENDING, State.UNKNOWN})
"""The customer's money is promised to these, and is nobody's yet."""


_TURNS = (
    Code.HOLD,
    Code.CAPTURE,
    Code.RESTORE,
    Code.RELEASE,
    Code.CHARGE,
    Code.REFUND,
    Code.COST,
    Code.REBATE,
)
"""In which turn the money of one change moves."""
# Each order passes here a dozen times; until Python 3.12 looking up an enum's member is slow.
_PLACED, _COMPLETED, _PARTIAL, _CANCELED = (
    State.PLACED,
    Status.COMPLETED,
    Status.PARTIAL,
    Status.CANCELED,
)
_THEIRS = frozenset({Code.COST, Code.REBATE})
"""What moves at the provider, in its currency."""


def delivered(order: Order) -> int | None:
    """Return how many of the order's units are known to be delivered; ``None``: not known."""
    if order.type == SUBSCRIPTIONS:
        return None if order.posts is None else order.posts * int(order.params["max"])
    return None if order.remains is None else order.size - order.remains


class Standing(msgspec.Struct, frozen=True, gc=False):
    """Where an order's money stands, in millionths.

    Attributes:
        held: what stays set aside for it, in its currency.
        net: its net charge: all of it, the share delivered, or nothing.
        cost: what the provider is taken to charge, in the provider's currency.

    """

    held: int
    net: int
    cost: int


NOTHING = Standing(0, 0, 0)


def standing(order: Order) -> Standing:
    """Return where an order's money stands."""
    if order.state in UNDECIDED:
        return Standing(order.charge, 0, 0)
    if order.state is not _PLACED:
        return NOTHING
    due = _fraction(order, order.charge)
    going = order.type == SUBSCRIPTIONS and order.settled_at is None
    return Standing(order.charge - due if going else 0, due, _cost(order))


def held(order: Order) -> int:
    """Return what stays set aside for the order, in millionths of its currency."""
    return standing(order).held


def net(order: Order) -> int:
    """Return the order's net charge: all of it, the share delivered, or nothing."""
    return standing(order).net


def cost(order: Order) -> int:
    """Return what the provider is taken to charge, in millionths of its currency."""
    return standing(order).cost


def _cost(order: Order) -> int:
    """Return what the provider charges for an order that it has.

    A panel's charge for a partial or canceled order may or may not be reduced already, so the
    lower of what it says and of the share of the whole is taken; the other would count its refund
    twice or never. Without a word from it, the expected cost stands.
    """
    expected = _fraction(order, order.cost)
    if order.billed is None:
        return expected
    lowered = order.status is _PARTIAL or order.status is _CANCELED
    return min(order.billed, expected) if lowered else order.billed


def _fraction(order: Order, amount: int) -> int:
    """Return the part of ``amount`` that the order's status makes due."""
    if order.type == SUBSCRIPTIONS:
        # Charged by the post, whatever the status; a finished one that never said how many it
        # delivered is taken at its word.
        done = delivered(order)
        if done is None:
            return amount if order.status is _COMPLETED else 0
        return money.share(amount, done, order.size)
    if order.status is _CANCELED:
        return 0
    if order.status is _PARTIAL and (done := delivered(order)) is not None:
        return money.share(amount, done, order.size)
    return amount


def movements(before: Order | None, after: Order, at: int) -> tuple[Transfer, ...]:
    """Return the transfers that take an order's money from ``before`` to ``after``.

    Their keys carry the order's id and new version, so no change can be posted twice.
    """
    was, now = standing(before) if before else NOTHING, standing(after)
    if was == now:
        return ()
    hold, due, bought = now.held - was.held, now.net - was.net, now.cost - was.cost
    capture = min(due, -hold) if hold < 0 < due else 0
    restore = min(-due, hold) if due < 0 < hold else 0
    due += restore - capture
    hold += capture - restore
    amounts = (hold, capture, restore, -hold, due, -due, bought, -bought)
    key = f"order/{after.id}/{after.version}/"
    moved = []
    for code, amount in zip(_TURNS, amounts):  # noqa: B905  # both are written here
        if amount > 0:
            theirs = code in _THEIRS
            owner = after.provider if theirs else str(after.customer)
            currency = after.cost_currency if theirs else after.currency
            # By position: by name it takes as long as all else of a transfer.
            moved.append(Transfer(key + code, code, owner, amount, currency, after.id, at))
    return tuple(moved)


def cost_when_placed(transfers: Iterable[Transfer]) -> int:
    """Return what an order's cost was booked as when it was placed: with its charge's capture.

    The last time, for a retry may have taken another route; what is free has no such transfer.
    """
    booked = {one.key: one for one in transfers}
    captured = [key for key, one in booked.items() if one.code is Code.CAPTURE]
    change = captured[-1].removesuffix(Code.CAPTURE) if captured else ""
    cost = booked.get(change + Code.COST)
    return cost.amount if cost else 0


def top_up(customer: int, amount: money.Money, reference: str, at: int) -> Transfer:
    """Return the transfer that credits a customer, once for each reference."""
    return _by_hand(Code.TOP_UP, customer, amount, reference, at)


def withdrawal(customer: int, amount: money.Money, reference: str, at: int) -> Transfer:
    """Return the transfer that debits a customer, once for each reference."""
    return _by_hand(Code.WITHDRAW, customer, amount, reference, at)


def deposit(provider: str, amount: money.Money, reference: str, at: int) -> Transfer:
    """Return the transfer that books money of ours paid in at a provider."""
    return _by_hand(Code.DEPOSIT, provider, amount, reference, at)


def _by_hand(
    code: Code, owner: int | str, amount: money.Money, reference: str, at: int
) -> Transfer:
    return Transfer(
        key=f"{code}/{owner}/{reference}",
        code=code,
        owner=str(owner),
        amount=amount.micros,
        currency=amount.currency,
        at=at,
    )


class Audit(msgspec.Struct):
    """What the proof of the books found; ``ok`` when there are no problems."""

    ok: bool
    transfers: int
    accounts: int
    problems: list[str]


MAY_BE_NEGATIVE = frozenset({Kind.FUNDS, Kind.OWED, Kind.PAID, Kind.PURSE})


def audit(books: "Snapshot") -> Audit:
    """Recompute everything from the transfers, and tolerate nothing.

    Each account's balance is the sum of its transfers and respects its floor; each currency adds
    up to zero; each order's transfers add up to what its state says it holds, charged and cost;
    no transfer is of an unknown code, of no amount, or of an order that does not exist.
    """
    problems: list[str] = []
    accounts = _audit_accounts(books, problems)
    transfers = books.count_transfers()
    problems.extend(_audit_orders(books))
    problems.extend(books.violations())
    return Audit(not problems, transfers, accounts, problems)


def _audit_accounts(books: "Snapshot", problems: list[str]) -> int:
    expected: dict[tuple[str, str, str], int] = {}
    for code, owner, currency, amount in books.transfer_sums():
        if code not in MOVES:
            problems.append(f"transfers of {owner} have an undeclared code {code!r}")
            continue
        source, target = MOVES[Code(code)]
        for side, signed in ((source, -amount), (target, amount)):
            account = (str(side), owner, currency)
            expected[account] = expected.get(account, 0) + signed
    totals: dict[str, int] = {}
    accounts = 0
    for kind, owner, currency, balance in books.accounts():
        accounts += 1
        totals[currency] = totals.get(currency, 0) + balance
        was = expected.pop((kind, owner, currency), 0)
        name = f"account {kind} of {owner} ({currency})"
        if balance != was:
            problems.append(
                f"{name} says {money.text(balance)}, its transfers say {money.text(was)}"
            )
        if balance < 0 and kind not in MAY_BE_NEGATIVE:
            problems.append(f"{name} is below zero: {money.text(balance)}")
    problems.extend(
        f"account {kind} of {owner} ({currency}) is missing; its transfers say {money.text(was)}"
        for (kind, owner, currency), was in expected.items()
        if was
    )
    problems.extend(
        f"the accounts in {currency} add up to {money.text(total)} instead of nothing"
        for currency, total in totals.items()
        if total
    )
    return accounts


_SIGNS = {
    "held": {Code.HOLD: 1, Code.RESTORE: 1, Code.CAPTURE: -1, Code.RELEASE: -1},
    "charged": {
        Code.CAPTURE: 1,
        Code.CHARGE: 1,
        Code.OWE: 1,
        Code.RESTORE: -1,
        Code.REFUND: -1,
    },
    "cost": {Code.COST: 1, Code.REBATE: -1},
}
_EXPECTED = {"held": held, "charged": net, "cost": cost}


def _audit_orders(books: "Snapshot") -> Iterator[str]:
    for order, sums in books.orders():
        for what, signs in _SIGNS.items():
            booked = sum(sign * sums.get(code, 0) for code, sign in signs.items())
            right = _EXPECTED[what](order)
            if booked != right:
                yield (
                    f"order {order.id}: {what} {money.text(booked)} in the books, "
                    f"{money.text(right)} by its state ({order.state}, {order.status})"
                )
