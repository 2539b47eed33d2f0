"""From a key to the customer who holds it.

A key is 32 random hexadecimal digits, as old clients expect; what is kept is an HMAC of it under
a secret of this installation, so that a stolen database holds no key that works anywhere.
"""

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.errors import CustomerError, ErrorText
from gateway.model import Customer
from gateway.store import Store

FRESH_FOR = 5.0
"""Seconds until a new key, another tier or a suspension is seen by every process."""
REMEMBERED = 10_000
LONGEST_KEY = 256
_UNSEEN = (0.0, None)


def new_key() -> str:
    """Return a new key; it is shown once and kept nowhere."""
    return secrets.token_hex(16)


def digest(pepper: bytes, key: str) -> bytes:
    """Return what is kept of a key."""
    return hmac.digest(pepper, key.encode(), "sha256")


class Auth:
    """Knows customers by their keys, and remembers for a few seconds whom it has seen."""

    def __init__(
        self, store: Store, pepper: bytes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        # By the key as it comes: its HMAC costs more than all the rest of this.
        self._seen: OrderedDict[str, tuple[float, Customer | None]] = OrderedDict()

    def forget(self) -> None:
        """Look everybody up anew: somebody has changed."""
        self._seen = OrderedDict()  # what is being looked up now goes into the old one

    def known(self, key: str) -> Customer | None:
        """Return who holds a key, if that was seen a moment ago; raises like ``customer``."""
        until, customer = self._seen.get(key, _UNSEEN)
        return _admitted(customer) if until > self._clock() else None

    async def customer(self, key: str) -> Customer:
        """Return who holds a key; raises ``CustomerError`` for a wrong key or a suspension."""
        if not key or len(key) > LONGEST_KEY:
            raise CustomerError(ErrorText.INVALID_KEY)
        if known := self.known(key):
            return known
        now, seen = self._clock(), self._seen
        customer = await self._store.customer_of(digest(self._pepper, key))
        seen[key] = (now + FRESH_FOR, customer)
        seen.move_to_end(key)
        if len(seen) > REMEMBERED:
            seen.popitem(last=False)
        return _admitted(customer)


def _admitted(customer: Customer | None) -> Customer:
    if customer is None:
        raise CustomerError(ErrorText.INVALID_KEY)
    if customer.disabled:
        raise CustomerError(ErrorText.SUSPENDED)
    return customer
