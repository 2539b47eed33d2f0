"""What must hold at every step, whatever happened; compared with what the panels really did."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from gateway import ledger, money
from gateway.config import Config
from gateway.model import Order, State
from gateway.simulation.bounds import Calls, Risk
from gateway.simulation.loop import Clock, at_once
from gateway.simulation.panels import Panels, target
from gateway.simulation.plan import TIMEOUT
from gateway.store.sqlite import SqliteStore

AUDIT_EVERY = 100
"""Commits between two audits."""
SETTLED = ("settled as placed", "settled as not placed", "identified")


class Violated(Exception):
    """A promise was broken."""


class Wanted(Protocol):
    """What is known of an order that a customer wants."""

    target: str
    repeats: bool
    open: int
    lost: bool
    got: set[int]
    refused: str


class Invariants:
    """Looks at the database after every step, through a connection of its own.

    Attributes:
        paid_in: what each customer has paid in, in millionths, as the world knows it.

    """

    def __init__(self, store: SqliteStore, panels: Panels, config: Config, clock: Clock) -> None:
        self.paid_in: dict[int, int] = {}
        self.orders: dict[int, Order] = {}
        self._store = store
        self._panels = panels
        self._clock = clock
        self._queue_for = config.orders.queue_for
        self._risk = Risk(config.providers, clock)
        self._readings: dict[str, tuple[int, int]] = {}
        self._edition = -1
        self._looks = 0

    # --- after every step -------------------------------------------------------------------

    def look(self, process: Calls | None = None) -> Iterator[str]:
        """Check every order that has changed, by what a process did; yields what did."""
        read = self._store._read  # noqa: SLF001  # cheaper than reading all orders at each step
        ((edition,),) = read("PRAGMA data_version")
        if edition == self._edition:
            return
        self._edition = edition
        versions = dict(read("SELECT id, version FROM orders"))
        fresh = [
            one
            for one, version in versions.items()
            if one not in self.orders or self.orders[one].version != version
        ]
        if fresh:
            found = at_once(self._store.orders(fresh))
            marked = [one for one in found.values() if self._is_marked(one)]
            self.orders |= found
            for order in found.values():
                yield f"order {order.id} is {order.state}, {order.status}, {order.upstream_id}"
                self._order(order)
            if process and (wrong := self._risk.mark(marked, self.orders.values(), process)):
                raise Violated(wrong)
        self._money()
        self._in_turn()
        self._looks += 1
        if self._looks % AUDIT_EVERY == 0:
            self._audit()

    def _is_marked(self, order: Order) -> bool:
        """Tell whether an order is about to be sent, and was not when it was last looked at."""
        before = self.orders.get(order.id)
        return order.state is State.SENDING and (not before or before.attempt != order.attempt)

    def _in_turn(self) -> None:
        """Check that nobody writes a balance whose work is somebody else's by now."""
        rows = "SELECT provider, count(*), max(asked_at) FROM readings GROUP BY provider"
        for provider, count, last in self._store._read(rows):  # noqa: SLF001  # as above
            before = self._readings.get(provider, (0, 0))
            if count > before[0] and last == before[1]:
                raise Violated(f"a balance of {provider} is written after a later one")
            self._readings[provider] = count, last

    def sent(self) -> None:
        """Check that what was just written to a provider was marked as such before, durably."""
        for call in self._panels.just_sent:
            mine = [one for one in self.orders.values() if target(one.params) == call.target]
            order = max(mine, key=lambda one: one.id, default=None)
            if order is None:
                raise Violated(f"{call.target} was sent to {call.provider}, and is no order")
            if order.state is not State.SENDING or order.provider != call.provider:
                raise Violated(
                    f"order {order.id} was sent to {call.provider} while it was {order.state}"
                )
            waited = self._clock.now() / 1000 - order.queued_at / 1000
            if order.queued_at and waited > self._queue_for + TIMEOUT:
                raise Violated(
                    f"order {order.id} was sent after {waited:g} s, and {self._queue_for:g} s "
                    "is the longest that it may wait"
                )
        self._panels.just_sent.clear()

    def _order(self, order: Order) -> None:
        """Compare an order with what was sent and what was taken."""
        name = f"order {order.id}"
        mine = target(order.params)
        taken = self._panels.taken.get(mine, [])
        sent = self._panels.written.get(mine, [])
        if len(taken) > 1:
            raise Violated(f"{name} was taken {len(taken)} times")
        if order.state is State.QUEUED and not all(one.refused for one in sent):
            raise Violated(f"{name} is queued, and may be with {sent[-1].provider}")
        if order.state is State.PLACED:
            if not taken or taken[0].provider != order.provider:
                raise Violated(f"{name} is placed at {order.provider}, which does not have it")
            if order.upstream_id not in ("", str(taken[0].order.id)):
                raise Violated(
                    f"{name} is {taken[0].order.id} at {order.provider}, not {order.upstream_id}"
                )
        if order.state is State.FAILED and not self._again(order):
            if taken and self._panels.stalls[taken[0].provider].panel.charge(taken[0].order):
                raise Violated(f"{name} has failed, and {taken[0].provider} has it")
            if any(one.under_way for one in sent):
                raise Violated(f"{name} has failed, and may still be taken")
            if not all(one.refused for one in sent) and not self._events(order.id)[SETTLED[1]]:
                raise Violated(f"{name} has failed, and nothing proves that it was not taken")

    def _again(self, order: Order) -> bool:
        """Tell whether the customer has ordered the same again, having been refused."""
        mine = target(order.params)
        return any(one.id > order.id and target(one.params) == mine for one in self.orders.values())

    def _events(self, order: int) -> Counter[str]:
        events, _ = at_once(self._store.history(order))
        return Counter(one.kind for one in events)

    def _money(self) -> None:
        """Nobody spends what he does not have, and nothing comes from nowhere."""
        for customer, accounts in at_once(self._store.balances(list(self.paid_in))).items():
            has = sum(one.available + one.held + one.sales - one.owed for one in accounts)
            if has != self.paid_in[customer]:
                raise Violated(
                    f"customer {customer} has paid in {money.text(self.paid_in[customer])}, and "
                    f"his accounts add up to {money.text(has)}"
                )
            for one in accounts:
                if min(one.available, one.held, one.sales, one.owed) < 0:
                    raise Violated(f"customer {customer} has an account below zero: {one}")

    def _audit(self) -> None:
        if problems := at_once(self._store.inspect(ledger.audit)).problems:
            raise Violated(problems[0])

    # --- what customers were told -----------------------------------------------------------

    def answered(self, wish: Wanted, answer: object) -> None:
        """Take note of an answer to ``add``, and check it."""
        if not isinstance(answer, dict):
            raise Violated(f"{wish.target} was answered {answer}")
        if "order" in answer:
            wish.got.add(answer["order"])
            for _ in self.look():
                pass
            self._promised(wish)
            return
        wish.refused = str(answer.get("error"))
        if not wish.got and not wish.open and not wish.lost:
            for order in self.orders.values():
                if target(order.params) == wish.target and order.state is not State.FAILED:
                    raise Violated(
                        f"{wish.target} was answered {wish.refused}; order {order.id} stands"
                    )

    def _promised(self, wish: Wanted) -> None:
        if len(wish.got) > 1:
            raise Violated(f"{wish.target} was given the ids {sorted(wish.got)}")
        for one in wish.got:
            order = self.orders.get(one)
            if order is None or target(order.params) != wish.target:
                raise Violated(f"{wish.target} was given the id {one}, which is not its order")

    # --- now and then -----------------------------------------------------------------------

    def everything(self, wishes: Sequence[Wanted]) -> None:
        """Check all orders, all answers and the books."""
        for _ in self.look():
            pass
        for order in self.orders.values():
            self._order(order)
        stands = Counter(
            target(one.params) for one in self.orders.values() if one.state is not State.FAILED
        )
        for wish in wishes:
            self._promised(wish)
            if stands[wish.target] > 1:
                raise Violated(f"{wish.target} stands {stands[wish.target]} times")
        self._audit()

    def rest(self, wishes: Sequence[Wanted]) -> None:
        """Compare everything with the panels when nothing moves any more."""
        ours = {target(one.params): one for one in self.orders.values()}
        for mine, taken in self._panels.taken.items():
            if mine not in ours:
                raise Violated(f"{taken[0].provider} has {mine}, of which nothing is known")
        for order in self.orders.values():
            if order.state is State.SENDING:
                raise Violated(f"order {order.id} is being sent by nobody")
            if order.state is State.PLACED and order.upstream_id:
                self._truth(order)
        for wish in wishes:
            if wish.got and not wish.got <= self.orders.keys():
                raise Violated(f"{wish.target} was given the id of no order")

    def _truth(self, order: Order) -> None:
        """Compare an order with the panel's own word on it."""
        taken = self._panels.taken[target(order.params)][0]
        panel = self._panels.stalls[taken.provider].panel
        state = taken.order.state(panel.clock())
        right = {
            "completed": order.charge,
            "canceled": 0,
            "partial": -(-order.charge * state.done // order.size),
        }.get(state.word)
        if right is None:
            return
        if order.status.casefold() != state.word or ledger.net(order) != right:
            raise Violated(
                f"order {order.id} is {order.status} and charged {money.text(ledger.net(order))}; "
                f"{taken.provider} says {state.word}, which makes {money.text(right)}"
            )

    # --- for people -------------------------------------------------------------------------

    def states(self) -> dict[str, int]:
        """Return how many orders there are in each state."""
        return dict(sorted(Counter(str(one.state) for one in self.orders.values()).items()))

    def settled(self) -> dict[str, int]:
        """Return how many unknown orders were settled, and how."""
        found: Counter[str] = Counter()
        for order in self.orders:
            found += self._events(order)
        return {kind: found[kind] for kind in ("unknown", *SETTLED) if found[kind]}
