"""A provider's list on its way into the catalog: what it may do there, and what it may not."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.errors import CallFailed
from gateway.model import Decision, Held
from world import ROWS, YAML, Panel, World, world

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
