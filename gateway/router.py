"""From a call to the right provider: its adapter writes, ``upstream`` posts, its adapter reads.

Splitting many ids into calls of the size that a provider takes, and putting the answers together
again, lives here; what one line to a provider is like is ``line``'s.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from gateway.config import Provider
from gateway.errors import CallFailed, Fault, Rejected, Unsupported
from gateway.line import Line, Place
from gateway.model import Action, Call, Offer, RefillStatus, Refusal, Report
from gateway.money import Money
from gateway.upstream import Upstream

T = TypeVar("T")

TOGETHER = 8
"""Calls about many ids that wait for a place at the same time: no crowd before anybody else."""


class Router:
    """All lines, by the provider's name in ``providers.yaml``."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        upstream: Upstream,
        now: Callable[[], int],
        before: Mapping[str, Line] = {},
    ) -> None:
        # A provider of whom the file says the same as before keeps its places and its health.
        self.lines = {
            name: before[name]
            if name in before and before[name].provider == provider
            else Line(name, provider, upstream, now)
            for name, provider in providers.items()
        }

    def has(self, provider: str, action: Action) -> bool:
        """Tell whether a provider is known and its dialect has this action."""
        line = self.lines.get(provider)
        return line is not None and action in line.adapter.actions

    def batch(self, provider: str, action: Action) -> int:
        """Return how many ids one call to the provider may carry."""
        return max(self.lines[provider].adapter.batch.get(action, 1), 1)

    async def add(
        self,
        provider: str,
        service: str,
        params: Mapping[str, str],
        size: int,
        *,
        place: Place | None = None,
    ) -> str:
        """Place an order, once; returns the provider's order id. See ``Line.call``."""
        line = self.line(provider)
        call = Call(Action.ADD, service=service, params=params, size=size)
        return await line.call(call, line.adapter.read_add, place=place)

    async def services(self, provider: str) -> tuple[list[Offer], list[str]]:
        """Fetch a provider's list: its rows, and what was wrong with rows left out."""
        line = self.line(provider)
        return await line.call(Call(Action.SERVICES), line.adapter.read_services)

    async def balance(self, provider: str) -> Money:
        """Ask for our balance at a provider."""
        line = self.line(provider)
        balance = await line.call(Call(Action.BALANCE), line.adapter.read_balance)
        line.saw_purse(balance, line.health.answered_at or 0)
        return balance

    async def look(self, provider: str) -> None:
        """Find out if a provider in trouble is back, by what it has of calls that only read."""
        if self.has(provider, Action.BALANCE):
            await self.balance(provider)
        elif self.line(provider).silent:  # of our account nothing but a balance tells
            await self.services(provider)

    async def status(
        self, provider: str, ids: Sequence[str]
    ) -> dict[str, Report | Refusal | CallFailed]:
        """Ask for orders; an id that the provider left out of its answer is asked for singly."""
        reader = self.line(provider).adapter.read_status
        found = await self._many(provider, Action.STATUS, ids, reader)
        missing = [one for one in ids if one not in found]
        if missing and len(ids) > 1:
            alone = [(one,) for one in missing]
            found |= await self._together(provider, Action.STATUS, alone, reader)
        return found

    async def probe(self, provider: str, ids: Sequence[str]) -> dict[str, Report]:
        """Ask for ids that may be ours or not; whatever is not readable as an order is left out."""
        reader = self.line(provider).adapter.read_status
        found: dict[str, Report] = {}
        size = self.batch(provider, Action.STATUS)
        for start in range(0, len(ids), size):
            call = Call(Action.STATUS, ids=tuple(ids[start : start + size]))
            try:
                said = await self.lines[provider].call(call, reader)
            except Rejected as rejected:
                if rejected.fault is not Fault.ORDER:
                    raise
                continue
            found |= {one: report for one, report in said.items() if isinstance(report, Report)}
        return found

    async def refill(
        self, provider: str, ids: Sequence[str]
    ) -> dict[str, str | Refusal | CallFailed]:
        """Ask for refills of orders; the provider's refill id, or ``""`` where it has none."""
        reader = self.line(provider).adapter.read_refill
        return await self._many(provider, Action.REFILL, ids, reader)

    async def refill_status(
        self, provider: str, ids: Sequence[str]
    ) -> dict[str, RefillStatus | Refusal | CallFailed]:
        """Ask how far refills are, by the provider's refill ids."""
        reader = self.line(provider).adapter.read_refill_status
        return await self._many(provider, Action.REFILL_STATUS, ids, reader)

    async def cancel(
        self, provider: str, ids: Sequence[str]
    ) -> dict[str, bool | Refusal | CallFailed]:
        """Ask for orders to be canceled; ``True``: the request was taken."""
        reader = self.line(provider).adapter.read_cancel
        return await self._many(provider, Action.CANCEL, ids, reader)

    def line(self, provider: str) -> Line:
        """Return the line to a provider; raises ``Unsupported`` when it is not configured."""
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
        free = asyncio.Semaphore(TOGETHER)

        async def ask(ids: tuple[str, ...]) -> dict[str, T | Refusal | CallFailed]:
            async with free:
                return await self._chunk(provider, action, ids, read)

        found: dict[str, T | Refusal | CallFailed] = {}
        for part in await asyncio.gather(*map(ask, chunks)):
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
