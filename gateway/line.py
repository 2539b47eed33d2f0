"""The line to one provider: its dialect and key, its pace and places, its health, its purse.

Three things keep a provider that is in trouble from costing money. A *place* is taken before an
order is marked as being sent, so that what only waits for its turn is known to be with nobody. A
provider that does not answer *rests*: it gets no orders until a call that only reads has been
answered again. And what is known of our account there is looked at before, not after, a refusal.
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
from gateway.upstream import Upstream

T = TypeVar("T")
log = structlog.get_logger()

TIRED = 5
"""Calls in a row without an answer after which a provider rests."""
REST, LONGEST_REST = 5.0, 300.0
"""Seconds until a resting provider is asked again; each time in vain doubles them."""
SLOW = 0.5
"""The part of a provider's timeout at which it counts as slow: others are preferred."""
MEMORY = 0.3
"""How much of the usual latency the last answer makes up."""
SECRET = 8
"""Letters from which on a key is one."""
LARGE = 256 * 1024
"""Bytes of an answer that is read in a thread."""


class Health(msgspec.Struct):
    """What was last seen of a provider, in this process.

    Attributes:
        failures: calls in a row that got no readable answer; a refusal is an answer.
        latency: seconds that answers usually take lately.
        rest: seconds until it is looked at again, the next time.
        look_at: when it is looked at next, on the event loop's clock.

    """

    failures: int = 0
    answered_at: int | None = None
    latency: float | None = None
    trouble: str = ""
    in_flight: int = 0
    rest: float = 0.0
    look_at: float = 0.0


class Place:
    """Room for one call within a provider's limits; left once, however often ``leave`` is said."""

    def __init__(self, gate: Gate) -> None:
        self._gate: Gate | None = gate

    def leave(self, *, unused: bool = False) -> None:
        """Give the room to whoever waits for it; ``unused``: nothing was asked."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave(unused=unused)


class Line:
    """The line to one provider.

    Attributes:
        provider: what the owner's file says of it.
        purse: what is left of our money there, in millionths, as far as this process knows.
        reserved: what the orders cost that are on their way there, out of this process.
        unsettled: what the others cost that are not settled, as the store last knew.

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
        self._purse_at = 0
        self._in_need = False
        self._url = str(provider.url)
        self._key = provider.key.get_secret_value()
        self._upstream = upstream
        self._now = now
        self._gate = Gate(provider.limits.concurrency, provider.limits.per_second)

    # --- whether it gets orders -----------------------------------------------------------

    @property
    def resting(self) -> bool:
        """Whether it gets no orders because it does not answer."""
        return self.health.failures >= TIRED

    @property
    def slow(self) -> bool:
        """Whether its answers take so long that another provider is preferred."""
        return (self.health.latency or 0) > SLOW * self.timeout

    def why_not(self, cost: int) -> str:
        """Return why an order of this cost should not be tried here now; empty: it can be."""
        if self.resting:
            return f"it does not answer: {self.health.trouble}"
        if self.purse is not None and self.purse < cost:
            return "our balance there is too small"
        at_risk = self.unsettled + self.reserved
        if self.max_unsettled is not None and at_risk + cost > self.max_unsettled:
            return "its unsettled orders have reached max_unsettled"
        return ""

    def look_now(self) -> bool:
        """Tell whether a read-only call should find out if it can take orders again.

        Whoever is told so makes that call; the next one comes later, and later each time.
        """
        health = self.health
        now = asyncio.get_running_loop().time()
        if not (self.resting or self._in_need) or now < health.look_at:
            return False
        health.look_at = now + health.rest
        health.rest = min(2 * health.rest, LONGEST_REST)
        return True

    def _look_after(self, seconds: float) -> None:
        self.health.rest = seconds
        self.health.look_at = asyncio.get_running_loop().time() + seconds

    def reserve(self, cost: int) -> None:
        """Count on an order of this cost."""
        self.reserved += cost
        if self.purse is not None:
            self.purse -= cost

    def unreserve(self, cost: int, *, taken: bool) -> None:
        """Count on it no longer; ``taken``: it was sent, and may have been taken."""
        self.reserved -= cost
        if taken:
            self.unsettled += cost
        elif self.purse is not None:
            self.purse += cost

    def short_of(self, cost: int) -> None:
        """Remember a refusal that was about our account; the next balance settles it."""
        self.purse = min(self.purse if self.purse is not None else cost, cost) - 1
        self._purse_at = max(self._purse_at, self._now())
        if not self._in_need:
            self._in_need = True
            self._look_after(REST)

    def saw_purse(self, balance: Money, at: int) -> None:
        """Take over a balance that the provider told at a time, if nothing later is known."""
        if at > self._purse_at and balance.currency == self.adapter.currency:
            self._purse_at = at
            self.purse = balance.micros - self.reserved
            self._in_need = False

    # --- calls ----------------------------------------------------------------------------

    def place_now(self) -> Place | None:
        """Take a place if one is free at this moment."""
        return Place(self._gate) if self._gate.enter_now() else None

    async def place(self, *, first: bool = True, patient: bool = False) -> Place:
        """Wait for a place, up to the provider's timeout; raises ``Unreachable`` after it.

        ``first``: for an order, which passes whatever else waits; ``patient``: however long that
        takes, so as not to lose its turn.
        """
        if place := self.place_now():
            return place
        try:
            async with asyncio.timeout(None if patient else self.timeout):
                await self._gate.enter(first=first)
        except TimeoutError:
            msg = f"{self.name}: no free place within its limits"
            raise Unreachable(msg) from None
        return Place(self._gate)

    async def call(
        self,
        call: Call,
        read: Callable[[Call, Any], T],
        *,
        place: Place | None = None,
        not_after: float | None = None,
    ) -> T:
        """Make one call; raises a ``CallFailed``, or ``Unsupported`` before anything is sent.

        ``place``: one that was taken before; the call leaves it. ``not_after``: on the event
        loop's clock, when it is too late to begin writing.
        """
        fields = self.adapter.write(call)
        place = place or await self.place(first=call.action is Action.ADD)
        try:
            return await self._asked(call, fields, read, not_after)
        finally:
            place.leave()

    async def _asked(
        self,
        call: Call,
        fields: Mapping[str, str],
        read: Callable[[Call, Any], T],
        not_after: float | None,
    ) -> T:
        health = self.health
        health.in_flight += 1
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            answer = await self._upstream.post(
                self._url, fields, key=self._key, timeout=self.timeout, not_after=not_after
            )

            def understood() -> T:
                secret = len(self._key) >= SECRET  # a few letters stand in answers by themselves
                body = _without(self._key.encode(), answer.body) if secret else answer.body
                opened = self.adapter.open(call, answer.status, body)
                value = read(call, opened)
                if isinstance(opened, list):
                    free(opened)
                return value

            # Everybody else would wait while a catalog is read.
            large = len(answer.body) > LARGE
            value = await apart(understood) if large else understood()
        except CallFailed as failure:
            if isinstance(failure, Rejected):
                self._answered(call.action, clock() - began)
                if failure.fault is Fault.ACCOUNT and call.action is not Action.ADD:
                    health.trouble = failure.words[:200]
            else:
                self._silent(str(failure))
            log.info("call failed", provider=self.name, action=call.action, error=str(failure))
            raise
        finally:
            health.in_flight -= 1
        self._answered(call.action, clock() - began)
        return value

    def _answered(self, action: Action, took: float) -> None:
        health = self.health
        if self.resting:
            log.warning("a provider answers again", provider=self.name)
        health.failures = 0
        health.trouble = ""
        health.answered_at = self._now()
        if action is not Action.SERVICES:  # a list takes long wherever it comes from
            usual = took if health.latency is None else health.latency
            health.latency = usual + (took - usual) * MEMORY

    def _silent(self, trouble: str) -> None:
        self.health.failures += 1
        self.health.trouble = trouble[:200]
        if self.health.failures == TIRED:
            self._look_after(REST)
            log.error("a provider does not answer and gets no orders", provider=self.name)


def _without(key: bytes, body: bytes) -> bytes:
    """Return an answer without our key, which some panels repeat: nobody is to read it there."""
    # A search holds up every other thread until it ends, so a long one is made in steps.
    steps = range(0, len(body), LARGE)
    if any(key in body[start : start + LARGE + len(key)] for start in steps):
        return body.replace(key, b"***")
    return body
