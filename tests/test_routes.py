"""Which provider gets an order, when, and how often: once, and the next only on proof."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import httpx
import pytest

from gateway import transitions
from gateway.adapters import ADAPTERS
from gateway.errors import ErrorText, Fault, Rejected
from gateway.line import TIRED, Line
from gateway.model import Action, Call, State, Status
from gateway.money import Money, text
from test_adapters import SAID
from world import Form, Panel, World, world

HOUR = transitions.HOUR
DOWN = httpx.ConnectError("nobody there")
LOST = httpx.Response(502, content=b"<html>Bad gateway</html>")
QUEUE = "unavailable: queue"
ALONE = "[p/1]"
NARROW = "limits: {concurrency: 1}"
UNAVAILABLE = {"error": "Service is unavailable"}


def yaml(
    *,
    p: str = "",
    q: str = "",
    first: str = "[p/1, q/1]",
    orders: str = "",
    answer_within: str = "20s",
) -> str:
    """Return the owner's file: two providers, and two services of which the second is q's."""
    p, q = (f", {more}" if more else "" for more in (p, q))
    return f"""
currency: USD
providers:
  p: {{adapter: api_v2, url: "http://panel/p", key: "${{KEY}}"{p}}}
  q: {{adapter: api_v2, url: "http://panel/q", key: "${{KEY}}"{q}}}
services:
  101: {{routes: {first}}}
  102: {{routes: [q/1]}}
orders: {{answer_within: {answer_within}{", " if orders else ""}{orders}}}
"""


@asynccontextmanager
async def two(
    folder: Path, file: str, p: Panel, q: Panel | None = None, *, again: bool = False
) -> AsyncIterator[World]:
    """Open a gateway on two providers; ``again``: one more on the same database."""
    name = "bob" if again else "alice"
    async with world(folder, file, name=name, sync=not again, p=p, q=q or Panel()) as one:
        yield one
        await one.gateway.orders.drain(5)
        assert [] == await one.audit()


def link(number: int) -> str:
    return f"https://example.com/{number}"


def links(calls: Iterable[Form]) -> list[int]:
    return [int(call["link"].rpartition("/")[2]) for call in calls]


async def add(one: World, numbers: Iterable[int], **params: object) -> list[object]:
    """Order once for each of these links, all at the same time."""
    return list(await asyncio.gather(*(one.add(link=link(number), **params) for number in numbers)))


async def held(one: World) -> str:
    accounts = (await one.gateway.store.balances([one.customer.id]))[one.customer.id]
    return text(sum(account.held for account in accounts))


async def states(one: World, *orders: int) -> list[State]:
    found = await one.gateway.store.orders(orders)
    return [found[order].state for order in orders]


def line(one: World, name: str = "p") -> Line:
    return one.gateway.router.lines[name]


async def told(one: World, amount: str, name: str = "p") -> None:
    """Let the gateway see a balance at a provider."""
    one.clock.forward(1000)
    one.panels[name].answers["balance"] = {"balance": amount, "currency": "USD"}
    await one.gateway.router.balance(name)


async def dispatched(one: World) -> int:
    """Send what is queued, and wait for what becomes of it."""
    sent = await one.gateway.orders.dispatch()
    await at_rest(one)
    return sent


async def at_rest(one: World) -> None:
    """Wait until nothing is under way."""
    while one.gateway.aloft.flights:
        await asyncio.sleep(0.002)


class Hold:
    """A panel's ``add`` that gives ids when it is let, and then at once."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    async def __call__(self, form: Form) -> object:
        await self._open.wait()
        return {"order": 800 + links([form])[0]}

    def let(self) -> None:
        self._open.set()


def crash(one: World) -> None:
    """Stop everything that is under way where it stands."""
    for flight in one.gateway.aloft.flights.values():
        flight.task.cancel()


# --- a place before the mark --------------------------------------------------------------


async def test_an_order_that_waits_for_a_place_is_queued_with_nobody(tmp_path: Path) -> None:
    """Its mark is committed before it is written, as every other reader of the file can see."""
    marks: list[tuple[State, str, int]] = []
    hold = Hold()

    async def note(form: Form) -> object:
        order = await one.order(links([form])[0])
        marks.append((order.state, order.provider, order.attempt))
        return await hold(form)

    p = Panel(add=note)
    async with two(tmp_path, yaml(p=NARROW, first=ALONE, answer_within="100ms"), p) as one:
        assert [{"order": 1}, {"order": 2}] == [*await add(one, [1]), *await add(one, [2])]
        waits = await one.order(2)
        assert (State.QUEUED, "", 0) == (waits.state, waits.provider, waits.attempt)
        assert ([1], "0.18") == (links(p.asked("add")), await held(one))
        assert "Pending" == (await one.api("status", order=2))["status"]

        hold.let()
        await at_rest(one)

        assert [(State.SENDING, "p", 1)] * 2 == marks
        assert [State.PLACED] * 2 == await states(one, 1, 2)


async def test_after_a_stop_what_had_no_place_is_sent_once_and_what_had_one_is_unknown(
    tmp_path: Path,
) -> None:
    hold = Hold()
    p = Panel(add=hold)
    file = yaml(p=NARROW, first=ALONE, answer_within="100ms")
    async with two(tmp_path, file, p) as one:
        await add(one, [1])
        await add(one, [2, 3])
        crash(one)
    assert [1] == links(p.asked("add"))

    hold.let()
    async with two(tmp_path, file, p, again=True) as one:
        await dispatched(one)
        await dispatched(one)
        one.clock.forward(HOUR)
        await one.gateway.orders.leftovers()
        await dispatched(one)

        assert [1, 2, 3] == sorted(links(p.asked("add")))
        assert [State.UNKNOWN, State.PLACED, State.PLACED] == await states(one, 1, 2, 3)


async def test_a_stop_in_good_order_leaves_the_queue_as_it_is(tmp_path: Path) -> None:
    p = Panel()
    async with two(tmp_path, yaml(p=NARROW, first=ALONE, orders=QUEUE), p) as one:
        await told(one, "0.01")
        await add(one, [1, 2])
        await told(one, "100")
        place = line(one).place_now()
        assert place is not None
        assert 2 == await one.gateway.orders.dispatch()

        assert 0 == await one.gateway.orders.drain(0.1)
        place.leave()
        await asyncio.sleep(0.05)
        assert ([], [State.QUEUED] * 2) == (p.asked("add"), await states(one, 1, 2))
        assert line(one).place_now() is not None


async def test_two_processes_that_send_one_queue_send_each_order_once(tmp_path: Path) -> None:
    p = Panel()
    file = yaml(first=ALONE, orders=QUEUE, p="limits: {concurrency: 4, per_second: 1000}")
    async with (
        two(tmp_path, file, p) as one,
        two(tmp_path, file, p, again=True) as other,
    ):
        await told(one, "0.01")
        await add(one, range(1, 31))
        await told(one, "100")
        assert [] == p.asked("add")
        await asyncio.gather(*(dispatched(each) for each in (one, other, one, other)))

        assert list(range(1, 31)) == sorted(links(p.asked("add")))
        assert {State.PLACED} == set(await states(one, *range(1, 31)))


async def test_an_order_sent_by_another_process_while_it_waited_here_is_not_sent_again(
    tmp_path: Path,
) -> None:
    hold = Hold()
    p = Panel(add=lambda form: hold(form) if links([form]) == [1] else {"order": 900})
    file = yaml(p=NARROW, first=ALONE, answer_within="100ms")
    async with (
        two(tmp_path, file, p) as one,
        two(tmp_path, file, p, again=True) as other,
    ):
        await add(one, [1])
        await add(one, [2])
        assert 0 == await dispatched(other), "it is waited for where it was placed"
        one.clock.forward(101)
        other.clock.forward(101)
        assert 1 == await dispatched(other)
        hold.let()
        await at_rest(one)

        assert [1, 2] == links(p.asked("add"))
        assert [State.PLACED] * 2 == await states(one, 1, 2)


@pytest.mark.parametrize(
    ("file", "answer", "where", "attempts"),
    [
        (yaml(first=ALONE, p="timeout: 50ms"), UNAVAILABLE, "", 1),
        (yaml(first=ALONE, p="timeout: 50ms", orders=QUEUE), {"order": 1}, "", 1),
        (yaml(p="timeout: 50ms"), {"order": 1}, "q", 2),
    ],
    ids=["is refused", "is queued", "goes elsewhere"],
)
async def test_a_mark_older_than_the_providers_time_is_never_written(
    tmp_path: Path, file: str, answer: dict[str, object], where: str, attempts: int
) -> None:
    """Such as one whose commit took that long: others may think by then that nobody sends it."""
    p, q = Panel(), Panel()
    async with two(tmp_path, file, p, q) as one:
        other = apsw.Connection(str(tmp_path / "gateway.db"))
        other.execute("BEGIN IMMEDIATE")
        added = asyncio.create_task(one.add())
        await asyncio.sleep(0.3)
        other.execute("ROLLBACK")
        other.close()

        assert answer == await added
        assert ([], [where] if where else []) == (p.asked("add"), ["q"] * len(q.asked("add")))
        order = await one.order(1)
        assert attempts == order.attempt
        assert "order" in answer or "100.00" == await one.balance()


@pytest.mark.parametrize(
    ("file", "answer", "ends"),
    [
        (yaml(first=ALONE, p=f"timeout: 100ms, {NARROW}"), UNAVAILABLE, State.FAILED),
        (
            yaml(first=ALONE, p=f"timeout: 100ms, {NARROW}", answer_within="10ms"),
            {"order": 1},
            State.QUEUED,
        ),
        (
            yaml(first=ALONE, p=f"timeout: 100ms, {NARROW}", orders=QUEUE),
            {"order": 1},
            State.QUEUED,
        ),
        (yaml(p=f"timeout: 100ms, {NARROW}"), {"order": 1}, State.PLACED),
    ],
    ids=["is refused", "waits, as its customer has its id", "is queued", "goes elsewhere"],
)
async def test_an_order_that_finds_no_place_in_the_providers_time(
    tmp_path: Path, file: str, answer: object, ends: State
) -> None:
    p, q = Panel(), Panel()
    async with two(tmp_path, file, p, q) as one:
        place = line(one).place_now()
        assert place is not None

        assert answer == await one.add()
        await at_rest(one)

        assert ([], [ends]) == (p.asked("add"), await states(one, 1))
        assert (ends is State.PLACED) == bool(q.asked("add"))
        assert ("100.00" if ends is State.FAILED else "99.91") == await one.balance()
        shown = (await one.api("status", order=1))["status"]
        assert ("Canceled" if ends is State.FAILED else "Pending") == shown
        place.leave()
        one.clock.forward(20_001)
        assert (1 if ends is State.QUEUED else 0) == await dispatched(one)
        assert (1 if ends is State.QUEUED else 0) == len(p.asked("add"))


# --- one attempt, and the next only on proof ----------------------------------------------

# What a provider says, whose matter that is, and what the customer reads of it.
REFUSALS: dict[Fault | None, tuple[object, str]] = {
    Fault.CUSTOMER: ({"error": "Bad link"}, "Bad link"),
    Fault.ACCOUNT: ({"error": "Not enough funds"}, "Service is unavailable"),
    Fault.SERVICE: ({"error": "Quantity less than minimal 100"}, "Invalid quantity"),
    Fault.BUSY: ({"error": "Active order with this link exists"}, ErrorText.ACTIVE_ORDER),
    Fault.ORDER: ({"error": "Incorrect order ID"}, "Service is unavailable"),
    Fault.UNKNOWN: ({"error": "Zorg is displeased"}, "Service is unavailable"),
    None: (DOWN, "Service is unavailable"),
}
GOES_ON = {Fault.ACCOUNT, Fault.SERVICE, Fault.BUSY, None}
WAITS = GOES_ON


def test_every_fault_has_its_row_here() -> None:
    assert {*Fault, None} == REFUSALS.keys()


@pytest.mark.parametrize("policy", ["refuse", "queue"])
@pytest.mark.parametrize("other", ["no other", "another", "another that refuses"])
@pytest.mark.parametrize("fault", REFUSALS, ids=lambda fault: fault or "never heard")
async def test_what_follows_a_refusal(
    tmp_path: Path, fault: Fault | None, other: str, policy: str
) -> None:
    """What the customer reads, where the order is, whose money is held, and who was asked."""
    answer, words = REFUSALS[fault]
    p, q = Panel(add=answer), Panel()
    if other == "another that refuses":
        q.answers["add"] = {"error": "Service is unavailable"}
        words = "Service is unavailable" if fault in GOES_ON else words
    file = yaml(
        first=ALONE if other == "no other" else "[p/1, q/1]", orders=f"unavailable: {policy}"
    )
    async with two(tmp_path, file, p, q) as one:
        added = await one.add()

        goes_on = fault in GOES_ON and other != "no other"
        assert (1, int(goes_on)) == (len(p.asked("add")), len(q.asked("add")))
        order = await one.order(1)
        if goes_on and other == "another":
            assert ({"order": 1}, State.PLACED, "q", 2) == (
                added,
                order.state,
                order.provider,
                order.attempt,
            )
            assert ("99.91", "0.00") == (await one.balance(), await held(one))
        elif policy == "queue" and fault in WAITS:
            assert ({"order": 1}, State.QUEUED) == (added, order.state)
            assert ("99.91", "0.09") == (await one.balance(), await held(one))
        else:
            assert ({"error": words}, State.FAILED) == (added, order.state)
            assert ("100.00", "0.00") == (await one.balance(), await held(one))

        before = len(p.calls), len(q.calls)
        await dispatched(one)
        assert before == (len(p.calls), len(q.calls)), "nobody is asked again at once"


@pytest.mark.parametrize("policy", ["refuse", "queue"])
async def test_a_text_that_nobody_knows_lets_the_next_route_be_tried_where_the_owner_says_so(
    tmp_path: Path, policy: str
) -> None:
    """It is never sent again later: nobody knows what it means."""
    orders = f"unknown_refusals: next, unavailable: {policy}"
    p, q = Panel(add={"error": "Zorg is displeased"}), Panel()
    async with two(tmp_path, yaml(orders=orders), p, q) as one:
        assert {"order": 1} == await one.add()
        q.answers["add"] = {"error": "Zorg is displeased"}
        assert UNAVAILABLE == await one.add(link=link(2))

        assert (2, 2) == (len(p.asked("add")), len(q.asked("add")))
        assert [State.PLACED, State.FAILED] == await states(one, 1, 2)
        assert ("99.91", "0.00") == (await one.balance(), await held(one))


@pytest.mark.parametrize(
    ("blame", "answer", "goes_on"),
    [
        ("customer", {"error": "Incorrect request"}, False),
        ("account", {"order": 1}, True),
        ("service", {"order": 1}, True),
        ("busy", {"order": 1}, True),
    ],
)
async def test_the_owner_can_say_what_a_text_of_his_panel_means(
    tmp_path: Path, blame: str, answer: object, goes_on: bool
) -> None:
    """Whatever the same words mean elsewhere, and however they are written."""
    refusals = f'dialect: {{refusals: {{"displeased by link": {blame}}}}}'
    p, q = Panel(add={"error": "Zorg is DISPLEASED by_link!"}), Panel()
    async with two(tmp_path, yaml(p=refusals), p, q) as one:
        assert answer == await one.add()

        assert (1, int(goes_on)) == (len(p.asked("add")), len(q.asked("add")))


DOCUMENTED: dict[str, dict[str, tuple[Fault, ErrorText]]] = {
    "smm_panel_in": {
        "Incorrect request": (Fault.CUSTOMER, ErrorText.INCORRECT_REQUEST),
        "Invalid API key": (Fault.ACCOUNT, ErrorText.UNAVAILABLE),
        "Not enough funds": (Fault.ACCOUNT, ErrorText.UNAVAILABLE),
        "Invalid service ID": (Fault.SERVICE, ErrorText.UNAVAILABLE),
        "Invalid quantity": (Fault.SERVICE, ErrorText.INVALID_QUANTITY),
        "Service is unavailable": (Fault.SERVICE, ErrorText.UNAVAILABLE),
        "Cancel is not available": (Fault.ORDER, ErrorText.NO_CANCEL),
    },
    "instasmm": {
        "incorrect service type": (Fault.SERVICE, ErrorText.UNAVAILABLE),
        "Incorrect order ID": (Fault.ORDER, ErrorText.INCORRECT_ORDER),
    },
    "smmproxy": {"Incorrect order ID": (Fault.ORDER, ErrorText.INCORRECT_ORDER)},
    "smmai": {
        "Incorrect order ID": (Fault.ORDER, ErrorText.INCORRECT_ORDER),
        "Refill not found": (Fault.ORDER, ErrorText.REFILL_NOT_FOUND),
    },
    "smm1st": {
        "Incorrect order ID": (Fault.ORDER, ErrorText.INCORRECT_ORDER),
        "Refill not found": (Fault.ORDER, ErrorText.REFILL_NOT_FOUND),
    },
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_a_provider_says_when_it_refuses_is_classified(name: str) -> None:
    """Its own documented texts, and all that panels of its kind are known to say."""
    adapter = ADAPTERS[name]()
    call = Call(Action.STATUS, ids=("1",))
    add = Call(Action.ADD, service="1", params={"link": "x", "quantity": "1"}, size=1)
    expected = {said: (fault, told) for said, fault, told in SAID} | DOCUMENTED.get(name, {})
    found = {}
    for said in expected:
        body = b'{"error": %s}' % httpx.Response(200, json=said).content
        with pytest.raises(Rejected) as caught:
            adapter.open(call, 200, body)
        found[said] = (caught.value.fault, caught.value.text)
        with pytest.raises(Rejected) as caught:
            adapter.open(add, 200, body)
        assert caught.value.fault is not Fault.ORDER, "a new order is not one that there was"

    assert expected == found
    assert {"api_v2"} == ADAPTERS.keys() - DOCUMENTED.keys()


# --- health -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "answer", "asked_q"),
    [
        (yaml(), {"order": TIRED + 1}, 1),
        (yaml(first=ALONE), UNAVAILABLE, 0),
        (yaml(first=ALONE, orders=QUEUE), {"order": TIRED + 1}, 0),
    ],
    ids=["the next route does", "there is none", "it waits"],
)
async def test_a_provider_that_does_not_answer_gets_no_orders_until_it_has_been_read(
    tmp_path: Path, file: str, answer: object, asked_q: int
) -> None:
    p, q = Panel(add=LOST), Panel()
    async with two(tmp_path, file, p, q) as one:
        for number in range(TIRED):
            assert {"order": number + 1} == await one.add(link=link(number))
        assert {State.UNKNOWN} == set(await states(one, *range(1, TIRED + 1)))

        assert answer == await one.add(link=link(100))
        await dispatched(one)
        assert (TIRED, asked_q) == (len(p.asked("add")), len(q.asked("add")))

        p.answers["add"] = {"order": 900}
        await one.gateway.router.balance("p")
        await dispatched(one)
        await one.add(link=link(101))
        assert 101 in links(p.asked("add"))
        assert [] == [one for one in links(p.asked("add"))[TIRED:] if one < TIRED]


async def test_orders_that_waited_for_a_place_are_not_sent_to_a_provider_that_tired_meanwhile(
    tmp_path: Path,
) -> None:
    """Each of them would be one more whose outcome nobody knows."""
    p, q = Panel(add=LOST), Panel()
    pace = "limits: {concurrency: 1, per_second: 1000}"
    async with two(tmp_path, yaml(p=pace, q=pace), p, q) as one:
        await add(one, range(40))

        assert (TIRED, 40 - TIRED) == (len(p.asked("add")), len(q.asked("add")))


async def test_a_provider_that_answers_no_order_gets_few_though_it_answers_what_is_read(
    tmp_path: Path,
) -> None:
    p, q = Panel(add=LOST), Panel()
    async with two(tmp_path, yaml(), p, q) as one:
        for number in range(40):
            await add(one, [number])
            if number % 4 == 3:
                await one.gateway.router.balance("p")

        assert TIRED <= len(p.asked("add")) <= TIRED + 1, "and once more after a rest, at most"
        assert 40 == len(p.asked("add")) + len(q.asked("add"))


async def test_a_queue_is_not_sent_to_a_provider_before_it_has_answered_one_order_of_it(
    tmp_path: Path,
) -> None:
    p = Panel(add=DOWN)
    file = yaml(p="limits: {concurrency: 100, per_second: 1000}", first=ALONE, orders=QUEUE)
    async with two(tmp_path, file, p) as one:
        await add(one, range(60))
        p.answers["add"] = LOST
        p.calls.clear()
        one.clock.forward(HOUR)
        await one.gateway.router.balance("p")
        await dispatched(one)
        assert 1 == len(p.asked("add"))

        line(one).health.rest.until = 0.0
        p.answers["add"] = lambda form: {"order": 900 + links([form])[0]}
        await one.gateway.router.balance("p")
        assert [1, 58] == [await dispatched(one) for _ in range(2)]


async def test_a_next_route_that_tired_while_the_first_was_asked_is_left_out(
    tmp_path: Path,
) -> None:
    q = Panel()
    async with two(tmp_path, yaml(), Panel(), q) as one:

        def refuse(_: Form) -> object:
            line(one, "q").health.failures = TIRED
            return {"error": "Service is unavailable"}

        one.panels["p"].answers["add"] = refuse
        assert UNAVAILABLE == await one.add()

        assert [] == q.asked("add")
        assert "100.00" == await one.balance()


@pytest.mark.parametrize("routing", ["preferred", "cheapest"])
async def test_a_slow_provider_is_tried_after_the_others(tmp_path: Path, routing: str) -> None:
    p, q = Panel(), Panel()
    file = yaml().replace("[p/1, q/1]}", f"[p/1, q/1], routing: {routing}}}")
    async with two(tmp_path, file, p, q) as one:
        line(one).health.latency = 14.0
        await add(one, [1])
        q.answers["add"] = {"error": "Service is unavailable"}
        await add(one, [2])
        assert ([2], [1, 2]) == (links(p.asked("add")), links(q.asked("add")))

        line(one, "q").health.latency = 14.0
        await add(one, [3])
        assert [2, 3] == links(p.asked("add"))


# --- purse --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "answer", "asked_q"),
    [
        (yaml(), {"order": 1}, 1),
        (yaml(first=ALONE), UNAVAILABLE, 0),
        (yaml(first=ALONE, orders=QUEUE), {"order": 1}, 0),
    ],
    ids=["the next route does", "there is none", "it waits"],
)
async def test_a_purse_that_is_known_to_be_too_small_is_not_tried(
    tmp_path: Path, file: str, answer: object, asked_q: int
) -> None:
    p, q = Panel(), Panel()
    async with two(tmp_path, file, p, q) as one:
        await told(one, "0.089999")
        assert answer == await one.add()
        assert ([], asked_q) == (p.asked("add"), len(q.asked("add")))

        await told(one, "0.09")
        await dispatched(one)
        await add(one, [2])
        assert 1 == len(p.asked("add"))


@pytest.mark.parametrize("known", ["100.00", ""])
@pytest.mark.parametrize("words", ["Not enough funds", "Invalid API key"])
async def test_a_refusal_for_our_account_turns_orders_away_until_a_balance_shows_enough(
    tmp_path: Path, words: str, known: str
) -> None:
    p, q = Panel(add={"error": words}), Panel()
    async with two(tmp_path, yaml(), p, q) as one:
        if known:
            await told(one, known)
        await add(one, [1])
        await add(one, [2])
        assert ([1], [1, 2]) == (links(p.asked("add")), links(q.asked("add")))

        await told(one, "0.05")
        await add(one, [3])
        assert [1] == links(p.asked("add"))
        p.answers["add"] = {"order": 900}
        await told(one, "100.00")
        await add(one, [4])
        assert [1, 4] == links(p.asked("add"))


async def test_a_purse_counts_what_is_on_its_way(tmp_path: Path) -> None:
    """Forty at once are not sent on money that is there for three."""
    p, q = Panel(), Panel()
    wide = "limits: {concurrency: 50, per_second: 1000}"
    async with two(tmp_path, yaml(p=wide, q=wide), p, q) as one:
        await told(one, "0.30")
        await add(one, range(40))

        assert (3, 37) == (len(p.asked("add")), len(q.asked("add")))


# --- money at risk ------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["it takes them", "nobody knows"])
async def test_no_more_is_at_risk_than_the_owner_allows(tmp_path: Path, answer: str) -> None:
    p = Panel(**({"add": LOST} if answer == "nobody knows" else {}))
    file = yaml(p="max_unsettled: 0.30, limits: {concurrency: 100, per_second: 1000}", first=ALONE)
    async with two(tmp_path, file, p) as one:
        added = await add(one, range(100))
        assert (3, 97) == (len(p.asked("add")), added.count(UNAVAILABLE))
        await one.gateway.background._news()
        assert UNAVAILABLE == await one.add()
        assert 3 == len(p.asked("add"))


@pytest.mark.parametrize("limit", ["max_unsettled", "the purse"])
async def test_a_queue_that_may_be_sent_again_keeps_to_what_is_allowed(
    tmp_path: Path, limit: str
) -> None:
    """All sixty are looked at in one go, before the first of them is on its way."""
    p = Panel(add=LOST)
    more = "max_unsettled: 0.30, " if limit == "max_unsettled" else ""
    wide = f"{more}limits: {{concurrency: 100, per_second: 1000}}"
    async with two(tmp_path, yaml(p=wide, first=ALONE, orders=QUEUE), p) as one:
        await told(one, "0.01")
        await add(one, range(60))
        await told(one, "1000" if more else "0.30")

        assert 3 == await dispatched(one)
        assert 3 == len(p.asked("add"))
        assert [State.UNKNOWN] * 3 + [State.QUEUED] == await states(one, 1, 2, 3, 4)
        assert 0 == line(one).reserved
        assert 0 == await dispatched(one)


async def test_an_order_that_has_waited_is_not_sent_for_more_than_is_allowed(
    tmp_path: Path,
) -> None:
    """What its provider tells meanwhile counts, and its next route keeps to its own limit."""
    p, q = Panel(), Panel()
    async with two(tmp_path, yaml(p=NARROW, q="max_unsettled: 0.20"), p, q) as one:
        place = line(one).place_now()
        assert place is not None
        waiting = [asyncio.create_task(one.add(link=link(number))) for number in range(5)]
        while len(one.gateway.aloft.flights) < 5:
            await asyncio.sleep(0.01)
        line(one).saw_purse(Money.of("0.01", "USD"), one.clock.at + 1)
        place.leave()
        answers = await asyncio.gather(*waiting)

        assert 3 == answers.count(UNAVAILABLE)
        assert ([], 2) == (p.asked("add"), len(q.asked("add")))


async def test_an_answer_that_is_being_written_down_is_at_risk(tmp_path: Path) -> None:
    """The store is asked in the moment between an answer and its commit."""
    other = apsw.Connection(str(tmp_path / "gateway.db"))

    def take(_: Form) -> object:
        other.execute("BEGIN IMMEDIATE")
        return {"order": 1}

    p = Panel(add=take)
    async with two(tmp_path, yaml(p="max_unsettled: 0.10", first=ALONE), p) as one:
        first = asyncio.create_task(one.add())
        while not p.asked("add") or line(one).reserved:
            await asyncio.sleep(0.001)
        await one.gateway.background._news()
        why = line(one).why_not(90_000)
        other.execute("ROLLBACK")
        other.close()

        assert "max_unsettled" in why
        assert {"order": 1} == await first


async def test_what_is_settled_is_at_risk_no_longer(tmp_path: Path) -> None:
    row = {"charge": "0.09", "start_count": "1", "status": "Completed", "remains": "0"}
    p = Panel(status=lambda form: dict.fromkeys(form["orders"].split(","), row))
    async with two(tmp_path, yaml(p="max_unsettled: 0.30", first=ALONE), p) as one:
        await add(one, range(3))
        await one.look()
        await one.gateway.sync.fetch("p")
        assert UNAVAILABLE == await one.add(), "this process has not heard of it yet"
        await one.gateway.background._news()

        assert 3 == [*await add(one, range(4))].count(UNAVAILABLE) + 2
        assert 6 == len(p.asked("add"))


async def test_an_order_that_was_refused_is_not_at_risk(tmp_path: Path) -> None:
    p = Panel(add={"error": "Bad link"})
    async with two(tmp_path, yaml(p="max_unsettled: 0.10", first=ALONE), p) as one:
        assert [{"error": "Bad link"}] * 5 == [(await add(one, [n]))[0] for n in range(5)]


async def test_an_order_under_way_is_at_risk_once(tmp_path: Path) -> None:
    """Though this process knows it, and the store does too."""
    hold = Hold()
    p = Panel(add=hold)
    file = yaml(p="max_unsettled: 0.20", first=ALONE, answer_within="50ms")
    async with two(tmp_path, file, p) as one:
        assert [{"order": 1}] == await add(one, [1])
        await one.gateway.background._news()
        assert [{"order": 2}] == await add(one, [2])
        await one.gateway.background._news()
        assert [UNAVAILABLE] == await add(one, [3])
        hold.let()
        await at_rest(one)
        assert [UNAVAILABLE] == await add(one, [3])
        await one.gateway.background._news()
        assert [UNAVAILABLE] == await add(one, [3])


async def test_a_process_that_begins_counts_what_is_at_risk_already(tmp_path: Path) -> None:
    p = Panel()
    file = yaml(p="max_unsettled: 0.20", first=ALONE)
    async with two(tmp_path, file, p) as one:
        await add(one, [1, 2])
    async with two(tmp_path, file, p, again=True) as one:
        await one.gateway.background._news()

        assert [UNAVAILABLE] == await add(one, [3])


# --- the queue ----------------------------------------------------------------------------


async def queued(one: World, numbers: Iterable[int], **params: object) -> None:
    """Let orders be queued, since p has no money of ours; then it has."""
    await told(one, "0.01")
    await add(one, numbers, **params)
    await told(one, "1000")


async def test_a_queue_is_sent_in_its_order(tmp_path: Path) -> None:
    p = Panel()
    async with two(tmp_path, yaml(p=NARROW, first=ALONE, orders=QUEUE), p) as one:
        await told(one, "0.01")
        for number in range(9, 0, -1):
            await add(one, [number])
        await told(one, "1000")
        assert 9 == await dispatched(one)

        assert list(range(9, 0, -1)) == links(p.asked("add"))
        assert {State.PLACED} == set(await states(one, *range(1, 10)))
        assert 0 == await dispatched(one)


async def test_a_long_queue_keeps_its_order_when_the_provider_is_slower_than_it_waits(
    tmp_path: Path,
) -> None:
    """What found no place in its time does not go behind those who came after it."""

    async def take(form: Form) -> object:
        await asyncio.sleep(0.015)
        return {"order": 1000 + links([form])[0]}

    p = Panel(add=take)
    limits = "timeout: 2s, limits: {concurrency: 1, per_second: 10000}"
    async with two(tmp_path, yaml(p=limits, first=ALONE, orders=QUEUE), p) as one:
        await told(one, "0.01")
        for number in range(300):
            await add(one, [number])
        await told(one, "1000")
        for _ in range(1000):
            await one.gateway.orders.dispatch()
            await asyncio.sleep(0.02)
            if len(p.asked("add")) == 300:
                break
        await at_rest(one)

        assert list(range(300)) == links(p.asked("add"))


async def test_who_has_waited_too_long_is_canceled_and_has_his_money_back(tmp_path: Path) -> None:
    p = Panel()
    orders = f"{QUEUE}, queue_for: 1h"
    async with two(tmp_path, yaml(first=ALONE, orders=orders), p) as one:
        await queued(one, [1])
        one.clock.forward(HOUR // 2)
        await queued(one, [2])
        await told(one, "0.01")
        one.clock.forward(HOUR // 2 - 10_000)
        await dispatched(one)
        assert ("99.82", [State.QUEUED] * 2) == (await one.balance(), await states(one, 1, 2))
        one.clock.forward(20_000)
        await told(one, "1000")
        assert 1 == await dispatched(one)

        assert [2] == links(p.asked("add"))
        assert {
            "charge": "0.00",
            "start_count": "0",
            "status": "Canceled",
            "remains": "100",
            "currency": "USD",
        } == await one.api("status", order=1)
        assert ("99.91", "0.00") == (await one.balance(), await held(one))


@pytest.mark.parametrize("seen_by", ["whoever looks through the queue", "itself at its turn"])
async def test_who_has_waited_too_long_for_his_place_is_not_sent(
    tmp_path: Path, seen_by: str
) -> None:
    p = Panel()
    orders = f"{QUEUE}, queue_for: 1h"
    async with two(tmp_path, yaml(p=NARROW, first=ALONE, orders=orders), p) as one:
        await queued(one, [1])
        place = line(one).place_now()
        assert place is not None
        assert 1 == await one.gateway.orders.dispatch()
        one.clock.forward(HOUR + 1000)
        if seen_by == "whoever looks through the queue":
            await one.gateway.orders.dispatch()
            assert ([State.FAILED], "100.00") == (await states(one, 1), await one.balance())
        place.leave()
        await at_rest(one)

        assert [] == p.asked("add")
        assert "Canceled" == (await one.api("status", order=1))["status"]
        assert ("100.00", 0) == (await one.balance(), line(one).reserved)


async def test_a_queue_that_stands_still_does_not_hold_up_another(tmp_path: Path) -> None:
    """However long it is."""
    p, q = Panel(), Panel()
    file = yaml(first=ALONE, orders=QUEUE)
    async with two(tmp_path, file, p, q) as one:
        await told(one, "0.01")
        await told(one, "0.01", "q")
        for start in range(0, 520, 20):
            await add(one, range(start, start + 20))
        await add(one, [1000, 1001], service=102)
        assert 0 == await dispatched(one)
        await told(one, "1000", "q")
        assert 2 == await dispatched(one)

        assert ([], [1000, 1001]) == (p.asked("add"), sorted(links(q.asked("add"))))


async def test_a_queue_that_waits_for_places_does_not_hold_up_another(tmp_path: Path) -> None:
    p, q = Panel(), Panel()
    async with two(tmp_path, yaml(p=NARROW, first=ALONE, orders=QUEUE), p, q) as one:
        await told(one, "0.01")
        await told(one, "0.01", "q")
        for start in range(0, 260, 20):
            await add(one, range(start, start + 20))
        await add(one, [1000], service=102)
        await told(one, "1000")
        await told(one, "1000", "q")
        place = line(one).place_now()
        assert place is not None
        for _ in range(5):
            await one.gateway.orders.dispatch()
            await asyncio.sleep(0.05)

        assert ([], [1000]) == (p.asked("add"), links(q.asked("add")))
        place.leave()


async def test_a_queue_longer_than_a_page_is_sent_to_its_end(tmp_path: Path) -> None:
    p = Panel()
    limits = "limits: {concurrency: 100, per_second: 10000}"
    async with two(tmp_path, yaml(p=limits, first=ALONE, orders=QUEUE), p) as one:
        await told(one, "0.01")
        for start in range(0, 520, 20):
            await add(one, range(start, start + 20))
        await told(one, "1000")
        while await dispatched(one):
            pass

        assert list(range(520)) == sorted(links(p.asked("add")))


async def test_a_customer_can_cancel_what_is_queued(tmp_path: Path) -> None:
    p = Panel()
    async with two(tmp_path, yaml(first=ALONE, orders=QUEUE), p) as one:
        await queued(one, [1])
        assert [{"order": 1, "cancel": 1}] == await one.api("cancel", orders="1")
        assert ("Canceled", "100.00") == (
            (await one.api("status", order=1))["status"],
            await one.balance(),
        )
        assert 0 == await dispatched(one)
        assert [{"order": 1, "cancel": {"error": "Cancel is not available"}}] == await one.api(
            "cancel", orders="1"
        )
        assert [] == p.asked("add") + p.asked("cancel")


async def test_an_order_that_is_canceled_while_it_waits_for_its_place_is_not_sent(
    tmp_path: Path,
) -> None:
    p = Panel()
    async with two(tmp_path, yaml(p=NARROW, first=ALONE, answer_within="50ms"), p) as one:
        place = line(one).place_now()
        assert place is not None
        assert {"order": 1} == await one.add()
        assert [{"order": 1, "cancel": 1}] == await one.api("cancel", orders="1")
        place.leave()
        await at_rest(one)

        assert ([], "100.00") == (p.asked("add"), await one.balance())
        assert Status.CANCELED is (await one.order(1)).status
        assert line(one).place_now() is not None


async def test_an_order_that_is_tried_again_by_hand_waits_as_if_it_were_new(
    tmp_path: Path,
) -> None:
    p = Panel()
    async with two(tmp_path, yaml(first=ALONE, orders=f"{QUEUE}, queue_for: 1h"), p) as one:
        await queued(one, [1])
        one.clock.forward(2 * HOUR)
        await dispatched(one)
        assert [State.FAILED] == await states(one, 1)
        one.clock.forward(24 * HOUR)
        await one.gateway.sync.fetch("p")
        await one.gateway.shop.refresh()
        await one.step(1, transitions.retried(one.clock.at))
        one.clock.forward(HOUR // 2)
        assert ("99.91", 1) == (await one.balance(), await dispatched(one))

        assert ([1], [State.PLACED]) == (links(p.asked("add")), await states(one, 1))


async def test_an_order_that_is_not_in_the_database_any_more_is_sent_no_further(
    tmp_path: Path,
) -> None:
    """Such as after a copy of yesterday was put in its place."""
    hold = Hold()
    p, q = Panel(add=hold), Panel()
    async with two(tmp_path, yaml(), p, q) as one:
        order = asyncio.create_task(one.add(link=link(1)))
        while not p.asked("add"):
            await asyncio.sleep(0.01)
        other = apsw.Connection(str(tmp_path / "gateway.db"))
        other.execute("CREATE TABLE kept AS SELECT * FROM orders")
        other.execute("DELETE FROM orders")
        hold.let()
        assert {"order": 1} == await asyncio.wait_for(order, 5)
        other.execute("INSERT INTO orders SELECT * FROM kept")
        other.close()

        assert ([], 0) == (q.asked("add"), line(one).reserved)


async def test_a_queued_order_is_tried_less_often_the_oftener_it_was_refused(
    tmp_path: Path,
) -> None:
    p = Panel(add={"error": "Active order with this link exists"})
    async with two(tmp_path, yaml(first=ALONE, orders=QUEUE), p) as one:
        await add(one, [1])
        times = []
        for second in range(120):
            if await dispatched(one):
                times.append(second)
            one.clock.forward(1000)

        assert [2, 6, 14, 30, 62] == times
        assert "99.91" == await one.balance()
