"""The line to one provider: its dialect and key, its pace and places, its health, its purse.

Three things keep a provider that is in trouble from costing money. A *place* is taken before an
order is marked as being sent, so that what only waits for its turn is known to be with nobody. A
provider that does not answer *rests*: it gets no orders for a while, and then one at a time until
it has answered one. And what is known of our account there is looked at before an order is sent.

All of that is asked and counted upon in one step, ``Line.admit``, so that however many orders come
at once, no more of them are sent than are allowed. It is counted in each process for itself, and
a process hears within a second what the others have marked: together they may pass
``max_unsettled`` and the purse by what they send in that second.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
import structlog

from gateway.adapters import ADAPTERS
from gateway.adapters.api_v2 import ApiV2
from gateway.config import Provider
from gateway.errors import CallFailed, Fault, Rejected, Unreachable
from gateway.gate import Gate
from gateway.model import Action, Call
from gateway.money import MILLION, Money
from gateway.offload import apart, free
from gateway.upstream import LARGEST, Upstream

T = TypeVar("T")
log = structlog.get_logger()

TIRED = 5
"""Calls in a row, or orders in a row, without an answer after which a provider rests."""
REST, LONGEST_REST = 5.0, 300.0
"""Seconds for which a provider rests; each time in vain doubles them."""
SLOW = 0.5
"""The part of a provider's timeout at which it counts as slow: others are preferred."""
MEMORY = 0.3
"""How much of the usual latency the last answer makes up."""
SECRET = 8
"""Letters from which on a key is one."""
LARGE = 256 * 1024
"""Bytes of an answer that is read in a thread."""
LONGEST = 2 * 1024 * 1024
"""Bytes that an answer may have if it is no list of services; a status of 100 orders has a
hundredth of that."""


class Pause(msgspec.Struct):
    """A while until something is tried again, twice as long each time that it was in vain.

    Attributes:
        length: its seconds; 0 before the first one.
        until: its end, on the event loop's clock.

    """

    length: float = 0.0
    until: float = 0.0

    @property
    def over(self) -> bool:
        """Whether it has passed."""
        return asyncio.get_running_loop().time() >= self.until

    def lengthen(self) -> None:
        """Begin the next one."""
        self.length = min(2 * self.length or REST, LONGEST_REST)
        self.until = asyncio.get_running_loop().time() + self.length


class Health(msgspec.Struct):
    """What was last seen of a provider, in this process.

    Attributes:
        failures: calls in a row that got no readable answer; a refusal is an answer.
        orders_failed: the same of orders alone, whatever was read between them.
        latency: seconds that calls usually take lately.
        rest: how long it gets no orders; it has none once an order has been answered.

    """

    failures: int = 0
    orders_failed: int = 0
    answered_at: int | None = None
    latency: float | None = None
    trouble: str = ""
    in_flight: int = 0
    rest: Pause = msgspec.field(default_factory=Pause)


class Place:
    """Room for one call within a provider's limits; left once, however often ``leave`` is said.

    Attributes:
        not_after: when, on the event loop's clock, it is too late to begin writing the call.
        nor_after: the same in milliseconds of the wall clock, which goes on while a machine sleeps.

    """

    def __init__(self, gate: Gate, entered: float, not_after: float, nor_after: int) -> None:
        self.not_after = not_after
        self.nor_after = nor_after
        self._gate: Gate | None = gate
        self._entered_at = entered

    def leave(self, *, unused: bool = False) -> None:
        """Give the room to whoever waits for it; ``unused``: nothing was asked."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave(unused=self._entered_at if unused else None)


class Line:
    """The line to one provider.

    Attributes:
        provider: what the owner's file says of it.
        purse: what is left of our money there, in millionths, as far as this process knows.
        reserved: what the orders cost that are admitted here and not answered, in this process.
        unsettled: what the others cost that are not settled, as the store last knew.
        first: the one order that it gets after a rest, while that is on its way.

    """

    def __init__(
        self, name: str, provider: Provider, upstream: Upstream, now: Callable[[], int]
    ) -> None:
        self.name = name
        self.provider = provider
        self.adapter: ApiV2 = ADAPTERS[provider.adapter](
            currency=provider.currency or "",
            rename=provider.dialect.rename,
            batch=provider.dialect.batch,
            without=provider.dialect.without,
            refusals=provider.dialect.refusals,
        )
        self.health = Health()
        self.timeout = provider.timeout
        self.purse: int | None = None
        self.reserved = 0
        self.unsettled = 0
        most = provider.max_unsettled
        self.max_unsettled = None if most is None else int(most * MILLION)
        self.first: Admission | None = None
        self._purse_at = 0
        self._need: Pause | None = None  # since a refusal for our account, between two balances
        self._refusal = ""
        self._foreign = ""
        self._url = str(provider.url)
        self._key = provider.key.get_secret_value()
        self._upstream = upstream
        self._now = now
        self._gate = Gate(provider.limits.concurrency, provider.limits.per_second)

    # --- whether it gets orders -----------------------------------------------------------

    @property
    def silent(self) -> bool:
        """Whether it answers nothing at all."""
        return self.health.failures >= TIRED

    @property
    def resting(self) -> bool:
        """Whether it gets no orders because it does not answer."""
        return self.silent or not self.health.rest.over

    @property
    def slow(self) -> bool:
        """Whether its answers take so long that another provider is preferred."""
        return (self.health.latency or 0) > SLOW * self.timeout

    def why_not(self, cost: int, admitted: "Admission | None" = None) -> str:
        """Return why an order of this cost should not be tried here now; empty: it can be.

        ``admitted``: what the order has been admitted with before.
        """
        if self.resting:
            return f"it does not answer: {self.health.trouble}"
        if self.health.rest.length and self.first not in (None, admitted):
            return "it has to answer one order before it gets another"
        reserved = self.reserved + cost - (admitted.cost if admitted else 0)
        if self.purse is not None and self.purse < reserved:
            refused = f"it refused our account ({self._refusal}), and no balance was seen since"
            return refused if self._need else "our balance there is too small"
        if self.max_unsettled is not None and self.unsettled + reserved > self.max_unsettled:
            return "its unsettled orders have reached max_unsettled"
        return ""

    def admit(self, cost: int) -> "Admission":
        """Count on an order of this cost from now on; raises ``Unreachable`` where that can't be.

        Nothing is awaited between the question and the counting: nobody comes between them.
        """
        admission = Admission(self)
        admission.reckon(cost)
        return admission

    def look_now(self) -> bool:
        """Tell whether a read-only call should find out if it can take orders again.

        Whoever is told so makes that call; the next one comes later, and later each time.
        """
        if self._need and self._need.over:
            if self._need.length == LONGEST_REST:
                # No balance tells: there may be none to ask for. An order has to find out.
                self._need = self.purse = None
                return False
            self._need.lengthen()
            return True
        return self.silent and self.health.rest.over

    def short_of(self, cost: int, words: str) -> None:
        """Remember a refusal that was about our account, until a balance settles it, or time.

        ``words``: the provider's own.
        """
        self.purse = min(self.purse if self.purse is not None else cost, cost) - 1
        self._purse_at = max(self._purse_at, self._now())
        self._refusal = words[:200]
        if self._need is None:
            log.warning("a provider refused our account", provider=self.name, reason=self._refusal)
            self._need = Pause()
            self._need.lengthen()

    def saw_purse(self, balance: Money, at: int) -> None:
        """Take over a balance that the provider told at a time, if nothing later is known."""
        if balance.currency != self.adapter.currency:
            if self._foreign != balance.currency:
                self._foreign = balance.currency
                log.error(
                    "a balance in another currency than the provider's is of no use",
                    provider=self.name,
                    said=balance.currency,
                    declared=self.adapter.currency,
                )
        elif at > self._purse_at:
            self._purse_at = at
            self.purse = balance.micros
            self._need = None

    # --- calls ----------------------------------------------------------------------------

    def place_now(self) -> Place | None:
        """Take a place if one is free at this moment."""
        entered = self._gate.enter_now()
        return None if entered is None else self._entered(entered)

    async def place(self, *, first: bool = True, patient: bool = False) -> Place:
        """Wait for a place, up to the provider's timeout; raises ``Unreachable`` after it.

        ``first``: for an order, which passes whatever else waits; ``patient``: however long that
        takes, so as not to lose its turn.
        """
        if place := self.place_now():
            return place
        try:
            async with asyncio.timeout(None if patient else self.timeout):
                entered = await self._gate.enter(first=first)
        except TimeoutError:
            msg = f"{self.name}: no free place within its limits"
            raise Unreachable(msg) from None
        return self._entered(entered)

    def _entered(self, at: float) -> Place:
        too_late = asyncio.get_running_loop().time() + self.timeout
        return Place(self._gate, at, too_late, self._now() + round(self.timeout * 1000))

    async def call(
        self,
        call: Call,
        read: Callable[[Call, Any], T],
        *,
        place: Place | None = None,
    ) -> T:
        """Make one call; raises a ``CallFailed``, or ``Unsupported`` before anything is sent.

        ``place``: one that was taken before; the call leaves it.
        """
        fields = self.adapter.write(call)
        place = place or await self.place(first=call.action is Action.ADD)
        try:
            if self._now() > place.nor_after:
                msg = f"{self.name}: too late to be sent"
                raise Unreachable(msg)
            return await self._asked(call, fields, read, place.not_after)
        finally:
            place.leave()

    async def _asked(
        self,
        call: Call,
        fields: Mapping[str, str],
        read: Callable[[Call, Any], T],
        not_after: float,
    ) -> T:
        health = self.health
        health.in_flight += 1
        clock = asyncio.get_running_loop().time
        began = clock()
        ordered = call.action is Action.ADD
        try:
            answer = await self._upstream.post(
                self._url,
                fields,
                key=self._key,
                timeout=self.timeout,
                not_after=not_after,
                at_most=LARGEST if call.action is Action.SERVICES else LONGEST,
            )

            def understood() -> T:
                secret = len(self._key) >= SECRET  # a few letters stand in answers by themselves
                body = _without(self._key.encode(), answer.body) if secret else answer.body
                opened = self.adapter.open(call, answer.status, body)
                try:
                    return read(call, opened)
                finally:
                    if isinstance(opened, list):
                        free(opened)

            # Everybody else would wait while a catalog is read.
            large = len(answer.body) > LARGE
            value = await apart(understood) if large else understood()
        except CallFailed as failure:
            if isinstance(failure, Rejected):
                self._answered(call.action, clock() - began)
                if failure.fault is Fault.ACCOUNT and not ordered:
                    health.trouble = failure.words[:200]
            else:
                self._unanswered(call.action, began, str(failure))
            log.info("call failed", provider=self.name, action=call.action, error=str(failure))
            raise
        finally:
            health.in_flight -= 1
        self._answered(call.action, clock() - began)
        return value

    def _answered(self, action: Action, took: float) -> None:
        health = self.health
        if self.silent:  # it is there again; whether it takes orders, the first will show
            health.rest.until = 0.0
        health.failures = 0
        health.answered_at = self._now()
        if action is Action.ADD:
            if health.rest.length:
                log.warning("a provider answers orders again", provider=self.name)
            health.orders_failed = 0
            health.rest = Pause()
        if not health.rest.length:
            health.trouble = ""
        self._took(action, took)

    def _unanswered(self, action: Action, began: float, trouble: str) -> None:
        health = self.health
        health.failures += 1
        health.orders_failed += action is Action.ADD
        health.trouble = trouble[:200]
        took = asyncio.get_running_loop().time() - began
        if took > (health.latency or 0):  # that nobody is there may be known at once
            self._took(action, took)
        tired = self.silent or (action is Action.ADD and health.orders_failed >= TIRED)
        if tired and began >= health.rest.until:  # else it was under way when the rest began
            if not health.rest.length:
                log.error("a provider does not answer and gets no orders", provider=self.name)
            health.rest.lengthen()

    def _took(self, action: Action, seconds: float) -> None:
        health = self.health
        if action is not Action.SERVICES:  # a list takes long wherever it comes from
            usual = seconds if health.latency is None else health.latency
            health.latency = usual + (seconds - usual) * MEMORY


class Admission:
    """What one order has taken up at a provider: the cost that is counted on, and a place.

    Attributes:
        cost: in millionths of the provider's currency.
        place: room for its call, once there is some.

    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self.cost = 0
        self.place: Place | None = None

    def reckon(self, cost: int) -> None:
        """Count on this cost instead; raises ``Unreachable`` where the provider can't have it."""
        if why := self.line.why_not(cost, self):
            msg = f"{self.line.name}: {why}"
            raise Unreachable(msg)
        self.line.reserved += cost - self.cost
        self.cost = cost
        if self.line.health.rest.length:
            self.line.first = self

    def end(self, *, taken: bool = False, unused: bool = False) -> None:
        """Give up the place and what was counted on.

        ``taken``: the provider may have the order; ``unused``: it was not even asked.
        """
        if self.place:
            self.place.leave(unused=unused)
        line = self.line
        line.reserved -= self.cost
        if taken:
            line.unsettled += self.cost
            if line.purse is not None:
                line.purse -= self.cost
        if line.first is self:
            line.first = None


def _without(key: bytes, body: bytes) -> bytes:
    """Return an answer without our key, which some panels repeat: nobody is to read it there."""
    # A search holds up every other thread until it ends, so a long one is made in steps.
    steps = range(0, len(body), LARGE)
    if any(key in body[start : start + LARGE + len(key)] for start in steps):
        return body.replace(key, b"***")
    return body
