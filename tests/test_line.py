"""The line to one provider: when it gets orders, when it rests, and what is known of our purse."""

import asyncio
import contextlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.config import Provider
from gateway.errors import CallFailed, Indeterminate, Rejected, Unreachable
from gateway.line import LONGEST, LONGEST_REST, REST, TIRED
from gateway.model import Action, Call
from gateway.money import Money
from gateway.router import Router
from gateway.upstream import Upstream
from virtual import VirtualLoop

LOOPS = {"virtual": VirtualLoop}

ADD = Call(Action.ADD, service="1", params={"link": "x", "quantity": "1"}, size=1)
BALANCE = Call(Action.BALANCE)
HUNG = httpx.ReadTimeout("hangs")


class Far:
    """A provider at the end of a line, its answers told by a list or for ever."""

    def __init__(self, **fields: Any) -> None:
        self.asked: list[str] = []
        self.answer: object = {"order": 7}
        self.takes = 0.0
        self.slept = 0
        url, key = "http://far/api/v2", "secret"
        provider = Provider.model_validate(
            {"adapter": "api_v2", "url": url, "key": key, "timeout": "10s", **fields}
        )
        loop = asyncio.get_running_loop()
        self.router = Router(
            {"far": provider},
            Upstream(httpx.MockTransport(self._carry)),
            lambda: 1_000 + round(loop.time() * 1000) + self.slept,
        )
        self.line = self.router.lines["far"]

    async def _carry(self, request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl((await request.aread()).decode()))
        self.asked.append(form["action"])
        await asyncio.sleep(self.takes)
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, httpx.Response):
            return self.answer
        return httpx.Response(200, content=msgspec.json.encode(self.answer))

    async def add(self) -> str:
        return await self.line.call(ADD, self.line.adapter.read_add)

    async def fail(self, times: int = 1) -> None:
        self.answer = HUNG
        for _ in range(times):
            with pytest.raises(CallFailed):
                await self.add()

    async def look(self) -> float:
        """Let it be looked at in vain when it is time for that; returns the seconds until then."""
        waited = await until(self.line.look_now)
        self.answer = HUNG
        with pytest.raises(CallFailed):
            await self.router.look("far")
        return waited

    async def rested(self) -> None:
        """Let time pass while it is read, until it may get an order again."""
        while self.line.resting:
            await self.balance("100")

    async def balance(self, amount: str) -> None:
        await asyncio.sleep(1)  # two balances of one moment cannot be told apart
        self.answer = {"balance": amount, "currency": "USD"}
        await self.router.balance("far")


async def until(seen: Callable[[], bool]) -> float:
    """Return how many seconds pass until something is to be seen."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not seen():
        assert loop.time() < began + 10_000
        await asyncio.sleep(0.5)
    return loop.time() - began


# --- rest ---------------------------------------------------------------------------------


async def test_it_rests_when_it_has_not_answered_so_often_in_a_row() -> None:
    far = Far()
    await far.fail(TIRED - 1)
    assert "" == far.line.why_not(1)
    await far.fail()

    assert far.line.resting
    assert "it does not answer" in far.line.why_not(1)


@pytest.mark.parametrize(
    "answer", [{"order": 7}, {"error": "Bad link"}, {"error": "Not enough funds"}], ids=repr
)
async def test_any_answer_begins_the_count_anew(answer: object) -> None:
    """A refusal is an answer too."""
    far = Far()
    for _ in range(3):
        await far.fail(TIRED - 1)
        far.answer = answer
        with contextlib.suppress(Rejected):
            await far.add()
        assert (0, "") == (far.line.health.failures, far.line.health.trouble)

    assert not far.line.resting


@pytest.mark.parametrize(
    "answer",
    [HUNG, httpx.ConnectError("down"), httpx.Response(502), httpx.Response(200, content=b"<html>")],
    ids=repr,
)
async def test_what_nobody_can_read_is_no_answer(answer: object) -> None:
    far = Far()
    far.answer = answer
    for _ in range(TIRED):
        with pytest.raises((Indeterminate, Unreachable)):
            await far.add()

    assert far.line.resting


async def test_a_resting_provider_is_looked_at_later_each_time() -> None:
    far = Far()
    await far.fail(TIRED)
    assert not far.line.look_now()
    waits = [await far.look() for _ in range(10)]

    assert [REST * 2**n for n in range(6)] == waits[:6]
    assert LONGEST_REST == max(waits) == waits[-1]


async def test_a_look_that_is_answered_brings_it_back() -> None:
    """And once it has answered an order, too, the next rest is the shortest again."""
    far = Far()
    for _ in range(2):
        await far.fail(TIRED)
        assert [REST, 2 * REST] == [await far.look() for _ in range(2)]
        await far.balance("5")

        assert "" == far.line.why_not(1)
        assert not far.line.look_now()
        far.answer = {"order": 7}
        await far.add()
    assert {"add", "balance"} == set(far.asked)


async def test_it_rests_when_it_answers_no_order_though_it_answers_whatever_is_read() -> None:
    far = Far()
    for _ in range(TIRED):
        assert not far.line.resting
        await far.fail()
        await far.balance("100")

    assert (True, False) == (far.line.resting, far.line.silent)
    assert not far.line.look_now(), "it is read all the time"


async def test_each_order_in_vain_after_a_rest_makes_the_next_rest_longer() -> None:
    """Whatever is read meanwhile; so a provider that takes none loses us few."""
    far = Far()
    loop = asyncio.get_running_loop()
    for _ in range(TIRED):
        await far.fail()
        await far.balance("100")
    rests = []
    for _ in range(9):
        began = loop.time()
        await far.rested()
        rests.append(loop.time() - began)
        await far.fail()

    longer = [max(REST * 2**n - 1, 0) for n in range(6)]
    assert all(low <= rest <= low + 2 for low, rest in zip(longer, rests[:6], strict=True))
    assert all(LONGEST_REST - 1 <= rest <= LONGEST_REST + 2 for rest in rests[-3:])


async def test_after_a_rest_it_gets_one_order_before_it_gets_the_others() -> None:
    far = Far()
    await far.fail(TIRED)
    await until(far.line.look_now)
    await far.balance("100")
    first = far.line.admit(1)
    with pytest.raises(Unreachable):
        far.line.admit(1)
    first.reckon(2)
    first.end(unused=True)
    far.line.admit(1)
    with pytest.raises(Unreachable):
        far.line.admit(1)
    far.answer = {"error": "Bad link"}
    with pytest.raises(Rejected):
        await far.add()

    assert {1} == {far.line.admit(1).cost for _ in range(3)}


async def test_a_provider_in_order_is_not_looked_at() -> None:
    far = Far()
    await far.add()
    await asyncio.sleep(1000)

    assert not far.line.look_now()


async def test_calls_that_were_under_way_when_it_tired_do_not_put_off_the_next_look() -> None:
    far = Far(limits={"concurrency": "100"})
    far.answer = HUNG
    calls = []
    for far.takes in (0.9, 3.9):
        calls += [asyncio.create_task(far.add()) for _ in range(TIRED)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    await until(lambda: far.line.resting)
    assert REST == await until(far.line.look_now)
    await asyncio.gather(*calls, return_exceptions=True)


# --- slow ---------------------------------------------------------------------------------


async def test_it_is_slow_when_answers_take_more_than_half_of_its_time() -> None:
    far = Far()
    far.takes = 4.0
    await far.add()
    assert not far.line.slow
    far.takes = 9.0
    for _ in range(5):
        await far.add()
    slow = far.line.slow
    far.takes = 0.1
    for _ in range(5):
        await far.add()

    assert (True, False) == (slow, far.line.slow)


async def test_it_is_slow_when_its_calls_time_out() -> None:
    """And no less so for calls of which is known at once that nobody is there."""
    far = Far()
    await far.add()
    far.takes = 9.9
    await far.fail(3)
    assert far.line.slow
    far.takes = 0.0
    await far.fail(3)

    assert far.line.slow


async def test_a_long_list_does_not_make_it_slow() -> None:
    far = Far()
    far.takes = 9.0
    far.answer = []
    await far.router.services("far")

    assert not far.line.slow


# --- purse --------------------------------------------------------------------------------


async def test_a_purse_that_nobody_has_seen_turns_nothing_away() -> None:
    assert "" == Far().line.why_not(10**12)


async def test_a_purse_that_is_known_to_be_too_small_turns_away_what_it_does_not_cover() -> None:
    far = Far()
    await far.balance("1.00")

    assert ("", "our balance there is too small") == (
        far.line.why_not(1_000_000),
        far.line.why_not(1_000_001),
    )


async def test_a_purse_counts_what_is_on_its_way() -> None:
    far = Far()
    await far.balance("1.00")
    order = far.line.admit(600_000)
    assert ("", "our balance there is too small") == (
        far.line.why_not(400_000),
        far.line.why_not(400_001),
    )

    await far.balance("1.00")
    assert far.line.why_not(400_001), "a balance does not show what is still on its way"
    order.end()
    assert "" == far.line.why_not(1_000_000)
    order = far.line.admit(600_000)
    order.end(taken=True)
    assert ("", 400_000) == (far.line.why_not(400_000), far.line.purse)


async def test_an_order_that_is_admitted_can_cost_more_if_that_is_there_too() -> None:
    far = Far()
    await far.balance("1.00")
    order = far.line.admit(600_000)
    order.reckon(1_000_000)
    with pytest.raises(Unreachable):
        order.reckon(1_000_001)

    assert 1_000_000 == far.line.reserved == order.cost


async def test_an_older_balance_does_not_replace_a_newer_one() -> None:
    far = Far()
    far.line.saw_purse(Money(5, "USD"), 20)
    far.line.saw_purse(Money(9, "USD"), 10)

    assert 5 == far.line.purse


async def test_a_balance_in_another_currency_says_nothing_of_costs() -> None:
    far = Far()
    with capture_logs() as logs:
        for at in (20, 30, 40):
            far.line.saw_purse(Money(5, "INR"), at)

    assert far.line.purse is None
    assert [("far", "INR", "USD")] == [
        (one["provider"], one["said"], one["declared"]) for one in logs
    ]


@pytest.mark.parametrize("known", ["100.00", None])
async def test_after_a_refusal_for_funds_only_a_balance_that_covers_it_counts(
    known: str | None,
) -> None:
    far = Far()
    if known:
        await far.balance(known)
    far.line.short_of(90_000, "no funds")
    assert far.line.why_not(90_000)
    await far.balance("0.08")
    assert far.line.why_not(90_000)

    await far.balance("0.09")
    assert "" == far.line.why_not(90_000)


async def test_a_balance_that_was_told_before_a_refusal_for_funds_does_not_undo_it() -> None:
    """Another process may have seen it then, and we hear of it only now."""
    far = Far()
    await asyncio.sleep(1)
    far.line.short_of(90_000, "no funds")
    far.line.saw_purse(Money.of("100", "USD"), 1_500)

    assert far.line.why_not(90_000)


async def test_after_a_refusal_for_funds_the_balance_is_looked_at_soon_and_then_later() -> None:
    far = Far()
    far.line.short_of(90_000, "no funds")
    waits = [await until(far.line.look_now) for _ in range(4)]
    assert [REST, 2 * REST, 4 * REST, 8 * REST] == waits

    await far.balance("100")
    await asyncio.sleep(1000)
    assert not far.line.look_now()


async def test_a_refusal_for_our_account_is_told_once_with_the_providers_words() -> None:
    """And once more where it comes again after a balance."""
    far = Far()
    with capture_logs() as logs:
        for _ in range(3):
            far.line.short_of(90_000, "Invalid API key")
        why = far.line.why_not(90_000)
        await asyncio.sleep(1)
        await far.balance("100")
        far.line.short_of(90_000, "no funds")

    assert "it refused our account (Invalid API key), and no balance was seen since" == why
    assert ["Invalid API key", "no funds"] == [one["reason"] for one in logs]


async def test_a_refusal_for_our_account_is_forgotten_where_no_balance_can_tell() -> None:
    """After a while an order finds out."""
    far = Far()
    far.line.short_of(90_000, "no funds")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: not far.line.look_now() and not far.line.why_not(90_000))

    assert LONGEST_REST <= loop.time() - began <= 3 * LONGEST_REST


# --- max_unsettled ------------------------------------------------------------------------


async def test_what_is_not_settled_has_a_limit() -> None:
    far = Far(max_unsettled=Decimal("0.30"))
    line = far.line
    line.unsettled = 100_000
    order = line.admit(100_000)
    assert "" == line.why_not(100_000)
    assert "max_unsettled" in line.why_not(100_001)
    with pytest.raises(Unreachable):
        line.admit(100_001)

    order.end(taken=True)
    assert "max_unsettled" in line.why_not(100_001)
    line.admit(100_000).end()
    assert "" == line.why_not(100_000)


# --- places -------------------------------------------------------------------------------


async def test_no_more_calls_are_under_way_than_allowed() -> None:
    far = Far(limits={"concurrency": "3"})
    far.takes = 1.0
    most: list[int] = []
    calls = [asyncio.create_task(far.add()) for _ in range(9)]
    while not all(call.done() for call in calls):
        most.append(far.line.health.in_flight)
        await asyncio.sleep(0.1)

    assert 3 == max(most)
    assert 9 == len(far.asked)


async def test_who_waits_longer_than_the_providers_time_is_with_nobody() -> None:
    """And leaves no place behind."""
    far = Far(limits={"concurrency": "1"})
    place = far.line.place_now()
    assert place is not None
    for _ in range(3):
        with pytest.raises(Unreachable):
            await far.add()
    assert ([], 0) == (far.asked, far.line.health.failures)

    place.leave()
    place.leave()
    assert far.line.place_now() is not None
    assert far.line.place_now() is None, "a place is left once, however often that is said"


@pytest.mark.parametrize(
    "answer", [{"order": 1}, {"error": "no"}, HUNG, httpx.Response(500)], ids=repr
)
async def test_a_call_leaves_its_place_whatever_comes_of_it(answer: object) -> None:
    far = Far(limits={"concurrency": "1"})
    far.answer = answer
    for _ in range(3):
        place = far.line.place_now()
        assert place is not None
        await asyncio.gather(
            far.line.call(ADD, far.line.adapter.read_add, place=place), return_exceptions=True
        )

    assert 3 == len(far.asked)


async def test_a_call_that_is_canceled_leaves_its_place() -> None:
    far = Far(limits={"concurrency": "1"})
    far.takes = 5.0
    call = asyncio.create_task(far.add())
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    assert (0, True) == (far.line.health.in_flight, far.line.place_now() is not None)


async def test_what_is_too_late_is_not_written() -> None:
    far = Far()
    for waits in (10, 10.001):
        place = far.line.place_now()
        await asyncio.sleep(waits)
        with contextlib.suppress(Unreachable):
            await far.line.call(ADD, far.line.adapter.read_add, place=place)

    assert ["add"] == far.asked


async def test_what_is_too_late_by_the_wall_clock_is_not_written() -> None:
    """While a whole machine sleeps, the event loop's clock stands still."""
    far = Far()
    place = far.line.place_now()
    far.slept = 10_001
    with pytest.raises(Unreachable):
        await far.line.call(ADD, far.line.adapter.read_add, place=place)

    assert ([], 0) == (far.asked, far.line.health.failures)


async def test_a_line_has_the_owners_pace() -> None:
    far = Far(limits={"concurrency": "100", "per_second": "2"})
    loop = asyncio.get_running_loop()
    times = []

    async def enter() -> None:
        await far.line.place()
        times.append(round(loop.time()))

    await asyncio.gather(*(enter() for _ in range(6)))

    assert [0, 0, 1, 1, 2, 2] == times


# --- how long an answer may be ------------------------------------------------------------


async def test_an_answer_that_is_no_list_may_not_be_long() -> None:
    far = Far()
    far.answer = {"order": 7, "said": "x" * LONGEST}

    with pytest.raises(Indeterminate, match="more than"):
        await far.add()
