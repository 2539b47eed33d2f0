"""A provider's list on its way into the catalog: what it may do there, and what it may not."""

import asyncio
import contextlib
import gzip
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import apsw
import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

import build
from gateway import config
from gateway.app import open_gateway
from gateway.errors import CallFailed
from gateway.firewall import Rules, judge
from gateway.model import Decision, Held, Offer
from gateway.settings import Settings
from gateway.store.offers import compare
from gateway.sync import AT_ONCE, DOUBTFUL, NOTHING, Digests, Synced, move, sift
from gateway.upstream import Upstream
from wire import LIMIT, Peer, Talk, serve
from world import ROWS, YAML, Form, Panel, World, world

GRACE = 70_000
"""Milliseconds after which nobody may order at the rate that was shown before."""
UNAVAILABLE = {"error": "Service is unavailable"}
KEEP = YAML + "quarantine: keep\n"
PAUSE = YAML + "quarantine: pause\n"


async def now_lists(one: World, *rows: dict[str, Any], provider: str = "p") -> list[Held]:
    """Let a panel list these rows from now on, and sync; returns what is held back."""
    one.panels[provider].answers["services"] = list(rows)
    one.clock.forward(60_000)
    return list((await one.gateway.sync.fetch(provider)).held)


async def decide(one: World, decision: Decision) -> list[Held]:
    """Decide all that waits, as the owner's command does."""
    store = one.gateway.store
    decided = await store.decide(await store.held(), decision, one.clock())
    await one.gateway.sync.refresh()
    return decided


async def rate(one: World, service: int = 101) -> str | None:
    """Return the rate at which a service is listed."""
    rows = {row["service"]: row["rate"] for row in await one.api("services")}
    found: str | None = rows.get(service)
    return found


async def test_a_rate_that_jumps_pauses_the_service_until_the_owner_accepts_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as one:
        with capture_logs() as logs:
            (held,) = await now_lists(one, ROWS[0] | {"rate": "2.71"})

        assert "its rate was 0.90 and is 2.71" == held.reason
        assert ["gateway catalog accept p/1, or reject"] == [
            row["decide"] for row in logs if "decide" in row
        ]
        assert await rate(one) is None
        assert UNAVAILABLE == await one.add()

        await decide(one, Decision.ACCEPTED)

        assert "2.71" == await rate(one)
        one.clock.forward(GRACE)
        assert {"order": 1} == await one.add()
        assert "99.729" == await one.balance()
        assert [] == await now_lists(one, ROWS[0] | {"rate": "2.71"})


async def test_a_rate_that_falls_too_far_leaves_the_old_one_in_force(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        (held,) = await now_lists(one, ROWS[0] | {"rate": "0.09"})

        assert not held.paused
        assert "0.90" == await rate(one)
        assert [] == await now_lists(one, *ROWS)
        assert [] == await one.gateway.store.held()


async def test_a_rejected_change_is_asked_about_again_only_when_it_changes(tmp_path: Path) -> None:
    dearer = ROWS[0] | {"rate": "9"}
    async with world(tmp_path) as one:
        await now_lists(one, dearer)
        await decide(one, Decision.REJECTED)

        assert [] == await now_lists(one, dearer)
        assert await rate(one) is None, "rejecting a rise must not sell at the old rate"
        assert ["1"] == [held.offer for held in await now_lists(one, dearer | {"rate": "10"})]


async def test_what_waits_is_written_again_only_when_it_is_something_else(tmp_path: Path) -> None:
    """Thousands may wait for weeks, and orders would wait for them with each list."""
    dearer = [row | {"rate": "9"} for row in MANY]
    async with world(tmp_path, p=Panel(services=MANY)) as one:
        held = await now_lists(one, *dearer)
        assert await decide(one, Decision.REJECTED) == held
        was = await one.gateway.store.held()
        with closing(apsw.Connection(str(tmp_path / "gateway.db"))) as db:
            refused = "BEGIN SELECT RAISE(ABORT, 'it is written again'); END"
            db.execute(f"CREATE TRIGGER kept BEFORE DELETE ON quarantine {refused}")
            assert [] == await now_lists(one, *dearer)
            db.execute("DROP TRIGGER kept")
        assert was == await one.gateway.store.held()

        (again,) = await now_lists(one, *dearer[:4], dearer[4] | {"rate": "8"})
        assert {*was[:4], again} == {*await one.gateway.store.held()}
        assert [again] == await now_lists(one, *MANY[:4], dearer[4] | {"rate": "8"})
        assert [again] == await one.gateway.store.held()


async def test_a_change_is_told_once(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        await now_lists(one, ROWS[0] | {"rate": "9"})
        with capture_logs() as logs:
            await now_lists(one, ROWS[0] | {"rate": "9"})

        assert [] == [row for row in logs if "decide" in row]


async def test_an_id_that_becomes_another_thing_is_not_sold_as_the_old_one(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        await now_lists(one, ROWS[0] | {"name": "TikTok Likes"})

        assert UNAVAILABLE == await one.add()

        await now_lists(one, *ROWS)

        assert {"order": 1} == await one.add()


async def test_another_route_serves_while_one_is_paused(tmp_path: Path) -> None:
    yaml = YAML.replace(
        "services:", '  q: {adapter: api_v2, url: "http://panel/q", key: "${KEY}"}\nservices:'
    )
    yaml = yaml.replace("[p/1]", "[p/1, q/1]")
    async with world(tmp_path, yaml, p=Panel(), q=Panel()) as one:
        await now_lists(one, ROWS[0] | {"rate": "9"})
        await one.add()

        assert ([], 1) == (one.panels["p"].asked("add"), len(one.panels["q"].asked("add")))


async def test_the_owner_may_have_it_kept_or_paused_always(tmp_path: Path) -> None:
    async with world(tmp_path, KEEP) as one:
        await now_lists(one, ROWS[0] | {"rate": "9"})
        assert "0.90" == await rate(one)
    (tmp_path / "gateway.db").unlink()
    async with world(tmp_path, PAUSE) as one:
        await now_lists(one, ROWS[0] | {"rate": "0.01"})
        assert await rate(one) is None


async def test_a_provider_may_have_a_jump_and_a_quarantine_of_its_own(tmp_path: Path) -> None:
    own = (
        YAML.replace('"${KEY}"', '"${KEY}", price_jump: 20x, quarantine: keep') + "price_jump: 2x\n"
    )
    async with world(tmp_path, own) as one:
        assert [] == await now_lists(one, ROWS[0] | {"rate": "9"})
        assert 1 == len(await now_lists(one, ROWS[0] | {"rate": "900"}))
        assert "9.00" == await rate(one)


async def test_min_over_max_is_held_back_and_the_rest_taken_over(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"service": number} for number in (1, 2)]
    async with world(tmp_path, YAML + "  102: {routes: [p/2]}\n", p=Panel(services=rows)) as one:
        await now_lists(one, rows[0] | {"min": "500", "max": "50"}, rows[1] | {"rate": "1.00"})

        assert ("0.90", "1.00") == (await rate(one), await rate(one, 102))
        (first, _) = await one.api("services")
        assert ("50", "10000") == (first["min"], first["max"])


async def test_a_list_that_the_owner_accepts_is_believed_when_it_comes_again(
    tmp_path: Path,
) -> None:
    """A provider may really have given up most of what it sold."""
    rows = [ROWS[0] | {"service": number} for number in range(1, 6)]
    async with world(tmp_path, p=Panel(services=rows)) as one:
        for _ in range(2):
            with pytest.raises(CallFailed, match="lists 2 services instead of 5"):
                await now_lists(one, *rows[:2])
        (held,) = await decide(one, Decision.ACCEPTED)
        assert ("p", 2) == (str(held), held.services)
        with pytest.raises(CallFailed):
            await now_lists(one, rows[0])
        await decide(one, Decision.ACCEPTED)
        await now_lists(one, rows[0])

        assert [] == await one.gateway.store.held()
        assert ["1"] == list((await one.gateway.store.offers())["p"])


async def test_an_empty_list_cannot_be_accepted(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        with pytest.raises(CallFailed, match="lists 0 services instead of 1"):
            await now_lists(one)

        assert [] == await one.gateway.store.held()
        assert "0.90" == await rate(one)


async def test_a_list_that_is_not_believed_leaves_what_was_held_back_before(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"service": number} for number in range(1, 6)]
    async with world(tmp_path, p=Panel(services=rows)) as one:
        await now_lists(one, rows[0] | {"rate": "9"}, *rows[1:])
        with pytest.raises(CallFailed):
            await now_lists(one, rows[0])

        assert {"", "1"} == {held.offer for held in await one.gateway.store.held()}
        assert UNAVAILABLE == await one.add()


# --- what is remembered of the last list ----------------------------------------------------------

MANY = [ROWS[0] | {"service": number} for number in range(1, 6)]


async def offered(one: World) -> dict[str, Decimal]:
    """Return the rates in the store."""
    return {one: offer.rate for one, offer in (await one.gateway.store.offers())["p"].items()}


async def dearer(one: World) -> list[Offer]:
    """Return what is in the store, a little dearer."""
    known = (await one.gateway.store.offers())["p"].values()
    return [msgspec.structs.replace(offer, rate=Decimal("1.00")) for offer in known]


async def test_what_has_changed_since_the_last_list_is_found_row_by_row(tmp_path: Path) -> None:
    """Some rows as they were, one dearer, one gone, one new; later all of them as at first."""
    async with world(tmp_path, p=Panel(services=MANY)) as one:
        first = await offered(one)
        await now_lists(one, *MANY[:3], MANY[3] | {"rate": "0.95"}, ROWS[0] | {"service": 6})

        later = {str(number): Decimal("0.90") for number in (1, 2, 3, 6)} | {"4": Decimal("0.95")}
        assert later == await offered(one)
        await now_lists(one, *MANY)
        assert first == await offered(one)
        kinds = [(row.offer, row.kind) for row in await one.gateway.store.changes(0)]
        assert [("4", "rate"), ("5", "back"), ("6", "gone")] == sorted(kinds[:3])
        assert [("4", "rate"), ("5", "gone"), ("6", "new")] == sorted(kinds[3:6])


async def test_other_rates_are_compared_with_those_of_the_last_list(tmp_path: Path) -> None:
    """Night after night, among rows that are otherwise in more, gone, or as they were."""
    async with world(tmp_path, KEEP, p=Panel(services=MANY)) as one:
        await now_lists(one, *(row | {"rate": "0.95"} for row in MANY))
        found = [row | {"rate": "1.00"} for row in MANY[:3]]
        found[1]["rate"], found[2]["max"] = "9.00", "77"
        held = await now_lists(one, *found, MANY[3] | {"rate": "0.95"})

        assert ["its rate was 0.95 and is 9.00"] == [row.reason for row in held]
        kinds = [
            (row.offer, row.kind, row.before, row.after)
            for row in await one.gateway.store.changes(one.clock())
        ]
        assert [
            ("1", "rate", "0.95", "1.00"),
            ("3", "max", "10000", "77"),
            ("3", "rate", "0.95", "1.00"),
            ("5", "gone", "0.95", ""),
        ] == kinds
        rates = {"1": "1.00", "2": "0.95", "3": "1.00", "4": "0.95"}
        assert rates == await one.gateway.store.rates("p")
        assert held == await now_lists(one, *found, MANY[3] | {"rate": "0.95"})
        assert [] == await one.gateway.store.changes(one.clock())


async def test_with_another_file_the_last_list_is_still_known(tmp_path: Path) -> None:
    """So that a comment in a file does not have a million rows read back."""
    async with world(tmp_path, p=Panel(services=MANY)) as one:
        changed = await one.gateway.changed(one.gateway.config)

        assert {"p": 5} == {name: len(it.digests.rows) for name, it in changed.sync.seen.items()}


def test_a_list_is_taken_apart_by_what_was_there_before() -> None:
    """A row at another rate is told from one that is otherwise in anything else, too."""
    first = [build.offer(str(number)) for number in range(4)]
    all_new = sift(first, NOTHING)
    rated, renamed = build.offer("1", rate="1"), build.offer("2", "Views", "1")
    found = sift([first[0], rated, renamed], all_new.digests)

    assert (set(), {}, first) == (all_new.settled, all_new.rated, all_new.fresh)
    assert ({"0"}, {"1": rated}, [renamed]) == (found.settled, found.rated, found.fresh)
    assert Digests.of([first[0], rated, renamed]) == found.digests


@pytest.mark.parametrize("before", ["0", "0.0009", "0.3", "0.30001", "0.9", "0.90", "2.7", "2.71"])
@pytest.mark.parametrize("least", [10, 20_000])
def test_what_differs_by_its_rate_alone_is_judged_like_anything_else(
    before: str, least: int
) -> None:
    """The short way and the long one: what is written down and what is held back are the same."""
    new = msgspec.structs.replace(build.offer("1"), min=least)
    old = msgspec.structs.replace(new, rate=Decimal(before))
    sifted = sift([new], Digests.of([old]))
    moved, known = move("p", sifted, {"1": before}, Rules(), build.AT)
    short = judge("p", known, sifted.fresh, {}, Rules(), build.AT)
    long = judge("p", {"1": (old, None)}, [new], {}, Rules(), build.AT)

    assert long.held == short.held
    assert compare("p", {"1": (old, None)}, long.offers, build.AT) == moved + compare(
        "p", known, short.offers, build.AT
    )


async def test_what_somebody_else_has_taken_up_meanwhile_is_not_mistaken_for_the_last_list(
    tmp_path: Path,
) -> None:
    """Another process had the work for a while; the list is then as it was before that."""
    async with world(tmp_path, p=Panel(services=MANY)) as one:
        first = await offered(one)
        await build.listed(one.gateway.store, "p", await dearer(one), one.clock())
        await now_lists(one, *MANY)

        assert first == await offered(one)


async def test_a_list_of_which_only_a_part_was_written_is_put_right_by_the_next(
    tmp_path: Path,
) -> None:
    """Whoever wrote it died before the end."""
    async with world(tmp_path, p=Panel(services=MANY)) as one:
        store, first = one.gateway.store, await offered(one)
        found = compare("p", await store.known_offers("p"), await dearer(one), one.clock())
        with pytest.raises(AttributeError):
            await store.save_offers("p", found, one.clock(), held=[cast("Held", None)])
        await now_lists(one, *MANY)

        assert first == await offered(one)


async def test_what_was_gone_before_does_not_make_a_list_short(tmp_path: Path) -> None:
    async with world(tmp_path, p=Panel(services=MANY)) as one:
        for count in (3, 2, 1):
            await now_lists(one, *MANY[:count])

        assert {"1"} == (await offered(one)).keys()


async def test_a_change_that_the_owner_accepts_stays_accepted(tmp_path: Path) -> None:
    """A min over the max is odd each time that it is looked at; he has said that it is so."""
    odd = ROWS[0] | {"min": "500", "max": "50"}
    async with world(tmp_path) as one:
        await now_lists(one, odd)
        await decide(one, Decision.ACCEPTED)

        assert [] == await now_lists(one, odd)


async def test_lists_that_arrive_together_are_all_for_sale_in_the_end(tmp_path: Path) -> None:
    """The last of them to be taken up is the one that the catalog waits for, believed or not."""
    q = '  q: {adapter: api_v2, url: "http://panel/q", key: "${KEY}"}\nservices:'
    yaml = YAML.replace("services:", q) + "  102: {routes: [q/1]}\n"
    async with world(tmp_path, yaml, p=Panel(services=MANY), q=Panel(services=MANY)) as one:
        for answers, rates in ((MANY, ("1.00", "1.00")), ([], ("1.10", "1.00"))):
            one.panels["p"].answers["services"] = [row | {"rate": rates[0]} for row in MANY]
            one.panels["q"].answers["services"] = [row | {"rate": rates[0]} for row in answers]
            fetched = (one.gateway.sync.fetch(name) for name in ("p", "q"))
            await asyncio.gather(*fetched, return_exceptions=True)

            assert rates == (await rate(one), await rate(one, 102))


class Crowd:
    """Panels that notice how many of them are asked at the same time."""

    def __init__(self, many: int) -> None:
        self.names = [f"p{number}" for number in range(many)]
        self.under_way = [0]
        self.answer: Any = list(ROWS)

    async def _lists(self, _: Form) -> Any:
        self.under_way.append(self.under_way[-1] + 1)
        for _turn in range(9):
            await asyncio.sleep(0)
        self.under_way.append(self.under_way[-1] - 1)
        return self.answer

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[World]:
        providers = "".join(
            f'  {name}: {{adapter: api_v2, url: "http://panel/{name}", key: "${{KEY}}"}}\n'
            for name in self.names
        )
        yaml = f"currency: USD\nproviders:\n{providers}services: {{101: {{routes: [p0/1]}}}}\n"
        panels: dict[str, Any] = {name: Panel(services=self._lists) for name in self.names}
        async with world(folder, yaml, **panels) as one:
            yield one

    async def fetched(self, one: World) -> tuple[int, int]:
        """Fetch all lists; returns how many were believed, and how many asked for at a time."""
        self.under_way = [0]
        lists = map(one.gateway.sync.fetch, self.names)
        found = await asyncio.gather(*lists, return_exceptions=True)
        return sum(isinstance(one, Synced) for one in found), max(self.under_way)


async def test_no_more_lists_are_fetched_at_once_than_there_is_room_for(tmp_path: Path) -> None:
    """However many providers there are; all of them have their turn."""
    crowd = Crowd(AT_ONCE + 3)
    async with crowd.opened(tmp_path) as one:
        assert (AT_ONCE + 3, AT_ONCE) == await crowd.fetched(one)


async def test_those_whose_lists_come_to_nothing_leave_room_for_the_others(tmp_path: Path) -> None:
    """However many they are, and whatever they take next time; until they answer again."""
    crowd = Crowd(AT_ONCE + 3)
    async with crowd.opened(tmp_path) as one:
        crowd.answer = []
        assert (0, AT_ONCE) == await crowd.fetched(one)
        assert (0, DOUBTFUL) == await crowd.fetched(one)
        crowd.answer = list(ROWS)
        assert (AT_ONCE + 3, DOUBTFUL) == await crowd.fetched(one)
        assert (AT_ONCE + 3, AT_ONCE) == await crowd.fetched(one)


# --- hostile --------------------------------------------------------------------------------------

BOMB = gzip.compress(b"[" + b" " * (8 * LIMIT) + b"]")


async def _endless(peer: Peer) -> None:
    await peer.read()
    await peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await peer.write(b"5\r\n     \r\n", pause=0.001)


async def _enormous(peer: Peer) -> None:
    await peer.read()
    await peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n[")
    while True:
        await peer.write(b" " * 65_536)


async def _bomb(peer: Peer) -> None:
    await peer.read()
    await peer.answer(BOMB, b"Content-Encoding: gzip")


HOSTILE: dict[str, tuple[Talk, str]] = {
    "endless": (_endless, "no answer within"),
    "enormous": (_enormous, "more than"),
    "a bomb": (_bomb, "more than"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_provider_stops_nobody(tmp_path: Path, name: str) -> None:
    """Another one's list arrives while it keeps us busy, and nothing of its own is believed."""
    talk, says = HOSTILE[name]

    async def good(peer: Peer) -> None:
        while await peer.read():
            await peer.answer(json.dumps(ROWS).encode())

    environment = {"KEY": "upstream-secret"}
    async with serve(talk) as bad, serve(good) as fine:
        yaml = (
            "currency: USD\nproviders:\n"
            f'  bad: {{adapter: api_v2, url: "{bad.url}", key: "${{KEY}}", timeout: 2s}}\n'
            f'  fine: {{adapter: api_v2, url: "{fine.url}", key: "${{KEY}}"}}\n'
            "services:\n  101: {routes: [fine/1]}\n"
        )
        owner = config.parse(yaml, "providers.yaml", environment, {"api_v2": "USD"})
        settings = Settings(database_url=f"sqlite:///{tmp_path / 'gateway.db'}")
        async with open_gateway(owner, settings, upstream=Upstream(largest=LIMIT)) as gateway:
            busy = asyncio.create_task(gateway.sync.fetch("bad"))
            while not bad.requests:
                await asyncio.sleep(0.001)
            synced = await gateway.sync.fetch("fine")
            with pytest.raises(CallFailed, match=says):
                await busy

            assert (1, [101]) == (synced.services, list(gateway.shop.catalog.services))
            assert {"fine"} == (await gateway.store.offers()).keys()


# --- a week ---------------------------------------------------------------------------------------

HOUR = 3_600_000
THINGS = ("Instagram Followers", "TikTok Likes", "YouTube Views", "Telegram Members")
WEEK = """
currency: USD
markup: 40%
providers:
  p: {adapter: api_v2, url: "http://panel/p", key: "${KEY}"}
  q: {adapter: api_v2, url: "http://panel/q", key: "${KEY}"}
services:
"""


class Hostile:
    """A panel that changes what it lists as badly as it can, and knows what it really sells."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.honest = True
        self.rows: dict[int, dict[str, Any]] = {
            number: {
                **ROWS[0],
                "service": number,
                "name": THINGS[number % 4],
                "rate": f"{number}.00",
            }
            for number in range(1, 9)
        }
        self.sold: list[tuple[str, str]] = []
        """What it did for each order of 1000, and what it charged: its list's row at the time."""

    def lists(self, form: Form) -> Any:
        assert form == {"action": "services"}
        if self.honest:
            return list(self.rows.values())
        roll = self.chance.random()
        if roll < 0.1:
            return []
        if roll < 0.2:
            return {"error": "maintenance"}
        if roll < 0.3:
            return httpx.Response(200, content=b'[{"service": 1, "na')
        if roll < 0.4:
            return list(self.rows.values())[:3]
        for _again in range(3):
            self._change(self.chance.choice(list(self.rows)))
        return [row for row in self.rows.values() if not row.get("gone")]

    def _change(self, number: int) -> None:
        row = self.rows[number]
        match self.chance.randrange(6):
            case 0:
                factor = self.chance.choice(["0.01", "0.5", "0.9", "1.2", "2", "5", "100"])
                rate = min(
                    max(Decimal(row["rate"]) * Decimal(factor), Decimal("0.01")), Decimal(50)
                )
                row["rate"] = f"{rate:.4f}"
            case 1:
                row["name"] = self.chance.choice(THINGS)
            case 2:
                row["min"], row["max"] = self.chance.choice([("50", "10000"), ("9", "8")])
            case 3:
                row["type"] = self.chance.choice(["Default", "Default", "Package"])
            case 4:
                row["gone"] = not row.get("gone")
            case _:
                row["rate"] = f"{number}.00"
                row["name"] = THINGS[number % 4]

    def add(self, form: Form) -> dict[str, Any]:
        row = self.rows[int(form["service"])]
        self.sold.append((row["name"], row["rate"]))
        return {"order": 10_000 + len(self.sold)}


@pytest.mark.parametrize("seed", range(2))
async def test_a_week_of_hostile_lists_costs_nothing_and_gives_no_id_another_meaning(
    tmp_path: Path, seed: int
) -> None:
    """Orders are placed right after a list, so that what we believe is what the panel does.

    Unless its list was not believed: then it may have changed since the last one that was.
    """
    chance = random.Random(seed)
    hostile = {name: Hostile(chance) for name in ("p", "q")}
    panels = {name: Panel(services=panel.lists, add=panel.add) for name, panel in hostile.items()}
    yaml = WEEK + "".join(f"  {100 + n}: {{routes: [p/{n}, q/{n}]}}\n" for n in range(1, 9))
    shown: dict[int, set[str]] = {}
    sales = 0
    async with world(tmp_path, yaml, money="100000", p=panels["p"], q=panels["q"]) as one:
        for panel in hostile.values():
            panel.honest = False
        for _ in range(7 * 24 // 2):
            one.clock.forward(2 * HOUR)
            believed = set()
            for name in panels:
                with contextlib.suppress(CallFailed):
                    await one.gateway.sync.fetch(name)
                    believed.add(name)
            if chance.random() < 0.05:
                await decide(one, Decision.REJECTED)
            for row in await one.api("services"):
                shown.setdefault(row["service"], set()).add(row["name"])
            if believed != panels.keys():
                continue
            for service in range(101, 109):
                before = [len(panel.sold) for panel in hostile.values()]
                funds = Decimal(await one.balance())
                link = f"https://example.com/{service}/{one.clock()}"
                await one.add(service=service, quantity=1000, link=link)
                paid = funds - Decimal(await one.balance())
                for panel, count in zip(hostile.values(), before, strict=True):
                    for name, rate in panel.sold[count:]:
                        sales += 1
                        assert THINGS[service % 4] == name
                        assert paid >= Decimal(rate)

        assert sales > 40
        assert {service: {THINGS[service % 4]} for service in shown} == shown
        assert [] == await one.audit()
