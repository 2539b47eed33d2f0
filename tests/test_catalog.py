"""What is for sale, at which rate, to whom: through the endpoint, and down to the provider."""

import asyncio
import gc
import time
import weakref
from decimal import Decimal
from pathlib import Path

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

import build
from gateway import config, money, settings
from gateway.adapters import ADAPTERS
from gateway.app import Gateway, at_work
from gateway.catalog import IN_FORCE_BY, LAG
from gateway.config import Config
from gateway.model import State
from world import ROWS, Form, Panel, World, world

UNAVAILABLE = {"error": "Service is unavailable"}
GRACE = 60_000
DAY = 24 * 3600 * 1000


def yaml(service: str = "", more: str = "", provider: str = "", orders: str = "") -> str:
    """Return the owner's file: one service by one provider, and what else is said."""
    return f"""
currency: USD
providers:
  p: {{adapter: api_v2, url: "http://panel/p", key: "${{KEY}}"{provider}}}
services:
  101: {{routes: [p/1]{service}}}
orders: {{{orders}}}
{more}
"""


def at(rate: str) -> list[dict[str, object]]:
    """Return a provider's list with one service at a rate."""
    return [ROWS[0] | {"rate": rate}]


def panel(rate: str = "1.00") -> Panel:
    return Panel(services=at(rate))


async def now_at(one: World, rate: str) -> None:
    """Let the provider change its rate, and the gateway hear of it."""
    one.panels["p"].answers["services"] = at(rate)
    await one.gateway.sync.fetch("p")


async def shown(one: World) -> str:
    """Return the rate of service 101 as this customer reads it."""
    return str((await one.api("services"))[0]["rate"])


async def charged(one: World, quantity: int = 1000) -> str:
    """Order, and return what it cost; or the error."""
    answer = await one.add(quantity=quantity)
    if "error" in answer:
        return str(answer["error"])
    return str((await one.api("status", order=answer["order"]))["charge"])


def read(text: str) -> Config:
    currencies = {name: adapter.currency for name, adapter in ADAPTERS.items()}
    return config.parse(text, "providers.yaml", {"KEY": "upstream-secret"}, currencies)


# --- each customer's own rates ------------------------------------------------------------------

GROUPS = "markup: 100%\ntiers: {gold: {markup: 50%}, silver: {markup: {0: 80%, 1: 60%}}}"


@pytest.mark.parametrize(
    ("service", "provider", "rates"),
    [
        ("", "", {"": "2.00", "gold": "1.50", "silver": "1.60", "lead": "2.00"}),
        ("", ", markup: 30%", {"": "1.30", "gold": "1.30", "silver": "1.30"}),
        ("", ", tiers: {gold: {markup: 5%}}", {"": "2.00", "gold": "1.05", "silver": "1.60"}),
        (", markup: {0: 9%, 1: 7%, 2: 5%}", ", markup: 30%", {"": "1.07", "gold": "1.07"}),
        (", tiers: {gold: {rate: 1.01}}", ", markup: 30%", {"": "1.30", "gold": "1.01"}),
        (", rate: 1.7, tiers: {gold: {markup: 2%}}", "", {"": "1.70", "gold": "1.02"}),
    ],
)
async def test_each_customer_sees_and_pays_the_rates_of_his_group(
    tmp_path: Path, service: str, provider: str, rates: dict[str, str]
) -> None:
    """A name that is no price group of the file is none."""
    async with world(tmp_path, yaml(service, GROUPS, provider), p=panel()) as one:
        for tier, rate in rates.items():
            one.key = await one.customer_with("10", f"in {tier}", tier)

            assert (rate, rate) == (await shown(one), await charged(one))


async def test_a_rate_is_rounded_up_to_the_step_and_charged_as_it_is_shown(tmp_path: Path) -> None:
    """0.3337 × 1.1 is 0.36707: shown as 0.368, and a thousand cost that."""
    file = yaml(more="markup: 10%\nround: 0.001")
    async with world(tmp_path, file, p=panel("0.3337")) as one:
        assert ("0.368", "0.368") == (await shown(one), await charged(one))


# --- a rate that was shown is the rate that is charged --------------------------------------------


async def test_an_order_soon_after_a_rise_is_charged_what_was_shown_before(tmp_path: Path) -> None:
    async with world(tmp_path, yaml(more="markup: 50%"), p=panel()) as one:
        await now_at(one, "1.20")
        assert "1.80" == await shown(one)
        one.clock.forward(GRACE)
        assert "1.50" == await charged(one)

        one.clock.forward(LAG)
        assert "1.80" == await charged(one)


async def test_an_order_after_a_fall_is_charged_the_lower_rate_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, yaml(more="markup: 50%"), p=panel()) as one:
        await now_at(one, "0.80")

        assert ("1.20", "1.20") == (await shown(one), await charged(one))


async def test_of_several_rates_within_a_minute_the_lowest_counts(tmp_path: Path) -> None:
    """Each of them may be what the customer has just read."""
    async with world(tmp_path, yaml(more="markup: 50%"), p=panel()) as one:
        await now_at(one, "0.90")
        one.clock.forward(GRACE // 2)
        await now_at(one, "1.10")
        await now_at(one, "1.20")
        assert "1.35" == await charged(one)

        one.clock.forward(GRACE + LAG)
        assert "1.80" == await charged(one)


async def test_a_service_that_is_back_dearer_costs_what_it_did_before(tmp_path: Path) -> None:
    """Whoever read the list before it vanished may order now."""
    async with world(tmp_path, yaml(more="markup: 50%"), p=panel()) as one:
        one.panels["p"].answers["services"] = [ROWS[0] | {"service": 2}]
        await one.gateway.sync.fetch("p")
        assert UNAVAILABLE == await one.add()
        await now_at(one, "1.20")

        assert "1.50" == await charged(one)


async def test_a_rate_that_was_shown_and_is_below_cost_by_now_is_refused(tmp_path: Path) -> None:
    """Neither a loss for us nor a higher charge for the customer."""
    async with world(tmp_path, yaml(more="markup: 50%"), p=panel()) as one:
        await now_at(one, "1.60")
        assert "Service is unavailable" == await charged(one)
        assert [] == one.panels["p"].asked("add")

        one.clock.forward(GRACE + LAG)
        assert "2.40" == await charged(one)


async def test_without_a_grace_the_new_rate_counts_at_once(tmp_path: Path) -> None:
    file = yaml(more="markup: 50%", orders="rate_grace: 0s")
    async with world(tmp_path, file, p=panel()) as one:
        await now_at(one, "1.20")

        assert "1.80" == await charged(one)


async def test_a_changed_file_raises_nobodys_rate_within_the_grace(tmp_path: Path) -> None:
    """The rate that holds now is compared with the one by the file before."""
    async with world(tmp_path, yaml(more="markup: 50%"), p=panel()) as one:
        gateway = await one.gateway.changed(read(yaml(more="markup: 90%")))
        service = gateway.shop.catalog.services[101]
        assert 1_500_000 == gateway.shop.charge(service, 1000, "")

        one.clock.forward(GRACE + LAG)
        assert 1_900_000 == gateway.shop.charge(service, 1000, "")


async def test_a_file_that_was_changed_while_the_gateway_restarted_raises_nothing_either(
    tmp_path: Path,
) -> None:
    """The files of the last minute are in the database."""
    old, new = yaml(more="markup: 50%"), yaml(more="markup: 90%")
    async with world(tmp_path, new, p=panel()) as one:
        await one.gateway.shop.succeed(read(old))

        assert "1.50" == await charged(one)


async def begun(one: World) -> Gateway:
    """Return another process that begins now, and knows what is in the store."""
    gateway = one.gateway
    parts = (gateway.store, gateway.cache, gateway.upstream, gateway.auth, one.clock)
    another = Gateway(gateway.config, *parts)
    await another.shop.refresh()
    return another


async def test_a_process_that_begins_keeps_to_what_one_that_died_has_shown(tmp_path: Path) -> None:
    """Each rate of the last minute counts, whichever of them a customer has read."""
    async with world(tmp_path, yaml(more="markup: {0: 50%, 1: 10%}"), p=panel("0.80")) as one:
        for rate in ("0.70", "0.90", "1.00", "1.20"):  # 1.05, 1.35, 1.10, 1.32
            await now_at(one, rate)
            one.clock.forward(1000)
        shop = (await begun(one)).shop
        service = shop.catalog.services[101]
        assert 1_050_000 == shop.charge(service, 1000, "")

        one.clock.forward(GRACE + LAG)
        assert 1_320_000 == shop.charge(service, 1000, "")

        one.clock.forward(IN_FORCE_BY)
        shop = (await begun(one)).shop
        assert 1_320_000 == shop.charge(shop.catalog.services[101], 1000, "")


async def test_another_price_group_raises_no_rate_that_was_shown_in_the_former_one(
    tmp_path: Path,
) -> None:
    file = yaml(more="markup: 50%\ntiers: {gold: {markup: 10%}}")
    async with world(tmp_path, file, p=panel()) as one:
        store = one.gateway.store
        (ann,) = await store.customers()
        changed = {"tier_before": "gold", "tier_at": one.clock()}
        await store.set_customer(ann, msgspec.structs.replace(ann, **changed))
        one.gateway.auth.forget()
        assert ("1.50", "1.10") == (await shown(one), await charged(one))

        one.clock.forward(GRACE + LAG)
        assert "1.50" == await charged(one)


async def test_rates_of_another_currency_are_none_to_keep_to(tmp_path: Path) -> None:
    """A service at 1.50 dollars does not cost 1.50 rupees for a minute."""
    async with world(tmp_path, yaml(more="markup: 50%"), p=panel()) as one:
        rupees = yaml(more="exchange_rates: {USD: 84}\nmarkup: 50%", provider=", currency: USD")
        file = read(rupees.replace("currency: USD\n", "currency: INR\n", 1))
        gateway = await one.gateway.changed(file)
        await gateway.shop.succeed(one.gateway.config)
        service = gateway.shop.catalog.services[101]

        assert 126_000_000 == gateway.shop.charge(service, 1000, "")


async def test_a_gateway_that_starts_on_another_file_keeps_to_the_last_ones_rates(
    tmp_path: Path,
) -> None:
    """Whichever process it was that took that one up, and for as long as its list may be read."""
    old, new = yaml(more="markup: 50%"), yaml(more="markup: 90%")
    async with world(tmp_path, old, p=panel()) as one:
        for text, ago in (("nonsense", 400_000), (old, 300_000), (new, 10_000)):
            await one.gateway.store.keep_configuration(text, int(time.time() * 1000) - ago)
    (tmp_path / "providers.yaml").write_text(new)
    (tmp_path / ".env").write_text("KEY=upstream-secret\n")
    found = settings.load(
        config=tmp_path / "providers.yaml", database_url=f"sqlite:///{tmp_path / 'gateway.db'}"
    )
    async with at_work(found, work=False) as running:
        shop = running.gateway.shop

        assert 1_500_000 == shop.charge(shop.catalog.services[101], 1000, "")
        assert "1.90" == money.rate_text(shop.catalog.services[101].rate(""))


async def test_a_replaced_file_goes_without_the_collector(tmp_path: Path) -> None:
    """A file of thousands of services would wait for it otherwise, or stay for ever."""
    file = tmp_path / "providers.yaml"
    file.write_text(yaml())
    (tmp_path / ".env").write_text("KEY=upstream-secret\n")
    found = settings.load(config=file, database_url=f"sqlite:///{tmp_path / 'gateway.db'}")
    async with at_work(found) as running:
        gc.disable()
        gateway = running.gateway
        before = [weakref.ref(one) for one in (gateway, gateway.shop, gateway.background)]
        del gateway
        file.write_text(yaml(more="markup: 90%"))
        await running._take_up()
        await asyncio.wait(running._ending)
        for _ in range(200):  # what has ended may be on the loop's list for a few turns
            if not any(one() for one in before):
                break
            await asyncio.sleep(0.01)
        left = [one() for one in before if one()]
        gc.enable()

    assert [] == left


# --- never below cost -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "cost", "sold"),
    [
        ("", "1.00", True),
        ("", "1.0001", False),
        (", max_loss: 2%", "1.02", True),
        (", max_loss: 2%", "1.0201", False),
        (", allow_loss: true", "50.00", True),
    ],
)
async def test_a_route_that_costs_more_than_the_charge_is_taken_only_as_far_as_the_owner_says(
    tmp_path: Path, said: str, cost: str, *, sold: bool
) -> None:
    """``max_loss`` is a part of the charge."""
    async with world(tmp_path, yaml(f", rate: 1.00{said}"), p=panel(cost)) as one:
        assert ("1.00" if sold else "Service is unavailable") == await charged(one)


async def rises(one: World, provider: str, rate: str) -> None:
    """Let another process have seen a new rate, while every place at the provider is taken."""
    store = one.gateway.store
    offer = (await store.offers())[provider]["1"]
    dearer = msgspec.structs.replace(offer, rate=Decimal(rate))
    await build.listed(store, provider, [dearer], one.clock())
    await one.gateway.shop.refresh()


@pytest.mark.parametrize("unavailable", ["refuse", "queue"])
async def test_an_order_that_waited_while_the_rate_rose_is_not_sent(
    tmp_path: Path, unavailable: str
) -> None:
    """It was affordable when it was placed, and a loss when its turn came."""
    go_on = asyncio.Event()

    async def hold(form: Form) -> object:
        await go_on.wait()
        return {"order": int(form["link"][-1])}

    orders = f"answer_within: 10s, unavailable: {unavailable}"
    file = yaml(", rate: 1.00", "", ", limits: {concurrency: 1}", orders)
    async with world(tmp_path, file, p=Panel(services=at("0.90"), add=hold)) as one:
        first = asyncio.create_task(one.add(link="https://example.com/1"))
        while not one.panels["p"].asked("add"):
            await asyncio.sleep(0.01)
        second = asyncio.create_task(one.add(link="https://example.com/2"))
        while 2 not in await one.gateway.store.orders([2]):
            await asyncio.sleep(0.01)
        await rises(one, "p", "1.01")
        go_on.set()

        assert {"order": 1} == await first
        assert (UNAVAILABLE if unavailable == "refuse" else {"order": 2}) == await second
        assert 1 == len(one.panels["p"].asked("add"))
        left = State.FAILED if unavailable == "refuse" else State.QUEUED
        assert left == (await one.order(2)).state
        assert 0 == await one.gateway.orders.dispatch()
        assert 0 == one.gateway.router.lines["p"].reserved
        if unavailable == "queue":
            await rises(one, "p", "0.95")
            one.clock.forward(10_001)  # until surely nobody sees to it any more
            assert 1 == await one.gateway.orders.dispatch()
            await one.gateway.orders.drain(5)
            sent = await one.order(2)
            assert (95_000, State.PLACED) == (sent.cost, sent.state)
        assert [] == await one.audit()


async def test_an_order_that_waited_counts_on_what_it_costs_by_then(tmp_path: Path) -> None:
    """Its cost there, its place there and its cost in the books are of the latest rate."""
    go_on = asyncio.Event()
    reserved = []

    async def hold(form: Form) -> object:
        await go_on.wait()
        reserved.append(one.gateway.router.lines["p"].reserved)
        return {"order": int(form["link"][-1])}

    file = yaml(", rate: 1.00", "", ", limits: {concurrency: 1}", "answer_within: 10s")
    async with world(tmp_path, file, p=Panel(services=at("0.90"), add=hold)) as one:
        first = asyncio.create_task(one.add(link="https://example.com/1"))
        while not one.panels["p"].asked("add"):
            await asyncio.sleep(0.01)
        second = asyncio.create_task(one.add(link="https://example.com/2"))
        while 2 not in await one.gateway.store.orders([2]):
            await asyncio.sleep(0.01)
        await rises(one, "p", "0.95")
        go_on.set()

        assert [{"order": 1}, {"order": 2}] == [await first, await second]
        assert [90_000 + 90_000, 95_000] == reserved
        assert (90_000, 95_000) == ((await one.order(1)).cost, (await one.order(2)).cost)
        assert [] == await one.audit()


async def test_the_next_route_is_left_out_when_it_has_risen_meanwhile(tmp_path: Path) -> None:
    """What counts is its rate when its turn comes."""

    async def refuse(_: Form) -> object:
        await rises(one, "q", "1.01")
        return {"error": "This service is disabled"}

    file = (
        yaml(", rate: 1.00")
        .replace("[p/1]", "[p/1, q/1]")
        .replace(
            "services:",
            '  q: {adapter: api_v2, url: "http://panel/q", key: "${KEY}"}\nservices:',
            1,
        )
    )
    p = Panel(services=at("0.90"), add=refuse)
    async with world(tmp_path, file, p=p, q=panel("0.90")) as one:
        assert UNAVAILABLE == await one.add()
        assert (1, []) == (len(p.asked("add")), one.panels["q"].asked("add"))
        assert [] == await one.audit()


async def test_a_catalog_that_is_too_old_is_listed_and_not_sold_from(tmp_path: Path) -> None:
    """Its rates may have risen unseen; a look at the provider mends it."""
    async with world(tmp_path, yaml(), p=panel()) as one:
        one.clock.forward(DAY)
        assert {"order": 1} == await one.add()
        one.clock.forward(1)
        assert UNAVAILABLE == await one.add()
        assert "1.00" == await shown(one)

        await one.gateway.sync.fetch("p")
        await one.gateway.shop.refresh()
        assert {"order": 2} == await one.add()


async def test_an_owner_may_say_how_old_a_catalog_may_be(tmp_path: Path) -> None:
    async with world(tmp_path, yaml(orders="max_catalog_age: 1h"), p=panel()) as one:
        one.clock.forward(3600 * 1000)
        assert {"order": 1} == await one.add()
        one.clock.forward(1)
        assert UNAVAILABLE == await one.add()


async def test_an_order_that_waits_is_not_sent_by_a_catalog_that_has_grown_too_old(
    tmp_path: Path,
) -> None:
    file = yaml(orders="unavailable: queue, queue_for: 9d")
    async with world(tmp_path, file, p=Panel(add=httpx.ConnectError("nobody there"))) as one:
        await one.add()
        one.clock.forward(2 * DAY)
        assert 0 == await one.gateway.orders.dispatch()

        await one.gateway.sync.fetch("p")
        await one.gateway.shop.refresh()
        assert 1 == await one.gateway.orders.dispatch()


async def test_a_fixed_rate_that_falls_under_cost_is_told_once_until_it_is_mended(
    tmp_path: Path,
) -> None:
    """For each price group, all in one line; a rate that is marked up never falls under cost."""
    more = "tiers: {gold: {markup: 0%}}"
    file = yaml(", rate: 1.00, tiers: {gold: {rate: 0.90}}", more)
    with capture_logs() as lines:
        async with world(tmp_path, file, p=panel("0.80")) as one:
            for rate in ("0.95", "0.96", "1.10", "1.20", "0.80", "1.30"):
                await now_at(one, rate)
            await (await one.gateway.changed(read(file))).shop.refresh()

    told = [one for one in lines if "below what they cost" in one["event"]]
    assert [(1, 101, "gateway plan")] * 3 == [
        (one["services"], one["first"], one["look"]) for one in told
    ]
