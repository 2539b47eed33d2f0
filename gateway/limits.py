"""How often a customer and an address may ask, and from where a key works.

Generous on purpose: old panels ask for the status of every order singly, some dozens a second, and
know nothing of a refusal. What is limited is the program that has run away, and the stolen key.
"""

import ipaddress
import time
from collections.abc import Callable, Mapping
from functools import lru_cache

from gateway.cache import Cache
from gateway.config import RequestLimits
from gateway.model import Customer

BURST = 10.0
"""Seconds' worth of requests that may come at once."""
REMEMBERED = 50_000
"""Callers that are remembered; those who have been quiet are forgotten first."""

EXCHANGED = 0.5
"""Seconds between two exchanges with the other processes."""
WORTH_TELLING = 0.005
"""Seconds paid since the last exchange under which a caller is not mentioned in it."""

SUBSCRIBER = 64
"""The low bits of an IPv6 address that are one caller's own to choose."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Limits:
    """Counts requests, in this process; an exchange now and then has them count in every one.

    So no request waits for another machine. Together the processes let in what one would, and
    beyond it what each lets in before it has heard of the others.
    """

    def __init__(
        self,
        limits: RequestLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or RequestLimits()
        self._clock = clock
        self._paid_until: dict[str | int, float] = {}
        self._paid: dict[str | int, float] = {}  # since the last exchange, which was …
        self._exchanged = clock()
        self._proxies = tuple(ipaddress.ip_network(one) for one in self._limits.trusted_proxies)
        self._known: dict[str, bool] = {}

    def caller(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """Return the address that a request comes from; a proxy of ours says for whom it asks."""
        forwarded = headers.get(b"x-forwarded-for")
        if forwarded is None or not self._is_proxy(peer):
            return peer
        # From the right: what stands further left was written by whom nobody knows.
        for named in reversed(forwarded.decode("latin-1").split(",")):
            if named.strip():
                peer = named.strip()
                if not self._is_proxy(peer):
                    break
        return peer

    def _is_proxy(self, address: str) -> bool:
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[address] = _within(address, self._proxies)
        return known

    def address_waits(self, address: str) -> float:
        """Count a request from an address; returns the seconds that it is too early by."""
        who = _who(address)
        return 0.0 if who is None else self._wait(who, self._limits.per_address)

    def customer_waits(self, customer: Customer) -> float:
        """Count a customer's request; returns the seconds that it is too early by."""
        return self._wait(customer.id, customer.per_second or self._limits.per_key)

    async def exchange(self, cache: Cache) -> None:
        """Tell what callers have paid here, and take over what they have paid elsewhere."""
        now = self._clock()
        paid, self._paid = self._paid, {}
        elapsed, self._exchanged = now - self._exchanged, now
        busy = {_key(who): who for who, seconds in paid.items() if seconds >= WORTH_TELLING}
        told = {key: (paid[who], self._paid_until.get(who, now) - now) for key, who in busy.items()}
        for key, ahead in (await cache.pay(told, elapsed)).items():
            who = busy[key]
            # It knows of all that was told, and not of what was paid meanwhile.
            self._paid_until[who] = now + ahead + self._paid.get(who, 0.0)

    def _wait(self, who: str | int, per_second: int) -> float:
        # Each request pays for its part of a second; whoever has paid too far ahead waits.
        now, price = self._clock(), 1 / per_second
        paid_until = max(self._paid_until.get(who, 0.0), now) + price
        if paid_until > now + BURST:
            return paid_until - now - BURST
        if who not in self._paid_until and len(self._paid_until) >= REMEMBERED:
            self._forget(now)
        self._paid_until[who] = paid_until
        self._paid[who] = self._paid.get(who, 0.0) + price
        return 0.0

    def _forget(self, now: float) -> None:
        quiet = {who: until for who, until in self._paid_until.items() if until > now}
        # Should all of them be busy at once, all of them begin anew.
        self._paid_until = quiet if len(quiet) < REMEMBERED else {}
        self._paid.clear()


def _key(who: str | int) -> str:
    """Return the key of a caller in the cache: a customer has a number."""
    return f"limits/{'customer' if isinstance(who, int) else 'address'}/{who}"


def welcome(customer: Customer, address: str) -> bool:
    """Tell whether a customer's key works from an address."""
    if not customer.addresses:
        return True
    return _within(address, tuple(ipaddress.ip_network(one) for one in customer.addresses))


def _within(address: str, networks: tuple[Network, ...]) -> bool:
    found = _read(address)
    return found is not None and any(found in network for network in networks)


@lru_cache(maxsize=REMEMBERED)
def _who(address: str) -> str | None:
    """Return under which name an address is counted; ``None`` where it is not."""
    found = _read(address)
    if found is not None and found.is_loopback:
        return None  # on this machine there is nobody but the owner
    if isinstance(found, ipaddress.IPv6Address):
        return f"{int(found) >> SUBSCRIBER:x}"
    return str(found or address)


def _read(address: str) -> Address | None:
    """Read an address, however it is written; ``None``: it is none, such as a socket's file."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
