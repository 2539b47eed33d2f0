"""What other currencies are worth: in the file, from a source, and within the owner's limits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from gateway import exchange
from gateway.app import Gateway
from gateway.errors import CallFailed
from gateway.upstream import Upstream
from wire import Peer, serve
from world import YAML, World, world

DAY = 86_400_000
UNAVAILABLE = {"error": "Service is unavailable"}


# --- what a source says ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"INR": 0.0119, "EUR": "1.08"}', {"INR": "0.0119", "EUR": "1.08"}),
        ('{"date": "2026-11-21", "rates": {"INR": 0.0119}}', {"INR": "0.0119"}),
        (
            '{"base": "USD", "rates": {"INR": 84, "EUR": 0.8}}',
            {"INR": "0.0119047619048", "EUR": "1.25"},
        ),
        ("{}", {}),
    ],
    ids=["as in the file", "under rates", "the other way round", "nothing"],
)
def test_a_source_says_what_one_unit_is_worth(body: str, expected: dict[str, str]) -> None:
    """What is turned around is rounded up, so that nothing seems cheaper than it is."""
    found = exchange.read(body.encode(), "USD")

    assert {currency: Decimal(rate) for currency, rate in expected.items()} == found


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "<html>",
        '{"INR": 0}',
        '{"INR": -1}',
        '{"INR": "much"}',
        '{"INR": null, "EUR": 1}',
        '{"base": "EUR", "rates": {"INR": 90}}',
        '{"rates": []}',
        " " * (exchange.LARGEST + 1),
    ],
)
def test_what_is_not_all_rates_is_not_believed(body: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        exchange.read(body.encode(), "USD")


# --- what becomes of it ---------------------------------------------------------------------------


@asynccontextmanager
async def reckoning(folder: Path, more: str = "") -> AsyncIterator[tuple[World, Path]]:
    """Open a gateway whose provider charges in rupees, and whose source is a file."""
    source = folder / "rates.json"
    yaml = YAML.replace("key:", "currency: INR, key:")
    yaml += f"exchange_rates: {{from: {source}{more}}}\n"
    async with world(folder, yaml) as one:
        yield one, source


def put(source: Path, body: str) -> None:
    source.write_text(body)


async def says(one: World, source: Path, body: str) -> None:
    put(source, body)
    await one.gateway.sync.fetch_exchange_rates()


async def rate(one: World) -> str | None:
    rows = await one.api("services")
    return str(rows[0]["rate"]) if rows else None


async def test_without_a_rate_nothing_is_sold_and_with_one_it_is(tmp_path: Path) -> None:
    async with reckoning(tmp_path) as (one, source):
        assert await rate(one) is None
        assert UNAVAILABLE == await one.add()

        await says(one, source, '{"INR": 0.01, "EUR": 1.08}')

        assert "0.009" == await rate(one)
        assert {"order": 1} == await one.add()
        assert ["INR"] == list(await one.gateway.store.exchange_rates())


async def test_a_process_that_begins_keeps_to_what_was_shown_by_the_rates_before(
    tmp_path: Path,
) -> None:
    """0.90 rupees a thousand, and the exchange rate has risen since a customer looked."""
    async with reckoning(tmp_path, ", max_move: 20%") as (one, source):
        for body in ('{"INR": 0.01}', '{"INR": 0.012}'):
            one.clock.forward(1000)
            await says(one, source, body)
        former = one.gateway
        parts = (former.store, former.cache, former.upstream, former.auth, one.clock)
        begun = Gateway(former.config, *parts)
        await begun.shop.refresh()

        service = begun.shop.catalog.services[101]
        assert (9_000, "0.0108") == (begun.shop.charge(service, 1000, ""), await rate(one))


async def test_a_rate_that_moves_within_the_limit_is_taken_over(tmp_path: Path) -> None:
    async with reckoning(tmp_path, ", max_move: 20%") as (one, source):
        await says(one, source, '{"INR": 0.01}')
        await says(one, source, '{"INR": 0.012}')

        assert "0.0108" == await rate(one)


@pytest.mark.parametrize("moved", ["0.0111", "0.0089", "84"])
async def test_a_rate_that_moves_too_far_is_not_taken_over_however_often_it_is_said(
    tmp_path: Path, moved: str
) -> None:
    """Not even when the last good one has become too old: then nothing is sold."""
    async with reckoning(tmp_path) as (one, source):
        await says(one, source, '{"INR": 0.01}')
        with capture_logs() as logs:
            await says(one, source, f'{{"INR": {moved}}}')

        assert [moved] == [row["says"] for row in logs if "says" in row]
        assert "0.009" == await rate(one)

        for _ in range(2):
            one.clock.forward(8 * DAY)
            await says(one, source, f'{{"INR": {moved}}}')
        assert await rate(one) is None

        await says(one, source, '{"INR": 0.0105}')
        assert "0.00945" == await rate(one)


@pytest.mark.parametrize("trouble", ["<html>", '{"INR": "x"}', None])
async def test_the_last_good_rates_hold_while_the_source_fails_until_they_are_too_old(
    tmp_path: Path, trouble: str | None
) -> None:
    async with reckoning(tmp_path, ", max_age: 2d") as (one, source):
        await says(one, source, '{"INR": 0.01}')
        source.unlink()
        if trouble is not None:
            source.write_text(trouble)
        one.clock.forward(DAY)
        with pytest.raises(CallFailed, match="exchange rates"):
            await one.gateway.sync.fetch_exchange_rates()
        assert "0.009" == await rate(one)

        one.clock.forward(2 * DAY)
        with pytest.raises(CallFailed):
            await one.gateway.sync.fetch_exchange_rates()
        assert await rate(one) is None


async def test_a_rate_in_the_file_comes_before_the_sources(tmp_path: Path) -> None:
    async with reckoning(tmp_path, ', INR: "0.02"') as (one, source):
        await says(one, source, '{"INR": 0.01}')

        assert "0.018" == await rate(one)
        assert {} == await one.gateway.store.exchange_rates()


async def test_rates_of_a_source_outlive_a_restart(tmp_path: Path) -> None:
    async with reckoning(tmp_path) as (one, source):
        await says(one, source, '{"INR": 0.01}')
    source.unlink()
    yaml = YAML.replace("key:", "currency: INR, key:") + f"exchange_rates: {{from: {source}}}\n"
    async with world(tmp_path, yaml, name="bob", sync=False) as one:
        assert "0.009" == await rate(one)


@pytest.mark.parametrize(("age", "told"), [(5, []), (9, ["2027-01-01"])])
async def test_old_rates_in_the_file_are_told_of(tmp_path: Path, age: int, told: list[str]) -> None:
    yaml = YAML + "exchange_rates: {date: 2027-01-01}\n"
    async with world(tmp_path, yaml) as one:
        one.clock.at = 1_798_761_600_000 + age * DAY
        with capture_logs() as logs:
            await one.gateway.sync.fetch_exchange_rates()

        assert told == [row["date"] for row in logs if "date" in row]


# --- over the wire --------------------------------------------------------------------------------


async def test_a_source_on_the_web_is_asked_without_any_key() -> None:
    async def talk(peer: Peer) -> None:
        head = await peer.read_some()
        peer._server.received += head
        await peer.answer(b'{"INR": 0.01}')

    async with serve(talk) as server:
        upstream = Upstream()
        answer = await upstream.get(server.url, timeout=5)
        await upstream.aclose()

    assert (200, b'{"INR": 0.01}') == (answer.status, answer.body)
    assert server.received.startswith(b"GET /api/v2 HTTP/1.1\r\n")
    assert b"key" not in server.received


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_a_source_that_answers_otherwise_is_not_believed(tmp_path: Path, status: int) -> None:
    async def carry(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"INR": 0.01})

    yaml = YAML.replace("key:", "currency: INR, key:")
    yaml += "exchange_rates: {from: http://rates.example/usd.json}\n"
    async with world(tmp_path, yaml) as one:
        source = exchange.ExchangeSource(
            one.gateway.config,
            one.gateway.store,
            Upstream(httpx.MockTransport(carry)),
            one.clock,
        )
        with pytest.raises(CallFailed, match=f"HTTP {status}"):
            await source.fetch()

        assert {} == await one.gateway.store.exchange_rates()
