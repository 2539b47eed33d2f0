"""The list of services as customers get it: written out once, compressed once, served as bytes.

A list is made for each price group and each edition of the catalog, off the event loop; whoever
asks for one that is being made waits for the same, and other processes find it in the cache that
they share. Parts of it are cut out of its bytes.
"""

import asyncio
import gzip
import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping
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
from gateway.offload import answer, let_go
from gateway.services import Catalog, Service

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
"""Milliseconds by which another process may show a change later than this one."""
MOST_IDS = 1000
KEPT = 3600.0
"""Seconds for which other processes find a list."""
_encoder = msgspec.json.Encoder()


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


class Dates(msgspec.Struct, frozen=True):
    """When the rows of a list have last become what they are, for as long as this is known.

    Attributes:
        ids: the services', in the list's order.
        rows: the digest of each row, which is the same in this process alone.
        changed_at: in milliseconds; of what was in the first list, when that was made.

    """

    ids: "array[int]"
    rows: "array[int]"
    changed_at: "array[int]"


class Listed(msgspec.Struct, frozen=True):
    """The list for a price group, and when its rows have changed."""

    rendered: Rendered
    dates: Dates


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
    """The lists of the catalog in force.

    Attributes:
        dates: of each price group's list, the last one that was made.

    """

    def __init__(self, config: Config, shop: Shop, cache: Cache, now: Callable[[], int]) -> None:
        self._config = config
        self._shop = shop
        self._cache = cache
        self._now = now
        self._edition: str | None = None
        self._lists: dict[str, asyncio.Task[Listed]] = {}
        self._in_turn: dict[str, asyncio.Lock] = {}
        self.dates: dict[str, Dates] = {}

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
        return task.result().rendered.body if task and there else None

    def _group(self, tier: str) -> str:
        return tier if tier in self._config.tiers else ""

    async def listed(self, tier: str, part: Part | None = None) -> Body:
        """Return the list, or a part of it, at the rates of a price group."""
        task = self._made(self._group(tier))
        catalog = self._shop.catalog
        listed = await asyncio.shield(task)
        if part is None:
            return listed.rendered.body

        def cut() -> Body:
            rows = _rows(listed.rendered, _fitting(catalog, part, listed.dates))
            return _body(b"[%b]" % b",".join(rows), OF_A_PART)

        return await answer(cut, len(catalog.services))

    def _made(self, group: str) -> "asyncio.Task[Listed]":
        catalog = self._shop.catalog
        if catalog.edition != self._edition:
            self._edition, self._lists = catalog.edition, {}
        task = self._lists.get(group)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._lists[group] = asyncio.create_task(self._make(catalog, group))
        return task

    async def _make(self, catalog: Catalog, group: str) -> Listed:
        # Each edition's after the one before, or what came and went between two would have no date.
        async with self._in_turn.setdefault(group, asyncio.Lock()):
            rendered = await self._rendered(catalog, group)
            before, now = self.dates.get(group), self._now()
            many = len(catalog.services)
            dates = await answer(partial(_dated, catalog, rendered, before, now), many)
            self.dates[group] = dates
        if catalog is not self._shop.catalog:  # then nobody else may have it any more
            services = dict(catalog.services)
            del catalog
            await let_go(services)
        return Listed(rendered, dates)

    async def _rendered(self, catalog: Catalog, group: str) -> Rendered:
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


def render(catalog: Catalog, tier: str) -> Rendered:
    """Write out the list of a catalog at the rates of a price group."""
    ends = array("Q")
    plain = bytearray(b"[")
    for service in catalog.services.values():  # without a piece for each, which leave gaps behind
        if ends:
            plain += b","
        _encoder.encode_into(_row(service, tier), plain, len(plain))
        ends.append(len(plain))
    plain += b"]"
    return Rendered(_body(bytes(plain), CODINGS), ends)


def _dated(catalog: Catalog, rendered: Rendered, before: Dates | None, now: int) -> Dates:
    """Return when the rows of a list have changed, by those of the list before it."""
    known = {}
    if before:
        was = zip(before.rows, before.changed_at, strict=True)
        known = dict(zip(before.ids, was, strict=True))
    found = Dates(array("Q", catalog.services), array("q"), array("q"))
    for one, content in zip(found.ids, _rows(rendered, range(len(rendered.ends))), strict=True):
        row = hash(content)
        old, changed_at = known.get(one, (None, now))
        found.rows.append(row)
        found.changed_at.append(changed_at if old == row else now)
    return found


def _fitting(catalog: Catalog, part: Part, dates: Dates) -> Iterable[int]:
    """Return where in the list the services are that somebody wants to see."""
    found: Iterable[tuple[int, Service]] = enumerate(catalog.services.values())
    if part.ids is not None:
        found = [(at, one) for at, one in found if one.id in part.ids]
    if part.category is not None:
        found = [(at, one) for at, one in found if one.category.casefold() == part.category]
    if part.since is not None:
        oldest = part.since - SLACK
        found = [(at, one) for at, one in found if dates.changed_at[at] >= oldest]
    return [at for at, _ in found]


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


def _body(plain: bytes, codings: Iterable[str]) -> Body:
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
