"""What a key can do: how often it may ask, from where, and for how much money a day."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from redis.asyncio import Redis
from starlette.applications import Starlette
from structlog.testing import capture_logs

import redistmp
from gateway import transitions
from gateway.cache import open_cache
from gateway.cache_redis import LONGEST
from gateway.config import RequestLimits
from gateway.endpoint import Endpoint
from gateway.limits import BURST, REMEMBERED, WORTH_TELLING, Limits, welcome
from gateway.model import Customer
from world import YAML, Panel, World, world

TOO_MANY = (429, {"error": "Too many requests"})
HOUR = transitions.HOUR
AWAY = "203.0.113.7"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.at = 5000.0

    def __call__(self) -> float:
        return self.at


def limits(clock: Clock | None = None, **fields: object) -> Limits:
    return Limits(RequestLimits.model_validate(fields), clock or Clock())


def someone(**fields: Any) -> Customer:
    return Customer(id=1, name="ann", **fields)


def forwarded(text: str) -> Mapping[bytes, bytes]:
    return {b"x-forwarded-for": text.encode()}


async def ask(
    one: World, door: Limits, peer: str = AWAY, said: str = "", key: str = "", **params: str
) -> httpx.Response:
    """Ask the endpoint from an address."""
    gateway = one.gateway
    parts = (
        gateway.auth,
        gateway.shop,
        gateway.listing,
        gateway.orders,
        gateway.aftersales,
        gateway.store,
    )
    endpoint = Endpoint(*parts, Starlette(), limits=door)
    transport = httpx.ASGITransport(endpoint, client=(peer, 5))
    form = {"key": key or one.key, "action": "balance", **params}
    headers = {"x-forwarded-for": said} if said else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.post("/api/v2", data=form, headers=headers)


async def limit(one: World, **fields: Any) -> None:
    """Set the customer's own limits, as a command does in another process."""
    customer = msgspec.structs.replace(one.customer, **fields)
    await one.gateway.store.set_customer(one.customer, customer)
    one.gateway.auth.forget()
    one.customer = customer


# --- how often ----------------------------------------------------------------------------


async def test_a_key_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    """By then it may."""
    clock = Clock()
    async with world(tmp_path) as one:
        door = limits(clock, per_key="1")
        for _ in range(10):
            assert 200 == (await ask(one, door)).status_code
        clock.at += 0.25
        answer = await ask(one, door)

        assert TOO_MANY == (answer.status_code, answer.json())
        assert "1" == answer.headers["retry-after"]
        clock.at += int(answer.headers["retry-after"])
        assert 200 == (await ask(one, door)).status_code
        assert 429 == (await ask(one, door)).status_code


async def test_what_is_refused_does_nothing(tmp_path: Path) -> None:
    panel = Panel()
    async with world(tmp_path, p=panel) as one:
        door = limits(per_key="1")
        order = {"action": "add", "service": "101", "link": "https://x.com/a", "quantity": "100"}
        answers = [await ask(one, door, **order) for _ in range(15)]

        assert [200] * 10 + [429] * 5 == [answer.status_code for answer in answers]
        assert ("99.10", 10) == (await one.balance(), len(panel.asked("add")))


async def test_an_address_that_asks_too_often_is_refused_whatever_its_keys(tmp_path: Path) -> None:
    """And others are not."""
    async with world(tmp_path) as one:
        door = limits(per_address="1")
        for number in range(10):
            answer = await ask(one, door, key=f"guess-{number}")
            assert {"error": "Invalid API key"} == answer.json()

        answer = await ask(one, door)
        assert TOO_MANY == (answer.status_code, answer.json())
        assert 200 == (await ask(one, door, "203.0.113.8")).status_code


async def test_keys_do_not_share_their_limit(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        door = limits(per_key="1")
        for _ in range(11):
            answer = await ask(one, door)
        assert 429 == answer.status_code
        other = await one.customer_with("1", "bob")

        assert 200 == (await ask(one, door, key=other)).status_code


def test_what_is_usual_is_generous() -> None:
    """An old panel asks for the status of each order singly, dozens in a second, all day long."""
    clock = Clock()
    door = Limits(clock=clock)
    waits = []
    for _ in range(50 * 3600):
        clock.at += 1 / 50
        waits.append(door.address_waits(AWAY) + door.customer_waits(someone()))

    assert {0.0} == set(waits)


def test_a_burst_is_let_through_and_then_the_pace_holds() -> None:
    clock = Clock()
    door = limits(clock, per_key="20")
    once = [door.customer_waits(someone()) for _ in range(500)].count(0)
    assert 20 * BURST - 1 <= once <= 20 * BURST

    let = 0
    for _ in range(100 * 60):
        clock.at += 1 / 100
        let += door.customer_waits(someone()) == 0
    assert 60 * 20 - 1 <= let <= 60 * 20 + 1


def test_what_is_refused_is_not_held_against_anybody() -> None:
    clock = Clock()
    door = limits(clock, per_key="1")
    waits = [door.customer_waits(someone()) for _ in range(1000)]

    assert 1.0 == max(waits)
    clock.at += 1
    assert 0.0 == door.customer_waits(someone())


def test_a_customer_may_have_a_limit_of_his_own() -> None:
    door = limits(per_key="5")
    few, many = someone(per_second=1), Customer(id=2, name="bob", per_second=50)
    let = [[door.customer_waits(who) for _ in range(1000)].count(0) for who in (few, many)]

    assert int(BURST) == let[0]
    assert 50 * BURST - 1 <= let[1] <= 50 * BURST


def test_this_machine_itself_is_the_owners() -> None:
    door = limits(per_address="1")
    for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert {0.0} == {door.address_waits(address) for _ in range(100)}


def test_an_address_is_the_same_however_it_is_written() -> None:
    """A socket for both families writes an old address as a new one."""
    door = limits(per_address="1")
    let = [
        door.address_waits(address)
        for _ in range(10)
        for address in (AWAY, f"::ffff:{AWAY}", "::FFFF:cb00:7107")
    ]

    assert int(BURST) == let.count(0)


def test_a_network_that_one_subscriber_has_counts_as_one_address() -> None:
    """Whoever has one address of six has 2**64 of them."""
    door = limits(per_address="1")
    let = [door.address_waits(f"2001:db8:7:7::{number:x}") for number in range(1, 100)]

    assert int(BURST) == let.count(0)
    assert 0.0 == door.address_waits("2001:db8:7:8::1")


def test_callers_who_are_quiet_are_forgotten_and_the_busy_are_not() -> None:
    """Somebody with many addresses does not fill the memory."""
    clock = Clock()
    door = limits(clock, per_address="1")
    for _ in range(20):
        door.address_waits(AWAY)
    let = 0
    for number in range(REMEMBERED + 20_000):
        clock.at += 1e-4
        door.address_waits(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        if number % 1000 == 0:
            let += door.address_waits(AWAY) == 0

    assert REMEMBERED >= len(door._paid_until)
    assert let <= 8, "in seven seconds, as many"


# --- whose address ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "said", "who"),
    [
        (AWAY, "198.51.100.9", AWAY),
        ("127.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("::1", "2001:db8::9", "2001:db8::9"),
        ("::ffff:127.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("127.0.0.1", "1.1.1.1, 198.51.100.9", "198.51.100.9"),
        ("127.0.0.1", "127.0.0.1, 198.51.100.9", "198.51.100.9"),
        ("127.0.0.1", "1.1.1.1, 198.51.100.9, 127.0.0.5", "198.51.100.9"),
        ("127.0.0.1", "127.0.0.9", "127.0.0.9"),
        ("10.1.2.3", "198.51.100.9", "10.1.2.3"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", " , ", "127.0.0.1"),
        ("", "198.51.100.9", ""),
    ],
)
def test_only_a_proxy_of_ours_says_for_whom_it_asks(peer: str, said: str, who: str) -> None:
    """And of a chain only what our own have added counts, from the right."""
    assert who == limits().caller(peer, forwarded(said))


def test_the_owner_names_his_proxies() -> None:
    door = limits(trusted_proxies=["10.0.0.0/8", "2001:db8:5::/48"])

    assert ["198.51.100.9", "198.51.100.9", "127.0.0.1"] == [
        door.caller(peer, forwarded("198.51.100.9"))
        for peer in ("10.1.2.3", "2001:db8:5::1", "127.0.0.1")
    ]
    assert AWAY == door.caller(AWAY, {})


async def test_a_forged_header_gains_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        door = limits(per_address="1")
        for number in range(10):
            await ask(one, door, said=f"198.51.100.{number}")

        assert 429 == (await ask(one, door, said="198.51.100.200")).status_code
        await limit(one, addresses=("198.51.100.9/32",))
        answer = await ask(one, limits(), said="198.51.100.9")
        assert {"error": "Invalid API key"} == answer.json()


async def test_behind_a_proxy_of_ours_each_address_is_its_own(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        door = limits(per_address="1")
        for _ in range(11):
            answer = await ask(one, door, "127.0.0.1", AWAY)
        assert 429 == answer.status_code
        assert 200 == (await ask(one, door, "127.0.0.1", "203.0.113.8")).status_code

        await limit(one, addresses=(AWAY,))
        answers = [await ask(one, limits(), "127.0.0.1", said) for said in (AWAY, "203.0.113.8")]
        assert ["balance", "error"] == [next(iter(answer.json())) for answer in answers]


# --- from where ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "address", "let"),
    [
        ((), AWAY, True),
        ((), "", True),
        (("203.0.113.7/32",), AWAY, True),
        (("203.0.113.7/32",), "203.0.113.8", False),
        (("203.0.113.7/32",), f"::ffff:{AWAY}", True),
        (("203.0.113.7/32",), "::ffff:203.0.113.8", False),
        (("10.0.0.0/8", "203.0.113.0/24"), AWAY, True),
        (("2001:db8::/32",), "2001:db8:1::5", True),
        (("2001:db8::/32",), "2001:db9::5", False),
        (("2001:db8::/32",), AWAY, False),
        (("0.0.0.0/0",), "2001:db8::5", False),
        (("203.0.113.7/32",), "", False),
        (("203.0.113.7/32",), "unknown", False),
        (("203.0.113.7/32",), "203.0.113.7, 1.1.1.1", False),
    ],
)
def test_a_key_works_from_the_addresses_that_it_was_given(
    allowed: tuple[str, ...], address: str, let: bool
) -> None:
    assert let is welcome(someone(addresses=allowed), address)


async def test_a_key_used_from_elsewhere_is_no_key(tmp_path: Path) -> None:
    """Whoever stole it does not learn that it is one."""
    async with world(tmp_path) as one:
        await limit(one, addresses=("203.0.113.7/32", "2001:db8::/32"))
        answers = {
            peer: (await ask(one, limits(), peer)).json()
            for peer in (AWAY, "2001:db8::1", "203.0.113.8")
        }

        found = {"balance": "100.00", "currency": "USD"}
        assert {
            AWAY: found,
            "2001:db8::1": found,
            "203.0.113.8": {"error": "Invalid API key"},
        } == answers
        wrong = await ask(one, limits(), AWAY, key="wrong")
        assert wrong.content == (await ask(one, limits(), "203.0.113.8")).content


async def test_a_key_used_from_elsewhere_is_logged_with_its_request(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        await limit(one, addresses=("203.0.113.7/32",))
        for _ in range(2):  # first the key is not known yet
            structlog.contextvars.clear_contextvars()
            await ask(one, limits(), "203.0.113.8")

            assert {"request_id", "customer"} == structlog.contextvars.get_contextvars().keys()


async def test_a_stranger_does_not_use_up_what_a_key_may_ask(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        await limit(one, addresses=(AWAY,))
        door = limits(per_key="1")
        for _ in range(30):
            await ask(one, door, "203.0.113.8")

        assert 200 == (await ask(one, door)).status_code


# --- for how much -------------------------------------------------------------------------


NO_FUNDS = {"error": "Not enough funds"}


async def test_a_daily_cap_is_exact_however_many_orders_arrive_at_once(tmp_path: Path) -> None:
    panel = Panel()
    async with world(tmp_path, p=panel) as one:
        await limit(one, daily_cap=320_000)
        added = await asyncio.gather(
            *(one.add(link=f"https://example.com/{number}") for number in range(40))
        )

        assert (3, 37) == (len(panel.asked("add")), added.count(NO_FUNDS))
        assert "99.73" == await one.balance()
        assert [] == await one.audit()
        assert "order" in await one.add(quantity=50), "what is left of it"


async def test_a_cap_that_is_just_reached_is_kept(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        await limit(one, daily_cap=90_000)

        assert {"order": 1} == await one.add()
        assert NO_FUNDS == await one.add(quantity=50)


async def test_a_cap_that_is_set_in_the_middle_of_a_day_is_for_the_whole_day(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as one:
        await one.add()
        await limit(one, daily_cap=180_000)

        assert {"order": 2} == await one.add()
        assert NO_FUNDS == await one.add()


async def test_a_cap_that_refuses_orders_is_told_once_a_day(tmp_path: Path) -> None:
    """Not once for each request, and not where it is the funds that do not suffice."""
    async with world(tmp_path, money="1") as one:
        await limit(one, daily_cap=90_000)
        with capture_logs() as logs:
            await one.add(quantity=10_000)
            await asyncio.gather(*(one.add() for _ in range(5)))
            one.clock.forward(24 * HOUR)
            await one.gateway.sync.fetch("p")
            await asyncio.gather(*(one.add() for _ in range(5)))
        told = [entry for entry in logs if entry["event"] == "a daily cap refuses orders"]

        assert [(1, "0.09")] * 2 == [(one["customer"], one["cap"]) for one in told]


async def test_what_fails_is_given_back_to_the_day(tmp_path: Path) -> None:
    answers: list[object] = [{"error": "Bad link"}] * 5
    panel = Panel(add=lambda _: answers.pop() if answers else {"order": 9})
    async with world(tmp_path, p=panel) as one:
        await limit(one, daily_cap=100_000)
        for _ in range(5):
            assert {"error": "Bad link"} == await one.add()

        assert "order" in await one.add()
        assert NO_FUNDS == await one.add()


async def test_what_was_given_back_once_is_not_given_back_again(tmp_path: Path) -> None:
    """The owner tries the failed order again, and it fails again."""
    panel = Panel()
    async with world(tmp_path, p=panel) as one:
        await limit(one, daily_cap=180_000)
        await one.add()
        panel.answers["add"] = {"error": "Bad link"}
        await one.add(link="https://example.com/b")
        for _ in range(3):
            await one.step(2, transitions.retried(one.clock.at))
            one.clock.forward(HOUR)
            await one.gateway.orders.dispatch()
            await one.gateway.orders.drain(5)
        panel.answers["add"] = {"order": 99}

        assert "order" in await one.add(link="https://example.com/c")
        assert NO_FUNDS == await one.add(link="https://example.com/d")


async def test_the_next_day_begins_anew(tmp_path: Path) -> None:
    """At midnight UTC."""
    day = 24 * HOUR
    async with world(tmp_path) as one:
        await limit(one, daily_cap=90_000)
        one.clock.forward(day - one.clock.at % day)
        await one.add()
        one.clock.forward(day - 1)
        await one.gateway.sync.fetch("p")  # of an older catalog nothing is sold
        assert NO_FUNDS == await one.add()
        one.clock.forward(1)

        assert {"order": 3} == await one.add() or await one.add()
        assert NO_FUNDS == await one.add()


async def test_a_customer_without_a_cap_spends_what_he_has(tmp_path: Path) -> None:
    async with world(tmp_path, money="0.27") as one:
        added = [await one.add(link=f"https://example.com/{number}") for number in range(4)]

        assert [False, False, False, True] == [answer == NO_FUNDS for answer in added]


async def test_a_cap_holds_over_two_processes(tmp_path: Path) -> None:
    panel = Panel()
    async with (
        world(tmp_path, p=panel) as one,
        world(tmp_path, name="bob", p=panel, sync=False) as other,
    ):
        await limit(one, daily_cap=450_000)
        other.key = one.key
        other.gateway.auth.forget()
        added = await asyncio.gather(
            *(
                each.add(link=f"https://example.com/{number}")
                for number in range(20)
                for each in (one, other)
            )
        )

        assert (5, 35) == (len(panel.asked("add")), added.count(NO_FUNDS))


async def test_a_repeat_of_an_order_is_not_counted_twice(tmp_path: Path) -> None:
    async with world(tmp_path, YAML + "orders: {duplicates: same}\n") as one:
        await limit(one, daily_cap=100_000)

        assert [{"order": 1}] * 3 == [await one.add() for _ in range(3)]


# --- in several processes -----------------------------------------------------------------


PACE = 128
"""Requests a second that the customer of these tests may make; binary, so that sums are exact."""
FULL = int(PACE * BURST)
SOME = FULL // 4
"""So many that no slow moment of this machine gives them back."""


class Process:
    """The limits in one process of an installation."""

    def __init__(self, url: str, installation: str, clock: Callable[[], float]) -> None:
        self.door = Limits(RequestLimits.model_validate({"per_key": PACE}), clock)
        self.cache = open_cache(url, installation)

    def lets_in(self, requests: int) -> int:
        """Ask so often at once; returns how many requests were let in."""
        return [self.door.customer_waits(someone()) for _ in range(requests)].count(0)

    async def exchange(self) -> None:
        await self.door.exchange(self.cache)


@pytest.fixture(scope="module")
def shared() -> Iterator[str]:
    with redistmp.redis() as url:
        yield url


@contextlib.asynccontextmanager
async def processes(
    *urls: str, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[list[Process]]:
    """Have a process of one installation for each of these URLs."""
    installation = secrets.token_hex(4)
    found = [Process(url, installation, clock) for url in urls]
    try:
        yield found
    finally:
        for one in found:
            await one.cache.aclose()


async def test_what_a_key_has_used_up_in_one_process_it_has_in_the_others(shared: str) -> None:
    async with processes(shared, shared, clock=Clock()) as (one, other):
        assert FULL == one.lets_in(FULL + 100)
        await one.exchange()
        first = other.lets_in(SOME)
        await other.exchange()

        assert (SOME, 0) == (first, other.lets_in(SOME)), "until it has heard of the others"


async def test_together_processes_let_in_the_pace_of_one(shared: str) -> None:
    """And beyond it no more than each lets in before it has heard of the others."""
    every = 0.1
    async with processes(shared, shared, shared) as all_:
        for each in all_:
            each.lets_in(FULL if each is all_[0] else 1)
            await each.exchange()
        began, let, rounds = time.monotonic(), 0, 0
        while (passed := time.monotonic() - began) < 2:
            let += sum(each.lets_in(20) for each in all_)
            await asyncio.sleep(0.005)
            if passed > rounds * every:
                rounds += 1
                await asyncio.gather(*(each.exchange() for each in all_))

        assert passed / 2 <= let / PACE <= passed + len(all_) * 2 * every


async def test_who_is_below_the_pace_everywhere_and_above_it_together_uses_up_his_burst(
    shared: str,
) -> None:
    async with processes(shared, shared, shared) as all_:
        for each in all_:
            await each.exchange()
        began = seen = time.monotonic()
        for turn in range(18):
            await asyncio.sleep(0.08)
            passed, seen = time.monotonic() - seen, time.monotonic()
            for each in all_:
                assert each.lets_in(int(0.6 * passed * PACE))
            await all_[turn % len(all_)].exchange()
        ahead = all_[-1].door._paid_until[1] - seen

        assert ahead >= (seen - began) * (3 * 0.6 - 1) / 2


async def test_a_redis_that_is_emptied_learns_again_what_every_process_knows(shared: str) -> None:
    async with processes(shared, shared, clock=Clock()) as (one, other):
        one.lets_in(FULL)
        await one.exchange()
        async with contextlib.aclosing(Redis.from_url(shared)) as client:
            await client.flushall()
        one.door._paid[1] = 1.0  # somebody was let in once more
        await one.exchange()
        other.lets_in(SOME)
        await other.exchange()

        assert 0 == other.lets_in(1)


async def test_nobody_is_held_up_for_longer_than_a_minute(shared: str) -> None:
    """Nor by a clock of Redis that was set back."""
    async with processes(*[shared] * 10, clock=Clock()) as all_:
        for each in all_:
            assert FULL == each.lets_in(FULL)
            await each.exchange()
        waits = all_[-1].door.customer_waits(someone())

        assert LONGEST - BURST - 1 <= waits <= LONGEST - BURST + 1


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1:1"], ids=["no Redis", "Redis gone"])
async def test_without_redis_each_process_counts_for_itself(url: str) -> None:
    async with processes(url, url, clock=Clock()) as both:
        for _ in range(2):
            let = [each.lets_in(FULL) for each in both]
            for each in both:
                await each.exchange()

        assert [0, 0] == let
        assert {1: 0.0} != both[0].door._paid


async def test_what_is_exchanged_of_a_caller_goes_away_by_itself(shared: str) -> None:
    """An address is nobody's to keep; and whoever asks next to nothing is not mentioned."""
    async with (
        processes(shared) as (one,),
        contextlib.aclosing(Redis.from_url(shared, decode_responses=True)) as client,
    ):
        await client.flushall()
        one.lets_in(1 + int(PACE * WORTH_TELLING))
        for _ in range(20):
            one.door.address_waits(AWAY)
        one.door.address_waits("203.0.113.8")
        await one.exchange()
        left = {key: await client.pttl(key) for key in await client.keys()}

        names = {str(key).partition("}/")[2] for key in left}
        assert {"limits/customer/1", f"limits/address/{AWAY}"} == names
        assert all(0 < one <= 3000 for one in left.values()), left


async def test_what_was_let_in_during_an_exchange_counts_too(shared: str) -> None:
    async with processes(shared, shared, clock=Clock()) as (one, other):
        other.lets_in(2 * SOME)
        await other.exchange()
        one.lets_in(SOME)
        under_way = asyncio.create_task(one.exchange())
        await asyncio.sleep(0)
        let = one.lets_in(2 * SOME)
        await under_way

        assert (2 * SOME, 0) == (let, one.lets_in(1))


async def test_who_keeps_the_pace_is_not_slowed_down_by_an_exchange(shared: str) -> None:
    """However long it has been since the last one."""
    clock = Clock()
    async with processes(shared, clock=clock) as (one,):
        for _ in range(60 * PACE):
            clock.at += 1 / PACE
            assert 1 == one.lets_in(1)
        await one.exchange()

        assert FULL - 1 <= one.lets_in(2 * FULL)
