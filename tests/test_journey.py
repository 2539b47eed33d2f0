"""The journey of an order: what `add` promises, and what follows."""

import asyncio
from pathlib import Path

import httpx
import pytest

import build
from gateway import orders, transitions
from gateway.adapters import ApiV2
from gateway.model import Call, State, Status
from world import ROWS, YAML, Panel, world

TWO = """
currency: USD
markup: 100%
providers:
  p: {adapter: api_v2, url: "http://panel/p", key: "${KEY}"}
  q: {adapter: api_v2, url: "http://panel/q", key: "${KEY}"}
services:
  101: {routes: [p/1, q/1]}
"""
UNCLEAR = [
    httpx.ReadTimeout("hangs"),
    httpx.RemoteProtocolError("closed"),
    httpx.ReadError("reset"),
    httpx.WriteError("broken pipe"),
    httpx.Response(502, content=b"<html>Bad gateway</html>"),
    httpx.Response(500, content=b'{"error":"Not enough funds"}'),
    httpx.Response(503, content=b'{"order":17}'),
    httpx.Response(200, content=b"<html>Checking your browser</html>"),
    httpx.Response(200, content=b""),
    httpx.Response(200, content=b"null"),
    httpx.Response(200, content=b"{}"),
    httpx.Response(200, content=b"[]"),
    httpx.Response(200, content=b'{"status":"success"}'),
    httpx.Response(200, content=b'{"order":null}'),
    httpx.Response(200, content=b'{"order":0}'),
    httpx.Response(200, content=b'{"order":-1}'),
    httpx.Response(200, content=b'{"order":17'),
    httpx.Response(301, headers={"location": "/api/v2/"}),
]


async def test_an_order_is_held_captured_and_followed_to_its_end(tmp_path: Path) -> None:
    row = {
        "charge": "0.09",
        "start_count": "3572",
        "status": "In progress",
        "remains": "40",
        "currency": "USD",
    }
    async with world(tmp_path, p=Panel(status=lambda _: row)) as one:
        added = await one.add()

        assert {"order": 1} == added
        assert "99.91" == await one.balance()
        assert {
            "charge": "0.09",
            "start_count": "0",
            "status": "Pending",
            "remains": "100",
            "currency": "USD",
        } == await one.api("status", order=1)

        await one.look()

        assert row == await one.api("status", order=1)
        assert [] == await one.audit()


@pytest.mark.parametrize("answer", UNCLEAR, ids=range(len(UNCLEAR)))
async def test_an_unclear_answer_keeps_the_hold_and_is_never_sent_again(
    tmp_path: Path, answer: httpx.Response | Exception
) -> None:
    """Not even to the second route, however often the background comes by."""
    p, q = Panel(add=answer), Panel()
    async with world(tmp_path, TWO, p=p, q=q) as one:
        assert {"order": 1} == await one.add()
        assert State.UNKNOWN is (await one.order(1)).state

        one.clock.forward(10 * orders.GRACE)
        await one.gateway.orders.dispatch()
        await one.gateway.orders.leftovers()
        await one.look("p")

        assert (1, 0) == (len(p.asked("add")), len(q.asked("add")))
        assert "99.82" == await one.balance()
        assert "Pending" == (await one.api("status", order=1))["status"]
        assert [] == await one.audit()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Bad link", "Bad link"),
        ("Not enough funds", "Service is unavailable"),
        ("Invalid API key", "Service is unavailable"),
        ("Invalid service ID", "Service is unavailable"),
        ("Quantity less than minimal 100", "Invalid quantity"),
        ("You have active order with this link. Please wait until order being completed.",) * 2,
        ("Provider #7 says: secret-id 991 at evil.example", "Service is unavailable"),
    ],
)
async def test_a_refusal_returns_the_money_before_it_is_told_in_our_words(
    tmp_path: Path, text: str, told: str
) -> None:
    async with world(tmp_path, p=Panel(add={"error": text})) as one:
        added = await one.add()

        assert {"error": told} == added
        assert "100.00" == await one.balance()
        assert [] == await one.audit()


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "Not enough funds"},
        {"error": "Service is unavailable"},
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("nobody there"),
    ],
    ids=repr,
)
async def test_the_next_route_serves_when_the_first_provably_did_not_take_it(
    tmp_path: Path, answer: object
) -> None:
    p, q = Panel(add=answer), Panel()
    async with world(tmp_path, TWO, p=p, q=q) as one:
        assert {"order": 1} == await one.add()

        order = await one.order(1)
        assert ("q", "23501", 2) == (order.provider, order.upstream_id, order.attempt)
        assert "99.82" == await one.balance()
        assert [] == await one.audit()


async def test_the_customers_own_mistake_tries_no_other_route(tmp_path: Path) -> None:
    p, q = Panel(add={"error": "Bad link"}), Panel()
    async with world(tmp_path, TWO, p=p, q=q) as one:
        assert {"error": "Bad link"} == await one.add()
        assert [] == q.asked("add")


async def test_an_unknown_text_is_a_refusal_that_tries_no_other_route(tmp_path: Path) -> None:
    p, q = Panel(add={"error": "Zorg is displeased"}), Panel()
    async with world(tmp_path, TWO, p=p, q=q) as one:
        assert {"error": "Service is unavailable"} == await one.add()
        assert [] == q.asked("add")


FAST = TWO + "orders: {answer_within: 200ms}\n"


async def test_a_hanging_provider_gets_its_customer_an_id_in_time(tmp_path: Path) -> None:
    """And what the provider says later still counts."""
    answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    p = Panel(add=lambda _: _wait(answer))
    async with world(tmp_path, FAST, p=p, q=Panel()) as one:
        assert {"order": 1} == await one.add()
        assert State.SENDING is (await one.order(1)).state
        assert "Pending" == (await one.api("status", order=1))["status"]

        answer.set_result({"order": 777})
        await one.gateway.orders.drain(5)

        assert "777" == (await one.order(1)).upstream_id
        assert [] == await one.audit()


async def test_a_refusal_that_comes_after_the_id_shows_as_canceled(tmp_path: Path) -> None:
    answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    async with world(tmp_path, FAST, p=Panel(add=lambda _: _wait(answer)), q=Panel()) as one:
        assert {"order": 1} == await one.add()

        answer.set_result({"error": "Bad link"})
        await one.gateway.orders.drain(5)

        assert {
            "charge": "0.00",
            "start_count": "0",
            "status": "Canceled",
            "remains": "100",
            "currency": "USD",
        } == await one.api("status", order=1)
        assert "100.00" == await one.balance()


async def _wait(answer: "asyncio.Future[object]") -> object:
    return await answer


class Broken(ApiV2):
    """An adapter with a bug."""

    def read_add(self, _call: Call, answer: object) -> str:
        raise KeyError(str(answer))


async def test_a_bug_after_the_call_is_an_unknown_outcome_and_no_error(tmp_path: Path) -> None:
    """Whoever is told of an error orders again; the provider may have the first one."""
    async with world(tmp_path) as one:
        one.gateway.router.lines["p"].adapter = Broken()
        assert {"order": 1} == await one.add()
        assert State.UNKNOWN is (await one.order(1)).state
        assert [] == await one.audit()


async def test_nothing_is_sent_before_the_hold_is_durable(tmp_path: Path) -> None:
    """What the provider is asked, another reader of the file already sees as held."""
    seen: list[tuple[State, str]] = []

    async def look(_: object) -> dict[str, int]:
        order = await one.order(1)
        seen.append((order.state, await one.balance()))
        return {"order": 5}

    async with world(tmp_path, p=Panel(add=look)) as one:
        await one.add()

    assert [(State.SENDING, "99.91")] == seen


async def test_the_same_report_twice_moves_nothing_and_late_changes_end_right(
    tmp_path: Path,
) -> None:
    row = {"charge": "0.09", "start_count": "1", "remains": "0", "currency": "USD"}
    said = ["Completed", "Completed", "Partial", "Partial", "Cancelled", "REFUNDED", "completed"]
    charges = ["99.91", "99.91", "99.937", "99.937", "100.00", "100.00", "99.91"]
    panel = Panel()
    async with world(tmp_path, p=panel) as one:
        await one.add()
        balances = []
        for word in said:
            remains = "30" if word == "Partial" else "0"
            panel.answers["status"] = row | {"status": word, "remains": remains}
            await one.look()
            balances.append(await one.balance())
            assert [] == await one.audit()

    assert charges == balances


async def test_canceled_answers_the_whole_size_as_remains(tmp_path: Path) -> None:
    row = {"charge": "0", "start_count": "1", "status": "Canceled", "remains": "0"}
    async with world(tmp_path, p=Panel(status=row)) as one:
        await one.add()
        await one.look()
        shown = await one.api("status", order=1)

    assert ("Canceled", "100", "0.00") == (shown["status"], shown["remains"], shown["charge"])


@pytest.mark.parametrize(
    "row",
    [
        {"error": "Incorrect order ID", "status": "104"},
        {"error": "Incorrect order ID"},
        {"status": "Quantum", "charge": "0", "remains": "0"},
        {"status": "Active", "charge": "0.09", "remains": "0"},
        {"status": "Partial", "charge": "0.09"},
        {"status": "Partial", "charge": "0.09", "remains": "some"},
        {},
        [],
        {"1": {"status": "Completed"}},
    ],
    ids=repr,
)
async def test_a_row_that_says_nothing_certain_changes_nothing(tmp_path: Path, row: object) -> None:
    async with world(tmp_path, p=Panel(status=row)) as one:
        await one.add()
        before = await one.order(1)
        await one.look()
        after = await one.order(1)

        assert (before.version, Status.PENDING) == (after.version, after.status)
        assert "99.91" == await one.balance()


async def test_an_id_that_was_left_out_is_asked_for_singly(tmp_path: Path) -> None:
    row = {"status": "Completed", "charge": "0.09", "remains": "0", "start_count": "1"}
    panel = Panel(status=lambda form: row if "order" in form else {"23501": row})
    async with world(tmp_path, p=panel) as one:
        await one.add()
        await one.add(link="https://example.com/b")
        await one.look()

        assert [{"orders": "23501,23502"}, {"order": "23502"}] == [
            {name: call[name] for name in ("order", "orders") if name in call}
            for call in panel.asked("status")
        ]
        assert Status.COMPLETED is (await one.order(2)).status


async def test_a_second_order_under_an_id_that_was_given_is_kept_as_unknown(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, p=Panel(add={"order": 7})) as one:
        await one.add()
        assert {"order": 2} == await one.add(link="https://example.com/b")

        assert State.UNKNOWN is (await one.order(2)).state
        assert [] == await one.audit()


async def test_forty_orders_at_once_never_overdraw(tmp_path: Path) -> None:
    panel = Panel()
    async with world(tmp_path, money="0.30", p=panel) as one:
        added = await asyncio.gather(
            *(one.add(link=f"https://example.com/{number}") for number in range(40))
        )

        placed = [answer for answer in added if "order" in answer]
        assert (3, 37) == (len(placed), added.count({"error": "Not enough funds"}))
        assert 3 == len(panel.asked("add"))
        assert "0.03" == await one.balance()
        assert [] == await one.audit()


# --- idempotency ------------------------------------------------------------------------


async def test_eight_repeats_at_the_same_instant_are_one_order(tmp_path: Path) -> None:
    panel = Panel()
    async with world(tmp_path, p=panel) as one:
        added = await asyncio.gather(*(one.add(idempotency_key="k") for _ in range(8)))

        assert [{"order": 1}] * 8 == added
        assert 1 == len(panel.asked("add"))
        assert "99.91" == await one.balance()


async def test_a_reused_key_with_other_parameters_is_an_error(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        await one.add(idempotency_key="k")

        assert {"error": "This idempotency key was used for another order"} == await one.add(
            idempotency_key="k", quantity=101
        )


async def test_an_order_that_was_refused_frees_its_key(tmp_path: Path) -> None:
    answers = iter([{"error": "Bad link"}, {"order": 9}])
    async with world(tmp_path, p=Panel(add=lambda _: next(answers))) as one:
        assert {"error": "Bad link"} == await one.add(idempotency_key="k")
        assert {"order": 2} == await one.add(idempotency_key="k")
        assert {"order": 2} == await one.add(idempotency_key="k")


async def test_a_repeat_waits_for_the_first_and_hears_the_same_refusal(tmp_path: Path) -> None:
    answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    panel = Panel(add=lambda _: _wait(answer))
    async with world(tmp_path, p=panel) as one:
        both = [asyncio.create_task(one.add(idempotency_key="k")) for _ in range(2)]
        while not panel.asked("add"):
            await asyncio.sleep(0.01)
        answer.set_result({"error": "Bad link"})

        assert [{"error": "Bad link"}] * 2 == await asyncio.gather(*both)
        assert 1 == len(panel.asked("add"))


async def test_an_idempotency_key_survives_a_restart(tmp_path: Path) -> None:
    panel = Panel()
    async with world(tmp_path, p=panel) as one:
        key = one.key
        await one.add(idempotency_key="k")
    async with world(tmp_path, name="bob", p=panel, sync=False) as one:
        one.key = key
        assert {"order": 1} == await one.add(idempotency_key="k")
        assert 1 == len(panel.asked("add"))


@pytest.mark.parametrize(
    ("policy", "second"),
    [
        ("allow", {"order": 2}),
        ("same", {"order": 1}),
        ("reject", {"error": "An identical order was just placed"}),
    ],
)
async def test_identical_orders_within_the_window(
    tmp_path: Path, policy: str, second: dict[str, object]
) -> None:
    async with world(tmp_path, YAML + f"orders: {{duplicates: {policy}}}\n") as one:
        await one.add()

        assert second == await one.add()
        assert second.keys() == (await one.add(quantity="0100")).keys()
        assert "order" in await one.add(quantity=101)
        one.clock.forward(61_000)
        assert "order" in await one.add()


# --- queue, settle, retry ---------------------------------------------------------------


async def test_a_queued_order_is_sent_when_a_route_is_back(tmp_path: Path) -> None:
    answers = iter([httpx.ConnectError("down"), {"order": 5}])
    panel = Panel(add=lambda _: next(answers))
    async with world(tmp_path, YAML + "orders: {unavailable: queue}\n", p=panel) as one:
        assert {"order": 1} == await one.add()
        assert State.QUEUED is (await one.order(1)).state
        assert "99.91" == await one.balance()

        one.clock.forward(transitions.HOUR)
        assert 1 == await one.gateway.orders.dispatch()
        await one.gateway.orders.drain(5)

        assert State.PLACED is (await one.order(1)).state
        assert [] == await one.audit()


@pytest.mark.parametrize(
    ("upstream_id", "state", "balance"),
    [("4711", State.PLACED, "99.91"), (None, State.FAILED, "100.00")],
)
async def test_the_owner_settles_an_unknown_order(
    tmp_path: Path, upstream_id: str | None, state: State, balance: str
) -> None:
    async with world(tmp_path, p=Panel(add=httpx.ReadTimeout("hangs"))) as one:
        await one.add()
        await one.step(1, transitions.settled(upstream_id, one.clock(), build.FOLLOWING))

        assert state is (await one.order(1)).state
        assert balance == await one.balance()
        assert [] == await one.audit()


async def test_a_failed_order_can_be_tried_again(tmp_path: Path) -> None:
    answers = iter([{"error": "Service is unavailable"}, {"order": 5}])
    async with world(tmp_path, p=Panel(add=lambda _: next(answers))) as one:
        await one.add()
        await one.step(1, transitions.retried(one.clock()))
        assert "99.91" == await one.balance()
        one.clock.forward(transitions.HOUR)
        await one.gateway.orders.dispatch()
        await one.gateway.orders.drain(5)

        assert State.PLACED is (await one.order(1)).state
        assert [] == await one.audit()


async def test_an_order_left_over_by_a_crash_becomes_unknown(tmp_path: Path) -> None:
    """Nothing is sent at start-up, and nothing is released on a guess."""
    never: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    panel = Panel(add=lambda _: _wait(never))
    async with world(tmp_path, FAST, p=panel, q=Panel()) as one:
        await one.add()
        [flight] = one.gateway.aloft.flights.values()  # the crash
        flight.task.cancel()
        await asyncio.sleep(0)
    async with world(tmp_path, FAST, name="bob", p=panel, q=Panel(), sync=False) as one:
        assert 0 == await one.gateway.orders.leftovers()
        one.clock.forward(10 * orders.GRACE)
        assert 1 == await one.gateway.orders.leftovers()

        assert State.UNKNOWN is (await one.order(1)).state
        assert 1 == len(panel.asked("add"))
        assert [] == await one.audit()


async def test_a_route_that_would_lose_money_is_not_used(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"rate": "1.90"}]
    p, q = Panel(services=rows), Panel()
    yaml = TWO.replace("101: {routes: [p/1, q/1]}", "101: {routes: [p/1, q/1], rate: '1.00'}")
    async with world(tmp_path, yaml, p=p, q=q) as one:
        await one.add()

        assert ([], 1) == (p.asked("add"), len(q.asked("add")))


async def test_a_service_whose_every_route_loses_money_is_unavailable(tmp_path: Path) -> None:
    yaml = TWO.replace("[p/1, q/1]}", "[p/1, q/1], rate: '0.10'}")
    async with world(tmp_path, yaml, p=Panel(), q=Panel()) as one:
        assert {"error": "Service is unavailable"} == await one.add()
        assert "100.00" == await one.balance()


async def test_the_cheapest_route_is_first_when_the_owner_says_so(tmp_path: Path) -> None:
    p, q = Panel(services=[ROWS[0] | {"rate": "0.95"}]), Panel()
    yaml = TWO.replace("[p/1, q/1]}", "[p/1, q/1], routing: cheapest}")
    async with world(tmp_path, yaml, p=p, q=q) as one:
        await one.add()

        assert ([], 1) == (p.asked("add"), len(q.asked("add")))
