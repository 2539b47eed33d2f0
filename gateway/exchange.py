"""Exchange rates from a source of the owner's, within his limits.

A source says what one unit of each currency is worth in the gateway's own, as the file would:
``{"INR": 0.0119}``, or the same under ``rates``. One that names the gateway's own currency as its
``base`` says the opposite, how much of each one unit of it buys, and is turned around. What is
fixed in the file comes before it; the last good rates are kept in the store.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Context, Decimal
from pathlib import Path

import structlog

from gateway.adapters import wild
from gateway.config import Config
from gateway.errors import CallFailed, Indeterminate
from gateway.store import Lease, Store
from gateway.upstream import Upstream

log = structlog.get_logger()

TIMEOUT = 15.0
LARGEST = 1024 * 1024
_OK = 200
_DIGITS = Context(prec=12, rounding=ROUND_CEILING)
"""Of a rate that is turned around; up, so that nothing is reckoned cheaper than it is."""


class ExchangeSource:
    """Asks the source, and keeps what it says as far as it is believed."""

    def __init__(
        self, config: Config, store: Store, upstream: Upstream, now: Callable[[], int]
    ) -> None:
        self._own = config.currency
        self._rates = config.exchange_rates
        self._wanted = {one.currency for one in config.providers.values()} - {self._own}
        self._store = store
        self._upstream = upstream
        self._now = now

    @property
    def declared(self) -> bool:
        """Whether there is anything to look after."""
        return self._rates.from_ is not None or self._rates.date is not None

    async def fetch(self, under: Lease | None = None) -> None:
        """Take over what the source says now, and end what is too old.

        Raises ``CallFailed`` when it says nothing that can be read; what was known stays for as
        long as ``max_age`` allows.
        """
        now = self._now()
        oldest = now - int(self._rates.max_age * 1000)
        self._look_at_the_date(oldest)
        if self._rates.from_ is None:
            return
        try:
            found = read(await self._body(self._rates.from_), self._own)
        except ValueError as wrong:
            await self._store.keep_exchange_rates({}, now, oldest, under)
            raise Indeterminate(f"exchange rates: {wrong}") from None
        except CallFailed:
            await self._store.keep_exchange_rates({}, now, oldest, under)
            raise
        kept = await self._store.exchange_rates()
        good = {}
        for currency in sorted(self._wanted - self._rates.fixed.keys()):
            rate, last = found.get(currency), kept.get(currency)
            if rate is None:
                log.error("the source of exchange rates does not have one", currency=currency)
            elif last and moved(last[0], rate) > self._rates.max_move:
                log.error(
                    "an exchange rate moves too far and is not taken over",
                    currency=currency,
                    was=f"{last[0]:f}",
                    says=f"{rate:f}",
                    accept="allow it by max_move, or write it in the file",
                )
            else:
                good[currency] = rate
        await self._store.keep_exchange_rates(good, now, oldest, under)

    def _look_at_the_date(self, oldest: int) -> None:
        date = self._rates.date
        if (
            date
            and datetime(date.year, date.month, date.day, tzinfo=UTC).timestamp() * 1000 < oldest
        ):
            log.warning("the exchange rates in the file are old", date=str(date))

    async def _body(self, source: str) -> bytes:
        if source.startswith(("http://", "https://")):
            answer = await self._upstream.get(source, timeout=TIMEOUT)
            if answer.status != _OK:
                raise ValueError(f"HTTP {answer.status}")
            return answer.body
        try:
            return await asyncio.to_thread(Path(source).read_bytes)
        except OSError as error:
            raise ValueError(f"{source}: {error.strerror}") from None


def read(body: bytes, own: str) -> dict[str, Decimal]:
    """Read a source's answer as one unit of each currency in ours; ``ValueError`` says what is off.

    One bad rate makes all of them unbelievable.
    """
    if len(body) > LARGEST:
        raise ValueError(f"{len(body)} bytes are no list of exchange rates")
    answer = wild.parse(body)
    said = answer.get("rates", answer) if isinstance(answer, dict) else None
    if not isinstance(said, dict) or not isinstance(answer, dict):
        raise ValueError(f"{wild.show(answer)} stands where a map of currencies is")  # noqa: TRY004
    base = answer.get("base") if said is not answer else None
    if base not in (None, own):
        raise ValueError(f"its base is {wild.show(base)}, not {own}")
    found = {}
    for currency, value in said.items():
        rate = wild.rate(value)
        if not rate:
            raise ValueError(f"{currency}: {wild.show(value)} is no rate")
        found[currency] = _DIGITS.divide(Decimal(1), rate) if base else rate
    return found


def moved(before: Decimal, after: Decimal) -> Decimal:
    """Return how far a rate has moved, as a fraction of what it was."""
    return abs(after - before) / before
