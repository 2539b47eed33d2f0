"""The list of services: the same for everybody of a price group, and made but once."""

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import brotli
import httpx
import msgspec
import pytest
import zstandard

from gateway import config
from gateway.cache import MemoryCache
from gateway.cache_shared import RedisCache
from gateway.listing import CODINGS, Body, Listing, chosen, part
from gateway.offload import SMALL, apart
from redistmp import redis
from world import ROWS, YAML, Panel, World, world

MANY = [
    ROWS[0] | {"service": number, "name": f"Followers {number}", "category": f"C{number % 3}"}
    for number in range(1, 31)
]
SELLS_MANY = (
    YAML.split("services:")[0]
    + "tiers: {gold: {markup: 10%}}\nservices:\n"
    + "".join(f"  {100 + number}: {{routes: [p/{number}]}}\n" for number in range(1, 31))
)
DAY = 86_400_000


async def ask(
    one: World, headers: Mapping[str, str] | None = None, /, **params: object
) -> httpx.Response:
    form = {"key": one.key, "action": "services", **params}
    usual = {"accept-encoding": "identity"}
    return await one.client.post("/api/v2", data=form, headers=usual | dict(headers or {}))


async def ids(one: World, **params: object) -> list[int]:
    """Return which services are listed."""
    answer = await ask(one, **params)
    assert answer.status_code == 200
    return [row["service"] for row in answer.json()]


# --- compressed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br", "br"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("br;q=0.5, GZIP;q=1.0", "gzip"),
        ("zstd;q=0.9, br;q=0.90, gzip;q=0.1", "zstd"),
        ("*", "zstd"),
        ("deflate, *;q=0.1, zstd;q=0", "br"),
        ("", ""),
        ("identity", ""),
        ("deflate", ""),
        ("gzip;q=0", ""),
        ("gzip; q=0.000, *", "zstd"),
        ("*;q=0", ""),
        ("xgzip", ""),
        ("gzip;q=gladly", "gzip"),
    ],
)
def test_a_list_is_compressed_as_whoever_asks_likes_it_best(accepted: str, expected: str) -> None:
    assert chosen(accepted, tuple(CODINGS)) == expected


UNPACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": zstandard.ZstdDecompressor().decompress,
}


@pytest.mark.parametrize("coding", UNPACKED)
async def test_a_compressed_list_is_the_same_list(tmp_path: Path, coding: str) -> None:
    async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
        plain = await ask(one)
        async with one.client.stream(
            "POST",
            "/api/v2",
            data={"key": one.key, "action": "services"},
            headers={"accept-encoding": coding},
        ) as zipped:
            raw = b"".join([piece async for piece in zipped.aiter_raw()])

        assert plain.content == UNPACKED[coding](raw)
        assert (coding, str(len(raw))) == tuple(
            zipped.headers[name] for name in ("content-encoding", "content-length")
        )
        assert "content-encoding" not in plain.headers
        for answer in (plain, zipped):
            assert "accept-encoding" == answer.headers["vary"]
        assert plain.headers["etag"] != zipped.headers["etag"]


async def test_a_part_of_a_list_is_compressed_by_gzip_alone(tmp_path: Path) -> None:
    """It is made for one answer, and is not worth more."""
    async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
        part = {"category": MANY[0]["category"]}
        answer = await ask(one, {"accept-encoding": "zstd, br, gzip"}, **part)

        assert "gzip" == answer.headers["content-encoding"]


async def test_a_list_in_one_coding_is_known_in_the_other(tmp_path: Path) -> None:
    async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
        tag = (await ask(one)).headers["etag"]
        again = await ask(one, {"accept-encoding": "gzip", "if-none-match": tag})

        assert (304, b"") == (again.status_code, again.content)
        assert "content-encoding" not in again.headers


async def test_a_short_list_is_not_worth_compressing(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        answer = await ask(one, {"accept-encoding": "gzip"})

        assert "content-encoding" not in answer.headers


# --- made once, and never short -----------------------------------------------------------------


async def test_those_who_ask_at_once_get_the_same_bytes(tmp_path: Path) -> None:
    async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
        listing = one.gateway.listing
        first, second = await listing.listed(""), await listing.listed("nobody's")
        gold = await listing.listed("gold")

        assert first.plain is second.plain
        assert first.digest != gold.digest


async def test_a_list_is_there_before_anybody_asks(tmp_path: Path) -> None:
    async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
        listing = one.gateway.listing

        assert {"", "gold"} == listing._lists.keys()


async def test_a_changed_rate_is_in_the_next_list(tmp_path: Path) -> None:
    panel = Panel(services=MANY)
    async with world(tmp_path, SELLS_MANY, p=panel) as one:
        tag = (await ask(one)).headers["etag"]
        panel.answers["services"] = [MANY[0] | {"rate": "1.00"}, *MANY[1:]]
        await one.gateway.sync.fetch("p")
        after = await ask(one, {"if-none-match": tag})

        assert ("1.00", "0.90") == tuple(row["rate"] for row in after.json()[:2])


async def test_a_list_is_whole_while_the_provider_is_down_and_after_a_restart(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
        before = await ask(one)
    down = Panel(services=httpx.ConnectError("down"))
    async with world(tmp_path, SELLS_MANY, sync=False, name="bob", p=down) as one:
        after = await ask(one)

        assert before.content == after.content
        assert 30 == len(after.json())


# --- a part of it -------------------------------------------------------------------------------


async def test_a_part_is_cut_out_of_the_whole(tmp_path: Path) -> None:
    async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
        rows: list[dict[str, Any]] = (await ask(one)).json()
        first, last = rows[0], rows[-1]

        assert [first, last] == (await ask(one, ids="130,101, 999")).json()
        assert [row for row in rows if row["category"] == "C1"] == (
            await ask(one, category="c1")
        ).json()
        assert [101] == await ids(one, category="C1", ids="101,102")
        assert [] == await ids(one, category="none")
        assert rows == json.loads((await ask(one)).content)


async def test_no_list_waits_for_a_catalog_that_is_being_read(tmp_path: Path) -> None:
    """However many a customer may choose from."""
    many = range(1, SMALL + 2)
    file = YAML.split("services:")[0] + "services:\n"
    file += "".join(f"  {number}: {{routes: [p/{number}]}}\n" for number in many)
    panel = Panel(services=[ROWS[0] | {"service": number} for number in many])
    async with world(tmp_path, file, p=panel) as one:
        read = threading.Event()
        reading = asyncio.create_task(apart(lambda: read.wait(20)))
        await asyncio.sleep(0)
        found = await ids(one, ids="7,501,9000")
        waits = not reading.done()
        read.set()

        assert [7, 501] == found
        assert waits
        assert await reading


async def test_a_part_has_a_tag_of_its_own(tmp_path: Path) -> None:
    async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
        cut = await ask(one, ids="101")
        again = await ask(one, {"if-none-match": cut.headers["etag"]}, ids="101")
        other = await ask(one, {"if-none-match": cut.headers["etag"]}, ids="102")

        assert (304, 200) == (again.status_code, other.status_code)


@pytest.mark.parametrize(
    "params",
    [
        {"ids": "101,x"},
        {"ids": "-1"},
        {"ids": ",".join(map(str, range(1, 1002)))},
        {"changed_since": "yesterday"},
        {"changed_since": "-5"},
    ],
    ids=["no number", "negative", "too many", "a word", "a negative time"],
)
async def test_what_cannot_be_read_is_an_incorrect_request(
    tmp_path: Path, params: dict[str, str]
) -> None:
    async with world(tmp_path) as one:
        assert {"error": "Incorrect request"} == (await ask(one, **params)).json()


async def test_only_what_has_changed_since_is_listed(tmp_path: Path) -> None:
    panel = Panel(services=MANY)
    async with world(tmp_path, SELLS_MANY, p=panel) as one:
        one.clock.forward(DAY)
        start = one.clock() // 1000 + 3600
        one.clock.forward(DAY)
        panel.answers["services"] = [
            MANY[0] | {"rate": "1.00"},
            MANY[1] | {"rate": "90"},
            *MANY[2:],
        ]
        await one.gateway.sync.fetch("p")

        assert [101] == await ids(one, changed_since=start), "102 is paused"
        assert 29 == len(await ids(one, changed_since=start - 3 * DAY // 1000))
        one.clock.forward(DAY)
        panel.answers["services"] = MANY
        await one.gateway.sync.fetch("p")
        assert [101, 102] == await ids(one, changed_since=start)
        assert [] == await ids(one, changed_since=one.clock() // 1000 + 3600)


async def test_with_another_file_only_what_is_shown_otherwise_has_changed(tmp_path: Path) -> None:
    """A comment changes nothing; a markup what it makes the rate of, for whom it does."""
    everything = [*range(101, 131)]
    files = {
        SELLS_MANY + "# nothing new\n": ([], []),
        SELLS_MANY.replace("10%", "5%"): ([], everything),
        SELLS_MANY.replace("[p/7]}", '[p/7], rate: "7.00"}'): ([107], everything),
    }
    async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
        for tier in ("", "gold"):
            await one.gateway.listing.listed(tier)
        for text, expected in files.items():
            one.clock.forward(DAY)
            changed = part({"changed_since": str(one.clock() // 1000)})
            one.clock.forward(DAY)
            owner = config.parse(text, "providers.yaml", {"KEY": "secret"}, {"api_v2": "USD"})
            one.gateway = await one.gateway.changed(owner)
            plain, gold = [await one.gateway.listing.listed(tier, changed) for tier in ("", "gold")]

            assert expected == (_ids(plain), _ids(gold))


async def test_in_another_price_group_everything_has_changed(tmp_path: Path) -> None:
    """What its customer has was at the rates of the group before."""
    async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
        one.clock.forward(DAY)
        moved = msgspec.structs.replace(one.customer, tier="gold", tier_at=one.clock())
        await one.gateway.store.set_customer(one.customer, moved)
        one.gateway.auth.forget()

        before, after = [one.clock() // 1000 + seconds for seconds in (-60, 3600)]
        assert 30 == len(await ids(one, changed_since=before))
        assert [] == await ids(one, changed_since=after)


class Slow(MemoryCache):
    """A cache that other processes share, and that is slow once."""

    shared = True

    def __init__(self) -> None:
        super().__init__()
        self.slow: asyncio.Event | None = None

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        slow, self.slow = self.slow, None
        if slow:
            await slow.wait()
        return await super().get(keys)


async def test_what_came_and_went_between_two_lists_has_changed(tmp_path: Path) -> None:
    """Whoever has read the list between them, which was made last, needs it again."""
    panel = Panel(services=MANY)
    cache = Slow()
    async with world(tmp_path, SELLS_MANY, p=panel) as one:
        gateway = one.gateway
        listing = Listing(gateway.config, gateway.shop, cache, one.clock)
        await listing.listed("")
        one.clock.forward(DAY)
        since = part({"changed_since": str(one.clock() // 1000)})
        one.clock.forward(DAY)

        cache.slow = waits = asyncio.Event()
        making = []
        for rate in ("1.00", ROWS[0]["rate"]):
            panel.answers["services"] = [MANY[0] | {"rate": rate}, *MANY[1:]]
            await gateway.sync.fetch("p")
            making.append(asyncio.create_task(listing.listed("")))
            await asyncio.sleep(0.05)
        waits.set()
        await asyncio.gather(*making)

        assert [101] == _ids(await listing.listed("", since))


def _ids(body: Body) -> list[int]:
    return [row["service"] for row in json.loads(body.plain)]


async def test_a_route_that_is_gone_has_changed_the_service(tmp_path: Path) -> None:
    """What is shown is the next route's."""
    yaml = YAML.replace("[p/1]", "[p/1, p/2]")
    panel = Panel(services=[MANY[0], MANY[1], *MANY[5:9]])
    async with world(tmp_path, yaml, p=panel) as one:
        one.clock.forward(DAY)
        since = one.clock() // 1000 + 3600
        one.clock.forward(DAY)
        panel.answers["services"] = [MANY[1], *MANY[5:9]]
        await one.gateway.sync.fetch("p")
        answer = (await ask(one, changed_since=since)).json()

        assert ["Followers 2"] == [row["name"] for row in answer]


# --- shared ---------------------------------------------------------------------------------------


async def test_another_process_takes_a_list_from_the_cache_that_they_share(tmp_path: Path) -> None:
    """Whole and compressed; what is not whole there is made again."""
    with redis() as url:
        async with world(tmp_path, SELLS_MANY, p=Panel(services=MANY)) as one:
            gateway = one.gateway
            cache = RedisCache(url)

            def another() -> Listing:
                return Listing(gateway.config, gateway.shop, cache, gateway.now)

            plain, gold = [await another().listed(group) for group in ("", "gold")]
            keys = [f"services/{gateway.shop.catalog.edition}/{group}" for group in ("", "gold")]
            kept = [one for one in await cache.get(keys) if one]
            assert 2 == len(kept)

            await cache.put(dict(zip(keys, reversed(kept), strict=True)), 60)
            assert [gold, plain] == [await another().listed(group) for group in ("", "gold")]
            flipped = kept[0][:60] + bytes([kept[0][60] ^ 1]) + kept[0][61:]
            for broken in (b"no list", kept[0][:-9], flipped):
                await cache.put({keys[0]: broken}, 60)
                assert plain == await another().listed("")
            cut = await another().listed("", part({"ids": "103,107"}))
            assert [103, 107] == [row["service"] for row in json.loads(cut.plain)]
            await cache.aclose()
