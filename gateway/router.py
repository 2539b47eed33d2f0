"""From a call to the right provider: its adapter writes, ``upstream`` posts, its adapter reads.

Splitting many ids into calls of the size that a provider takes, its pace and its concurrency, and
what was last seen of its health live here, and nowhere else.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import msgspec
import structlog
from aiolimiter import AsyncLimiter

from gateway.adapters import ADAPTERS
from gateway.adapters.api_v2 import ApiV2
from gateway.config import Provider
from gateway.errors import CallFailed, Fault, Rejected, Unreachable, Unsupported
from gateway.model import Action, Call, Offer, RefillStatus, Refusal, Report
from gateway.money import Money
from gateway.upstream import Upstream

T = TypeVar("T")
log = structlog.get_logger()


class Health(msgspec.Struct):
    """What was last seen of a provider, in this process.

    Attributes:
        failures: calls in a row that got no readable answer; a refusal is an answer.
        latency: seconds that the last answered call took.

    """

    failures: int = 0
    answered_at: float | None = None
    latency: float | None = None
    trouble: str = ""
    in_flight: int = 0


class Line:
    """The line to one provider: its dialect, its address and key, its pace, its health."""

    def __init__(self, name: str, provider: Provider, upstream: Upstream) -> None:
        self.name = name
        self.adapter: ApiV2 = ADAPTERS[provider.adapter](
            currency=provider.currency or "",
            rename=provider.dialect.rename,
            batch=provider.dialect.batch,
            without=provider.dialect.without,
        )
        self.health = Health()
        self.timeout = provider.timeout
        self._url = str(provider.url)
        self._key = provider.key.get_secret_value()
        self._upstream = upstream
        self._slots = asyncio.Semaphore(provider.limits.concurrency)
        rate = provider.limits.per_second
        self._pace = AsyncLimiter(rate, 1) if rate else None

    async def call(self, call: Call, read: Callable[[Call, Any], T]) -> T:
        """Make one call; raises a ``CallFailed``, or ``Unsupported`` before anything is sent."""
        fields = self.adapter.write(call)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self.timeout):
                    await stack.enter_async_context(self._slots)
                    if self._pace:
                        await self._pace.acquire()
            except TimeoutError:
                msg = f"{self.name}: no free place within its limits"
                raise Unreachable(msg) from None
            return await self._asked(call, fields, read)

    async def _asked(
        self, call: Call, fields: Mapping[str, str], read: Callable[[Call, Any], T]
    ) -> T:
        health = self.health
        health.in_flight += 1
        began = time.monotonic()
        try:
            answer = await self._upstream.post(
                self._url, fields, key=self._key, timeout=self.timeout
            )
            value = read(call, self.adapter.open(call, answer.status, answer.body))
        except CallFailed as failure:
            if isinstance(failure, Rejected):
                self._answered(began)
            else:
                health.failures += 1
                health.trouble = str(failure)[:200]
            log.info("call failed", provider=self.name, action=call.action, error=str(failure))
            raise
        finally:
            health.in_flight -= 1
        self._answered(began)
        return value

    def _answered(self, began: float) -> None:
        self.health.failures = 0
        self.health.trouble = ""
        self.health.answered_at = time.time()
        self.health.latency = time.monotonic() - began


class Router:
    """All lines, by the provider's name in ``providers.yaml``."""

    def __init__(self, providers: Mapping[str, Provider], upstream: Upstream) -> None:
        self.lines = {name: Line(name, one, upstream) for name, one in providers.items()}

    def has(self, provider: str, action: Action) -> bool:
        """Tell whether a provider is known and its dialect has this action."""
        line = self.lines.get(provider)
        return line is not None and action in line.adapter.actions

    def batch(self, provider: str, action: Action) -> int:
        """Return how many ids one call to the provider may carry."""
        return max(self.lines[provider].adapter.batch.get(action, 1), 1)

    async def add(self, provider: str, service: str, params: Mapping[str, str], size: int) -> str:
        """Place an order, once; returns the provider's order id."""
        line = self._line(provider)
        call = Call(Action.ADD, service=service, params=params, size=size)
        return await line.call(call, line.adapter.read_add)

    async def services(self, provider: str) -> tuple[list[Offer], list[str]]:
        """Fetch a provider's list: its rows, and what was wrong with rows left out."""
        line = self._line(provider)
        return await line.call(Call(Action.SERVICES), line.adapter.read_services)

    async def balance(self, provider: str) -> Money:
        """Ask for our balance at a provider."""
        line = self._line(provider)
        return await line.call(Call(Action.BALANCE), line.adapter.read_balance)

    async def status(
        self, provider: str, ids: Sequence[str]
    ) -> dict[str, Report | Refusal | CallFailed]:
        """Ask for orders; an id that the provider left out of its answer is asked for singly."""
        reader = self._line(provider).adapter.read_status
        found = await self._many(provider, Action.STATUS, ids, reader)
        missing = [one for one in ids if one not in found]
        if missing and len(ids) > 1:
            alone = [(one,) for one in missing]
            found |= await self._together(provider, Action.STATUS, alone, reader)
        return found

    async def refill(
        self, provider: str, ids: Sequence[str]
    ) -> dict[str, str | Refusal | CallFailed]:
        """Ask for refills of orders; the provider's refill id, or ``""`` where it has none."""
        reader = self._line(provider).adapter.read_refill
        return await self._many(provider, Action.REFILL, ids, reader)

    async def refill_status(
        self, provider: str, ids: Sequence[str]
    ) -> dict[str, RefillStatus | Refusal | CallFailed]:
        """Ask how far refills are, by the provider's refill ids."""
        reader = self._line(provider).adapter.read_refill_status
        return await self._many(provider, Action.REFILL_STATUS, ids, reader)

    async def cancel(
        self, provider: str, ids: Sequence[str]
    ) -> dict[str, bool | Refusal | CallFailed]:
        """Ask for orders to be canceled; ``True``: the request was taken."""
        reader = self._line(provider).adapter.read_cancel
        return await self._many(provider, Action.CANCEL, ids, reader)

    def _line(self, provider: str) -> Line:
        line = self.lines.get(provider)
        if line is None:
            msg = f"{provider} is not in the configuration"
            raise Unsupported(msg)
        return line

    async def _many(
        self,
        provider: str,
        action: Action,
        ids: Iterable[str],
        read: Callable[[Call, Any], Mapping[str, T]],
    ) -> dict[str, T | Refusal | CallFailed]:
        """Split ids into calls and put the answers together; each id has its own outcome."""
        every = tuple(dict.fromkeys(ids))
        size = self.batch(provider, action)
        chunks = [every[start : start + size] for start in range(0, len(every), size)]
        return await self._together(provider, action, chunks, read)

    async def _together(
        self,
        provider: str,
        action: Action,
        chunks: Iterable[tuple[str, ...]],
        read: Callable[[Call, Any], Mapping[str, T]],
    ) -> dict[str, T | Refusal | CallFailed]:
        found: dict[str, T | Refusal | CallFailed] = {}
        for part in await asyncio.gather(
            *(self._chunk(provider, action, ids, read) for ids in chunks)
        ):
            found |= part
        return found

    async def _chunk(
        self,
        provider: str,
        action: Action,
        ids: tuple[str, ...],
        read: Callable[[Call, Any], Mapping[str, T]],
    ) -> dict[str, T | Refusal | CallFailed]:
        try:
            return dict(await self.lines[provider].call(Call(action, ids=ids), read))
        except Rejected as rejected:
            if rejected.fault is Fault.ORDER and len(ids) > 1:
                # One id that it does not like must not hide the others.
                return await self._together(provider, action, [(one,) for one in ids], read)
            return dict.fromkeys(ids, Refusal(rejected.fault, rejected.text, rejected.words))
        except CallFailed as failure:
            return dict.fromkeys(ids, failure)
