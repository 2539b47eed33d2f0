"""The list of services as customers get it: written out once, compressed once, served as bytes.

A list is made for each price group and each edition of the catalog, off the event loop; whoever
asks for one that is being made waits for the same, and other processes find it in the cache that
they share. Parts of it are cut out of its bytes.
"""

import asyncio
import gzip
import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial

import brotli
import msgspec
import zstandard

from gateway import money
from gateway.cache import Cache
from gateway.catalog import Shop
from gateway.config import Config
from gateway.errors import CustomerError, ErrorText
from gateway.offload import answer
from gateway.services import Catalog, Service
from gateway.store import Store

WORTH_IT = 1400
"""Bytes from which compressing saves a packet."""
Coding = Callable[[bytes], bytes]
CODINGS: Mapping[str, Coding] = {
    "zstd": lambda plain: zstandard.ZstdCompressor(level=3).compress(plain),
    "br": lambda plain: brotli.compress(plain, quality=5),
    # Without the time in it, so that every process makes the same bytes.
    "gzip": lambda plain: gzip.compress(plain, 6, mtime=0),
}
"""How a list is compressed, the best first: of those that somebody takes as gladly, that one."""
OF_A_PART = ("gzip",)
"""How a part of one is, which is made for a single answer."""
SLACK = 60_000
"""Milliseconds by which a change may be in force later than it was seen."""
MOST_IDS = 1000
KEPT = 3600.0
"""Seconds for which other processes find a list."""
_encode = msgspec.json.encode


class Body(msgspec.Struct, frozen=True):
    """An answer's body, plain and, where that is worth it, compressed, by coding."""

    plain: bytes
    compressed: Mapping[str, bytes]
    digest: str

    def coded(self, accepted: str) -> tuple[bytes, bytes, bytes]:
        """Return the bytes for an ``Accept-Encoding``, their coding if any, and their tag."""
        if coding := chosen(accepted, tuple(self.compressed)):
            tag = f'"{self.digest}-{coding}"'
            return self.compressed[coding], coding.encode(), tag.encode()
        return self.plain, b"", b'"%b"' % self.digest.encode()

    def known(self, tags: str) -> bool:
        """Tell whether an ``If-None-Match`` names this body, in whichever coding."""
        return self.digest in tags or tags.strip() == "*"


class Rendered(msgspec.Struct, frozen=True):
    """The list for a price group.

    Attributes:
        ends: where each service's row ends in the plain body, in the catalog's order.

    """

    body: Body
    ends: "array[int]"


class Part(msgspec.Struct, frozen=True):
    """Which services somebody wants to see; ``None``: any.

    Attributes:
        category: without regard to case.
        since: what has changed since then, in milliseconds.

    """

    category: str | None = None
    ids: frozenset[int] | None = None
    since: int | None = None


class Listing:
    """The lists of the catalog in force."""

    def __init__(
        self, config: Config, store: Store, shop: Shop, cache: Cache, now: Callable[[], int]
    ) -> None:
        self._config = config
        self._store = store
        self._shop = shop
        self._cache = cache
        self._begun_at = now()
        self._edition: str | None = None
        self._lists: dict[str, asyncio.Task[Rendered]] = {}

    def warm(self) -> None:
        """Begin to make the lists of all price groups, so that nobody has to wait for them."""
        for group in ("", *self._config.tiers):
            self._made(group)

    def known(self, tier: str) -> Body | None:
        """Return the list at the rates of a price group, if it is there."""
        if self._shop.catalog.edition != self._edition:
            return None
        task = self._lists.get(self._group(tier))
        there = task and task.done() and not task.cancelled() and not task.exception()
        return task.result().body if task and there else None

    def _group(self, tier: str) -> str:
        return tier if tier in self._config.tiers else ""

    async def listed(self, tier: str, part: Part | None = None) -> Body:
        """Return the list, or a part of it, at the rates of a price group."""
        task = self._made(self._group(tier))
        catalog = self._shop.catalog
        rendered = await asyncio.shield(task)
        if part is None:
            return rendered.body
        changed = None if part.since is None else await self._changed(part.since)

        def cut() -> Body:
            return _body(_rows(rendered, self._fitting(catalog, part, changed)), OF_A_PART)

        return await answer(cut, len(catalog.services))

    def _made(self, group: str) -> "asyncio.Task[Rendered]":
        catalog = self._shop.catalog
        if catalog.edition != self._edition:
            self._edition, self._lists = catalog.edition, {}
        task = self._lists.get(group)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._lists[group] = asyncio.create_task(self._make(catalog, group))
        return task

    async def _make(self, catalog: Catalog, group: str) -> Rendered:
        """Write out a list, unless another process has done it already."""
        many = len(catalog.services)
        if not self._cache.shared:
            return await answer(partial(render, catalog, group), many)
        key = f"services/{catalog.edition}/{group}"
        (kept,) = await self._cache.get([key])
        found = await answer(partial(_unpacked, kept), many) if kept else None
        if found is None or len(found.ends) != many:
            found = await answer(partial(render, catalog, group), many)
            packed = await answer(partial(_packed, found), many)
            await self._cache.put({key: packed}, KEPT)
        return found

    async def _changed(self, since: int) -> set[tuple[str, str]] | None:
        """Return which providers' services have changed; ``None``: any may have.

        With a file, and with the start of a process, all of them may.
        """
        if since - SLACK < self._begun_at:
            return None
        found = await self._store.changed_offers(since - SLACK)
        return None if ("", "") in found else found

    def _fitting(
        self, catalog: Catalog, part: Part, changed: set[tuple[str, str]] | None
    ) -> Iterable[int]:
        """Return where in the list the services are that somebody wants to see."""
        found: Iterable[tuple[int, Service]] = enumerate(catalog.services.values())
        if part.ids is not None:
            found = [(at, one) for at, one in found if one.id in part.ids]
        if part.category is not None:
            found = [(at, one) for at, one in found if one.category.casefold() == part.category]
        if part.since is not None and changed is not None:
            found = [(at, one) for at, one in found if self._among(one, changed)]
        return [at for at, _ in found]

    def _among(self, service: Service, changed: set[tuple[str, str]]) -> bool:
        # A route that is gone has changed what is shown, so those that are declared count too.
        routes = {(one.provider, one.offer.id) for one in service.routes}
        if declared := self._config.services.get(service.id):
            routes |= {(one.provider, one.service) for one in declared.routes}
        return any(one in changed or (one[0], "") in changed for one in routes)


def render(catalog: Catalog, tier: str) -> Rendered:
    """Write out the list of a catalog at the rates of a price group."""
    ends = array("Q")
    rows = []
    at = 0
    for service in catalog.services.values():
        row = _encode(_row(service, tier))
        rows.append(row)
        at += len(row) + 1  # what stands before it: the bracket, or a comma
        ends.append(at)
    return Rendered(_body(rows, CODINGS), ends)


class _Packed(msgspec.Struct, array_like=True):
    """A list in the cache: compressed once, for whoever takes it up as well as for customers."""

    plain: bytes
    compressed: dict[str, bytes]
    digest: str
    ends: bytes


def _packed(rendered: Rendered) -> bytes:
    body = rendered.body
    plain = b"" if "zstd" in body.compressed else body.plain
    ends = rendered.ends.tobytes()
    return msgspec.msgpack.encode(_Packed(plain, dict(body.compressed), body.digest, ends))


def _unpacked(kept: bytes) -> Rendered | None:
    """Return a list from the cache; ``None`` for what is not whole."""
    try:
        found = msgspec.msgpack.decode(kept, type=_Packed)
        if coded := found.compressed.get("zstd"):
            found.plain = zstandard.ZstdDecompressor().decompress(coded)
    except (msgspec.MsgspecError, zstandard.ZstdError):
        return None
    body = Body(found.plain, found.compressed, found.digest)
    return Rendered(body, array("Q", found.ends)) if _digest(body.plain) == body.digest else None


def _digest(plain: bytes) -> str:
    return hashlib.sha256(plain).hexdigest()[:32]


def _rows(rendered: Rendered, places: Iterable[int]) -> list[bytes]:
    ends, whole = rendered.ends, rendered.body.plain
    return [whole[(ends[at - 1] if at else 0) + 1 : ends[at]] for at in places]


def _body(rows: Sequence[bytes], codings: Iterable[str]) -> Body:
    plain = b"[" + b",".join(rows) + b"]"
    worth_it = len(plain) >= WORTH_IT
    compressed = {coding: CODINGS[coding](plain) for coding in codings if worth_it}
    return Body(plain, compressed, _digest(plain))


def _row(service: Service, tier: str) -> dict[str, object]:
    return {
        "service": service.id,
        "name": service.name,
        "type": service.type.name,
        "category": service.category,
        "rate": money.rate_text(service.rate(tier)),
        "min": str(service.min),
        "max": str(service.max),
        "refill": service.refill,
        "cancel": service.cancel,
        "dripfeed": service.dripfeed,
        "desc": service.description,
    }


def part(params: Mapping[str, str]) -> Part | None:
    """Read which services are asked for; ``None``: all.

    Raises ``CustomerError`` for ``ids`` that are no numbers and a ``changed_since`` that is neither
    a time in seconds since 1970 nor a date.
    """
    category, ids, since = (params.get(name) for name in ("category", "ids", "changed_since"))
    if category is None and ids is None and since is None:
        return None
    return Part(
        None if category is None else category.strip().casefold(),
        None if ids is None else _ids(ids),
        None if since is None else _moment(since),
    )


def _ids(text: str) -> frozenset[int]:
    names = {name.strip() for name in text.split(",")} - {""}
    if len(names) > MOST_IDS or not all(name.isascii() and name.isdigit() for name in names):
        raise CustomerError(ErrorText.INCORRECT_REQUEST)
    return frozenset(int(name[:20]) for name in names)


def _moment(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text[:12]) * 1000
    try:
        date = datetime.fromisoformat(text)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise CustomerError(ErrorText.INCORRECT_REQUEST) from None


@lru_cache
def chosen(accepted: str, codings: tuple[str, ...]) -> str:
    """Return the coding that an ``Accept-Encoding`` likes best; empty when it takes none of them.

    Of those that it likes as much it is the first.
    """
    weights = {}
    for entry in accepted.lower().split(","):
        coding, _, rest = entry.partition(";")
        weights[coding.strip()] = _weight(rest.strip().removeprefix("q=").strip())
    others = weights.get("*", 0.0)
    best = max(codings, key=lambda coding: weights.get(coding, others), default="")
    return best if weights.get(best, others) > 0 else ""


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0
