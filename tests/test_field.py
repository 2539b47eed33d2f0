"""What other panels get wrong, moment by moment: here it goes right.

Each test is one way in which resellers are known to lose money or orders elsewhere.
"""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.errors import CallFailed
from gateway.model import State
from gateway.store.sqlite import SqliteStore
from world import ROWS, YAML, Form, Panel, world

TWO = YAML.replace(
    "services:",
    '  q: {adapter: api_v2, url: "http://panel/q", key: "${KEY}"}\nservices:',
).replace("[p/1]", "[p/1, q/1]")
LIST = "services"


def status(word: str, **said: object) -> dict[str, object]:
    """Return a status row as panels write it."""
    row = {"charge": "0.09", "start_count": "1", "remains": "0", "currency": "USD"}
    return {**row, "status": word, **said}


def every(row: dict[str, object]) -> Any:
    """Return an answer that says the same of every order."""
    return lambda form: (
        dict.fromkeys(form["orders"].split(","), row) if "," in form.get("orders", "") else row
    )


async def test_a_timeout_is_no_refusal(tmp_path: Path) -> None:
    """It is one order, at one provider, however often anybody looks, and the money stays held."""
    p, q = Panel(add=httpx.ReadTimeout("hangs")), Panel()
    async with world(tmp_path, TWO, p=p, q=q) as one:
        answers = [await one.api("add", service=101, link="https://x.y/1", quantity=100)]
        for _ in range(3):
            one.clock.forward(10**8)
            await one.gateway.orders.leftovers()
            await one.gateway.orders.dispatch()
            await one.gateway.orders.drain(5)

        assert [{"order": 1}] == answers
        assert (1, 0) == (len(p.asked("add")), len(q.asked("add")))
        assert State.UNKNOWN is (await one.order(1)).state
        assert "99.91" == await one.balance()


async def test_a_success_is_never_made_up(tmp_path: Path) -> None:
    """When all routes refuse, the customer reads so and has his money."""
    no = {"error": "Service is unavailable"}
    async with world(tmp_path, TWO, p=Panel(add=no), q=Panel(add=no)) as one:
        assert no == await one.add()
        assert "100.00" == await one.balance()


async def test_the_mark_and_the_hold_are_on_disk_before_the_first_byte(tmp_path: Path) -> None:
    """Whoever opens the file while the provider is asked finds both."""
    seen: list[tuple[State, int]] = []

    async def look(_: Form) -> dict[str, int]:
        store = await SqliteStore.open(tmp_path / "gateway.db")
        order = (await store.orders([1]))[1]
        (balance,) = (await store.balances([order.customer]))[order.customer]
        seen.append((order.state, balance.held))
        await store.close()
        return {"order": 5}

    async with world(tmp_path, p=Panel(add=look)) as one:
        await one.add()

    assert [(State.SENDING, 90_000)] == seen


async def test_a_purse_is_spent_once(tmp_path: Path) -> None:
    """Forty orders at once on a purse for three."""
    async with world(tmp_path, money="0.30") as one:
        answers = await asyncio.gather(
            *(one.add(link=f"https://x.y/{number}") for number in range(40))
        )

        assert 3 == sum("order" in answer for answer in answers)
        assert 37 == sum(answer == {"error": "Not enough funds"} for answer in answers)
        assert "0.03" == await one.balance()
        assert [] == await one.audit()


async def test_two_schedulers_send_an_order_once(tmp_path: Path) -> None:
    yaml = YAML + "orders: {unavailable: queue}\n"
    panel = Panel(add=httpx.ConnectError("refused"))
    async with (
        world(tmp_path, yaml, p=panel) as one,
        world(tmp_path, yaml, name="bob", sync=False, p=panel) as other,
    ):
        await one.add()
        panel.answers["add"] = {"order": 7}
        panel.calls.clear()
        for each in (one, other):
            each.clock.forward(10**6)
        await asyncio.gather(one.gateway.orders.dispatch(), other.gateway.orders.dispatch())
        await asyncio.gather(one.gateway.orders.drain(5), other.gateway.orders.drain(5))

        assert 1 == len(panel.asked("add"))
        assert State.PLACED is (await one.order(1)).state


@pytest.mark.parametrize("word", ["Cancelled", "canceled", "CANCELED", "Refunded", "Rejected"])
async def test_every_spelling_of_canceled_gives_the_money_back(tmp_path: Path, word: str) -> None:
    async with world(tmp_path, p=Panel(status=every(status(word)))) as one:
        await one.add()
        await one.look()

        assert "Canceled" == (await one.api("status", order=1))["status"]
        assert "100.00" == await one.balance()


@pytest.mark.parametrize(
    ("row", "balance"),
    [
        (status("Partial", remains="1500"), "100.00"),
        (status("Partial", remains="-200"), "99.91"),
        (status("Partial", remains="30"), "99.937"),
        (status("Canceled", remains="0"), "100.00"),
        (status("Paused"), "99.91"),
        (status("Something else"), "99.91"),
        ({"error": "Incorrect order ID", "status": "104"}, "99.91"),
    ],
    ids=["too much", "below zero", "a share", "canceled", "paused", "unknown word", "an error"],
)
async def test_a_refund_is_what_was_not_delivered_and_is_paid_once(
    tmp_path: Path, row: dict[str, object], balance: str
) -> None:
    """However often the same is said."""
    async with world(tmp_path, p=Panel(status=every(row))) as one:
        await one.add()
        for _ in range(3):
            await one.look()

        assert balance == await one.balance()
        assert [] == await one.audit()


async def test_the_same_number_at_two_providers_is_two_orders(tmp_path: Path) -> None:
    p = Panel(add={"order": 5}, status=every(status("Canceled")))
    q = Panel(add={"order": 5}, status=every(status("Completed")))
    yaml = TWO.replace("101: {routes: [p/1, q/1]}", "101: {routes: [p/1]}\n  102: {routes: [q/1]}")
    async with world(tmp_path, yaml, p=p, q=q) as one:
        await one.add()
        await one.add(service=102)
        await one.look("p")
        await one.look("q")

        found = await one.api("status", orders="1,2")
        assert {"1": "Canceled", "2": "Completed"} == {
            order: row["status"] for order, row in found.items()
        }
        assert "99.91" == await one.balance()


async def test_an_order_that_is_left_out_is_asked_for_singly(tmp_path: Path) -> None:
    def some(form: Form) -> dict[str, object]:
        ids = form["orders"].split(",") if "orders" in form else []
        if not ids:
            return status("Completed")
        return {one: status("Completed") for one in ids[1:]}

    async with world(tmp_path, p=Panel(status=some)) as one:
        await one.add()
        await one.add(link="https://x.y/2")
        await one.look()

        assert ["Completed", "Completed"] == [
            row["status"] for row in (await one.api("status", orders="1,2")).values()
        ]
        assert "99.82" == await one.balance()


async def test_what_would_cost_more_than_it_is_sold_for_is_not_sent(tmp_path: Path) -> None:
    yaml = YAML.replace("{routes: [p/1]}", '{routes: [p/1], rate: "1.00"}')
    async with world(tmp_path, yaml) as one:
        await one.add()
        one.panels["p"].answers[LIST] = [ROWS[0] | {"rate": "1.01"}]
        await one.gateway.sync.fetch("p")

        assert {"error": "Service is unavailable"} == await one.add(link="https://x.y/2")
        assert 1 == len(one.panels["p"].asked("add"))


@pytest.mark.parametrize(
    "answer",
    [[], [ROWS[0]], {"error": "Incorrect request"}, {"status": "success", "data": "Empty Data"}],
    ids=["empty", "short", "an error", "an object"],
)
async def test_a_list_that_cannot_be_true_changes_nothing(tmp_path: Path, answer: object) -> None:
    rows = [ROWS[0] | {"service": number} for number in range(1, 5)]
    async with world(tmp_path, p=Panel(services=rows)) as one:
        before = await one.api("services")
        one.panels["p"].answers[LIST] = answer
        with pytest.raises(CallFailed):
            await one.gateway.sync.fetch("p")

        assert before == await one.api("services")
        assert {"order": 1} == await one.add()


async def test_currencies_are_exchanged_and_nothing_is_free(tmp_path: Path) -> None:
    """A tenth of a rupee a thousand, ten of them: a millionth of a dollar at least."""
    yaml = YAML.replace("currency: USD", 'currency: USD\nexchange_rates: {INR: "0.0119"}').replace(
        "api_v2, url", "api_v2, currency: INR, url"
    )
    row = ROWS[0] | {"rate": "0.1", "min": "1"}
    async with world(tmp_path, yaml, p=Panel(services=[row])) as one:
        await one.add(quantity=10)

        assert "99.999988" == await one.balance()
        assert "0.00119" == (await one.api("services"))[0]["rate"]


@pytest.mark.parametrize(
    "answer",
    [{}, {"status": "success"}, {"order": None}, {"order": ""}, {"order": "undefined"}, [], "ok"],
    ids=str,
)
async def test_an_answer_without_an_order_is_not_knowing(tmp_path: Path, answer: object) -> None:
    async with world(tmp_path, p=Panel(add=answer)) as one:
        assert {"order": 1} == await one.add()
        order = await one.order(1)
        assert (State.UNKNOWN, "") == (order.state, order.upstream_id)


async def test_every_number_of_an_order_is_looked_at_by_itself(tmp_path: Path) -> None:
    """Minus one run of minus a thousand is no thousand."""
    async with world(tmp_path) as one:
        assert {"error": "Invalid quantity"} == await one.add(runs=-1, interval=5, quantity=-1000)
        assert [] == one.panels["p"].asked("add")


async def test_an_unknown_key_is_told_so(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        one.key = "nobody's"
        for action in ("services", "add", "status", "balance"):
            assert {"error": "Invalid API key"} == await one.api(action, order=1)


async def test_our_empty_purse_there_is_not_the_customers_matter(tmp_path: Path) -> None:
    """Another route serves him; without one he reads that the service is unavailable."""
    empty = Panel(add={"error": "Not enough funds on balance"})
    async with world(tmp_path, TWO, p=empty, q=Panel()) as one:
        assert {"order": 1} == await one.add()
        assert "q" == (await one.order(1)).provider
    async with world(tmp_path, name="bob", sync=False, p=empty) as one:
        assert {"error": "Service is unavailable"} == await one.add()


@pytest.mark.parametrize("path", ["/cron", "/api/v2/cron", "/sync", "/admin", "/metrics", "/.env"])
async def test_nothing_that_works_in_the_background_has_an_address(
    tmp_path: Path, path: str
) -> None:
    async with world(tmp_path) as one:
        assert 404 == (await one.client.get(path)).status_code
