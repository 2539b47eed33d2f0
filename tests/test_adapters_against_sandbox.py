"""The adapters and the practice panels, both written from the documentation, put to each other.

Everything goes as on a real day: an adapter writes a call, a panel answers bytes, the adapter
reads them. What is expected is taken from behind the panel's counter.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest

from gateway import sandbox
from gateway.adapters import ADAPTERS, ApiV2
from gateway.errors import ErrorText, Fault, Indeterminate, Rejected, Unsupported
from gateway.model import Action, Call, RefillStatus, Refusal, Report, Status
from gateway.money import Money, whole_millionths
from gateway.order_types import SUBSCRIPTIONS, find

MINUTE = 60.0
SOLD = [(panel, row.id) for panel in sandbox.PANELS for row in sandbox.CATALOGS[panel]]
ACTIONS = [
    (panel, action)
    for panel in sandbox.PANELS
    for action in sorted(ADAPTERS[panel.replace("-", "_").replace(".", "_")].actions)
]
PARAMS = {
    "link": "https://example.com/p/one?a=1&b=2+3",
    "quantity": "100",
    "comments": "Great post!\nLove this & that\n100 % + ünïcode 🎉",
    "usernames": "ann\nbob",
    "username": "ann",
    "hashtags": "#one\n#two",
    "hashtag": "#one",
    "media": "https://example.com/p/two",
    "answer_number": "2",
    "groups": "one\ntwo",
    "keywords": "shoes\nred shoes",
    "country": "DE",
    "device": "5",
    "type_of_traffic": "3",
    "min": "10",
    "max": "20",
    "delay": "30",
}
SIZES = {
    "Package": 1,
    "Custom Comments": 3,
    "Custom Comments Package": 1,
    "Mentions Custom List": 2,
    "Comment Replies": 3,
}


class Trade:
    """An adapter that calls a panel, and a look behind the panel's counter."""

    def __init__(self, panel: str, adapter: ApiV2 | None = None) -> None:
        self.panel = panel
        self.adapter = adapter or ADAPTERS[panel.replace("-", "_").replace(".", "_")]()
        self.key = sandbox.key(panel)
        self.now = 0.0
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(sandbox.create(clock=lambda: self.now)),
            base_url="http://sandbox",
        )

    async def ask(self, action: Action, *ids: str, **more: Any) -> Any:
        call = Call(action, ids=ids, **more)
        form = self.adapter.write(call)
        response = await self.client.post(f"/{self.panel}/api/v2", data={"key": self.key, **form})
        value = self.adapter.open(call, response.status_code, response.content)
        return getattr(self.adapter, f"read_{action}")(call, value)

    async def add(self, service: int = 1, **params: str) -> str:
        row = next(row for row in sandbox.CATALOGS[self.panel] if row.id == service)
        order_type = find(row.type)
        assert order_type is not None
        given = {name: PARAMS[name] for name in order_type.required} | params
        size = SIZES.get(row.type) or int(given.get("quantity", "0"))
        order: str = await self.ask(Action.ADD, service=str(service), params=given, size=size)
        return order

    async def cancel(self, *orders: str) -> dict[str, bool | Refusal]:
        """Ask as a router would: in batches where the dialect has them."""
        return await self.each(Action.CANCEL, orders)

    async def each(self, action: Action, ids: Iterable[str]) -> dict[str, Any]:
        asked = tuple(ids)
        if self.adapter.batch.get(action, 1) > 1:
            answers: dict[str, Any] = await self.ask(action, *asked)
            return answers
        found: dict[str, Any] = {}
        for one in asked:
            try:
                found |= await self.ask(action, one)
            except Rejected as refused:
                found[one] = Refusal(refused.fault, refused.text, refused.words)
        return found

    async def orders(self) -> list[dict[str, Any]]:
        response = await self.client.get(f"/{self.panel}/sandbox/orders")
        rows: list[dict[str, Any]] = response.json()
        return rows

    async def trouble(self, fault: str) -> None:
        asked = {"fault": fault}
        await self.client.post(f"/{self.panel}/sandbox/faults", json=asked)


@asynccontextmanager
async def trading(panel: str, adapter: ApiV2 | None = None) -> AsyncIterator[Trade]:
    trade = Trade(panel, adapter)
    try:
        yield trade
    finally:
        await trade.client.aclose()


@pytest.fixture(params=sandbox.PANELS)
async def trade(request: pytest.FixtureRequest) -> AsyncIterator[Trade]:
    async with trading(request.param) as opened:
        yield opened


# --- lists and orders -------------------------------------------------------------------------


async def test_a_list_is_read_as_the_panel_means_it(trade: Trade) -> None:
    offers, wrong = await trade.ask(Action.SERVICES)
    flags = trade.panel != "instasmm"
    all_flags = trade.panel == "smmproxy"

    assert wrong == []
    assert [
        (
            str(row.id),
            row.name,
            row.type,
            row.category,
            row.rate,
            row.min,
            row.max,
            row.refill if flags else None,
            row.cancel if flags else None,
            row.dripfeed if all_flags else None,
            row.desc if all_flags else "",
        )
        for row in sandbox.CATALOGS[trade.panel]
    ] == [
        (
            offer.id,
            offer.name,
            offer.type,
            offer.category,
            offer.rate,
            offer.min,
            offer.max,
            offer.refill,
            offer.cancel,
            offer.dripfeed,
            offer.description,
        )
        for offer in offers
    ]


@pytest.mark.parametrize(("panel", "service"), SOLD)
async def test_every_service_can_be_ordered_and_arrives_as_it_was_meant(
    panel: str, service: int
) -> None:
    row = next(row for row in sandbox.CATALOGS[panel] if row.id == service)
    order_type = find(row.type)
    async with trading(panel) as trade:
        order = await trade.add(service)
        (kept,) = await trade.orders()

    assert order_type is not None
    assert str(kept["order"]) == order
    assert {name: PARAMS[name] for name in order_type.required} == {
        name: kept[name] for name in order_type.required
    }
    if row.type != SUBSCRIPTIONS:
        assert SIZES.get(row.type, 100) == kept["size"]


@pytest.mark.parametrize(
    ("panel", "service", "params", "kept_as"),
    [
        ("smm-panel.in", 55, {"delay": "7", "expiry": "31/12/2030"}, {}),
        ("smmproxy", 3, {"posts": "2"}, {}),
        ("smmai", 8, {"delay": "7", "posts": "2", "old_posts": "1"}, {"delay": "10"}),
        ("smmai", 8, {"delay": "600", "expiry": "1/2/2030"}, {}),
        ("smm1st", 9, {"type_of_traffic": "1", "google_keyword": "shoes"}, {}),
        ("smm1st", 9, {"type_of_traffic": "2", "referring_url": "https://a"}, {}),
    ],
)
async def test_what_may_be_said_beside_arrives_too(
    panel: str, service: int, params: dict[str, str], kept_as: dict[str, str]
) -> None:
    async with trading(panel) as trade:
        await trade.add(service, **params)
        (kept,) = await trade.orders()

    assert params | kept_as == {name: kept[name] for name in params}


# --- statuses ---------------------------------------------------------------------------------

MEANT = {
    "pending": Status.PENDING,
    "processing": Status.PROCESSING,
    "in progress": Status.IN_PROGRESS,
    "completed": Status.COMPLETED,
    "partial": Status.PARTIAL,
    "canceled": Status.CANCELED,
    "active": Status.ACTIVE,
    "paused": Status.PAUSED,
    "expired": Status.EXPIRED,
    "odd": None,  # "Quality check": a word that nobody has heard of is no status
}
COURSES = ("", "partial", "cancel", "late-cancel", "slow-start", "overdeliver", "odd-status")


def meant(trade: Trade, kept: dict[str, Any], report: Report) -> Report:
    """Return what a report must be, from what the panel knows; ``start_count`` is by chance."""
    status = MEANT[kept["status"]]
    known = Report(status, report.word, start_count=report.start_count)
    subscription, runs = "username" in kept, int(kept.get("runs", 1))
    if trade.panel == "smmproxy" and (subscription or runs > 1):
        done = {"posts": kept["done"]} if subscription else {"runs": kept["done"] // 100}
        return Report(status, report.word, **done)
    left = 0 if subscription or status is Status.CANCELED else kept["size"] - kept["done"]
    return Report(
        known.status,
        known.word,
        charge=whole_millionths(kept["charge"]),
        currency=sandbox.CURRENCIES[trade.panel],
        start_count=known.start_count,
        remains=left,
        posts=kept["done"] if subscription else None,
        runs=kept["done"] // 100 if runs > 1 else None,
    )


async def test_every_course_is_read_at_every_minute_one_by_one_and_together(
    trade: Trade,
) -> None:
    orders = [await trade.add(link=f"https://example.com/{word}") for word in COURSES]
    orders.append(await trade.add(runs="4", interval="30"))
    subscriptions = [row.id for row in sandbox.CATALOGS[trade.panel] if row.type == SUBSCRIPTIONS]
    for service in subscriptions:
        orders += [
            await trade.add(service, username=f"ann-{word}", posts="3")
            for word in ("", "pause", "expire", "cancel")
        ]
    seen = set()
    for minute in range(20):
        trade.now = minute * MINUTE
        kept = {str(one["order"]): one for one in await trade.orders()}
        together = await trade.ask(Action.STATUS, *orders)
        single = [(await trade.ask(Action.STATUS, order))[order] for order in orders]
        seen |= {report.status for report in single}

        assert [together[order] for order in orders] == single
        assert [meant(trade, kept[order], together[order]) for order in orders] == single
    expected = set(MEANT.values())
    if not subscriptions:
        expected -= {Status.ACTIVE, Status.PAUSED, Status.EXPIRED}

    assert expected == seen


async def test_both_words_for_canceled_are_read(trade: Trade) -> None:
    given_up = await trade.add(link="https://example.com/cancel")
    asked = await trade.add()
    await trade.cancel(asked)
    trade.now = 5 * MINUTE
    reports = await trade.ask(Action.STATUS, given_up, asked)

    assert [Status.CANCELED] * 2 == [report.status for report in reports.values()]


NOBODYS = Refusal(Fault.ORDER, ErrorText.INCORRECT_ORDER, "Incorrect order ID")


async def test_an_order_that_is_not_ours_is_a_refusal_and_hides_no_other(trade: Trade) -> None:
    order = await trade.add()
    reports = await trade.ask(Action.STATUS, "7", order)
    with pytest.raises(Rejected) as alone:
        await trade.ask(Action.STATUS, "7")

    assert NOBODYS == reports["7"]
    assert Status.PENDING is reports[order].status
    assert (Fault.ORDER, ErrorText.INCORRECT_ORDER) == (alone.value.fault, alone.value.text)


async def test_a_hundred_orders_fit_into_a_call(trade: Trade) -> None:
    ids = [str(number) for number in range(1, 101)]
    for action, most in trade.adapter.batch.items():
        assert most == 100
        answers = await trade.ask(action, *ids)

        assert ids == list(answers)
        with pytest.raises(Unsupported):
            await trade.ask(action, *ids, "101")


# --- refills, cancels, balances ---------------------------------------------------------------


async def test_a_refill_is_taken_followed_or_refused(trade: Trade) -> None:
    order = await trade.add(link="https://example.com/a")
    rejected = await trade.add(link="https://example.com/refill-rejected")
    trade.now = 10 * MINUTE
    young = await trade.add()
    taken = await trade.each(Action.REFILL, (order, rejected, young, "7"))

    assert NOBODYS == taken["7"]
    assert (Fault.ORDER, ErrorText.NO_REFILL) == (taken[young].fault, taken[young].text)
    if Action.REFILL_STATUS not in trade.adapter.actions:
        assert {order: "", rejected: ""} == {name: taken[name] for name in (order, rejected)}
        with pytest.raises(Unsupported):
            await trade.ask(Action.REFILL_STATUS, "9871")
        return
    assert {order: "9871", rejected: "9872"} == {name: taken[name] for name in (order, rejected)}
    seen = []
    for minutes in (0, 1, 3):
        trade.now = (10 + minutes) * MINUTE
        told = await trade.each(Action.REFILL_STATUS, ("9871", "9872", "7"))
        seen.append((told["9871"], told["9872"]))

        assert (Fault.ORDER, ErrorText.REFILL_NOT_FOUND) == (told["7"].fault, told["7"].text)
    assert [
        (RefillStatus.PENDING, RefillStatus.PENDING),
        (RefillStatus.IN_PROGRESS, RefillStatus.IN_PROGRESS),
        (RefillStatus.COMPLETED, RefillStatus.REJECTED),
    ] == seen


async def test_a_single_refill_is_read_as_one_of_many(trade: Trade) -> None:
    order = await trade.add()
    trade.now = 10 * MINUTE
    taken = await trade.ask(Action.REFILL, order)

    assert {order: "9871" if Action.REFILL_STATUS in trade.adapter.actions else ""} == taken
    if Action.REFILL_STATUS in trade.adapter.actions:
        told = await trade.ask(Action.REFILL_STATUS, "9871")

        assert {"9871": RefillStatus.PENDING} == told


async def test_a_cancel_is_taken_or_refused(trade: Trade) -> None:
    done = await trade.add()
    trade.now = 10 * MINUTE
    young = await trade.add()
    taken = await trade.cancel(done, young, "7")
    refused = taken[done]
    trade.now += MINUTE
    report = (await trade.ask(Action.STATUS, young))[young]

    assert taken[young] is True
    assert isinstance(refused, Refusal)
    assert (Fault.ORDER, ErrorText.NO_CANCEL) == (refused.fault, refused.text)
    assert NOBODYS == taken["7"]
    assert Status.CANCELED is report.status


async def test_a_balance_is_read_to_its_last_digit(trade: Trade) -> None:
    currency = sandbox.CURRENCIES[trade.panel]
    before = await trade.ask(Action.BALANCE)
    await trade.add(quantity="157")
    after = await trade.ask(Action.BALANCE)
    charge = Decimal((await trade.orders())[0]["charge"])

    assert Money.of(1000, currency) == before
    assert before - Money.of(charge, currency) == after


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "whose", "text"),
    [
        ("refuse", Fault.SERVICE, ErrorText.UNAVAILABLE),
        ("refuse-funds", Fault.ACCOUNT, ErrorText.UNAVAILABLE),
        ("refuse-link", Fault.CUSTOMER, ErrorText.BAD_LINK),
        ("refuse-active", Fault.BUSY, ErrorText.ACTIVE_ORDER),
        ("refuse-odd", Fault.UNKNOWN, ErrorText.UNAVAILABLE),
    ],
)
async def test_a_refused_order_is_known_to_be_refused(
    trade: Trade, fault: str, whose: Fault, text: ErrorText
) -> None:
    with pytest.raises(Rejected) as refused:
        await trade.add(link=f"https://example.com/?fault={fault}")

    assert (whose, text) == (refused.value.fault, refused.value.text)
    assert await trade.orders() == []


async def test_a_wrong_key_is_our_own_matter(trade: Trade) -> None:
    trade.key = "wrong"
    for action in (Action.SERVICES, Action.BALANCE):
        with pytest.raises(Rejected) as refused:
            await trade.ask(action)

        assert (Fault.ACCOUNT, ErrorText.UNAVAILABLE) == (refused.value.fault, refused.value.text)


@pytest.mark.parametrize(
    ("service", "params", "whose", "text"),
    [
        (1, {"quantity": "1"}, {Fault.CUSTOMER, Fault.SERVICE}, ErrorText.INVALID_QUANTITY),
        (1, {"link": "two words"}, {Fault.CUSTOMER}, ErrorText.BAD_LINK),
        (1, {"runs": "x"}, {Fault.CUSTOMER}, ErrorText.INCORRECT_RUNS),
        (1, {"runs": "2", "interval": "x"}, {Fault.CUSTOMER}, ErrorText.INCORRECT_INTERVAL),
    ],
)
async def test_a_bad_order_is_told_in_the_customers_words(
    trade: Trade, service: int, params: dict[str, str], whose: set[Fault], text: ErrorText
) -> None:
    with pytest.raises(Rejected) as refused:
        await trade.add(service, **params)

    assert text == refused.value.text
    assert refused.value.fault in whose


async def test_a_service_that_is_gone_is_the_services_matter(trade: Trade) -> None:
    with pytest.raises(Rejected) as refused:
        await trade.ask(
            Action.ADD,
            service="99",
            params={name: PARAMS[name] for name in ("link", "quantity")},
            size=100,
        )

    assert Fault.SERVICE is refused.value.fault


# --- trouble ----------------------------------------------------------------------------------


async def story(panel: str, action: Action, fault: str, most: int) -> Any:
    """Return what an action is read as where much has happened, for so many ids, under a fault."""
    async with trading(panel) as trade:
        order = await trade.add()
        drip = await trade.add(runs="4", interval="30")
        posts = [
            await trade.add(row.id, posts="9")
            for row in sandbox.CATALOGS[panel]
            if row.type == SUBSCRIPTIONS
        ]
        trade.now = 10 * MINUTE
        young = await trade.add()
        await trade.ask(Action.REFILL, order)
        ids = {
            Action.STATUS: (order, drip, *posts, young, "7"),
            Action.REFILL: (order, "7"),
            Action.REFILL_STATUS: ("9871", "7"),
            Action.CANCEL: (young, "7"),
        }
        if fault:
            await trade.trouble(fault)
        if action is Action.ADD:
            return await trade.add()
        several = ids.get(action, ())
        return await trade.ask(action, *several[: min(most, trade.adapter.batch.get(action, 1))])


def without_start(read: Any) -> Any:
    """Return what was read of many orders without their start counts."""
    return {
        name: msgspec.structs.replace(row, start_count=None) if isinstance(row, Report) else row
        for name, row in read.items()
    }


@pytest.mark.parametrize("most", [1, 100])
@pytest.mark.parametrize("fault", ["bom", "wrong-types", "notice", "as-printed"])
@pytest.mark.parametrize(("panel", "action"), ACTIONS)
async def test_a_harmless_fault_changes_nothing_of_what_is_read(
    panel: str, action: Action, fault: str, most: int
) -> None:
    if fault == "notice" and action in {Action.ADD, Action.REFILL, Action.CANCEL}:
        # What acted and cannot be read plainly is not known; it is never guessed.
        with pytest.raises(Indeterminate):
            await story(panel, action, fault, most)
        return
    plain = await story(panel, action, "", most)
    read = await story(panel, action, fault, most)
    if fault == "wrong-types" and action is Action.STATUS:  # it takes away the start count
        plain, read = without_start(plain), without_start(read)

    assert plain == read


@pytest.mark.parametrize(
    "fault",
    ["502-after", "500-before", "html", "empty", "not-json", "null", "no-order", "empty-list"],
)
async def test_an_order_whose_answer_is_lost_is_not_known(trade: Trade, fault: str) -> None:
    with pytest.raises(Indeterminate):
        await trade.add(link=f"https://example.com/?fault={fault}")

    assert (fault not in {"500-before", "empty-list"}) == bool(await trade.orders())


@pytest.mark.parametrize("most", [1, 100])
@pytest.mark.parametrize("fault", ["502-after", "html", "empty", "not-json", "null"])
@pytest.mark.parametrize(("panel", "action"), ACTIONS)
async def test_an_answer_that_says_nothing_is_never_read_as_something(
    panel: str, action: Action, fault: str, most: int
) -> None:
    with pytest.raises(Indeterminate):
        await story(panel, action, fault, most)


async def test_a_success_without_what_was_asked_for_is_no_status(trade: Trade) -> None:
    order = await trade.add()
    for action in (Action.SERVICES, Action.BALANCE):
        await trade.trouble("no-order")
        with pytest.raises(Indeterminate):
            await trade.ask(action)
    await trade.trouble("no-order")
    report = (await trade.ask(Action.STATUS, order))[order]

    assert report.status is None
    if Action.REFILL_STATUS in trade.adapter.actions:
        await trade.trouble("no-order")

        assert await trade.ask(Action.REFILL_STATUS, "9871") == {}


async def test_a_list_cut_short_is_read_as_far_as_it_goes(trade: Trade) -> None:
    await trade.trouble("short-list")
    short, _ = await trade.ask(Action.SERVICES)
    await trade.trouble("empty-list")
    empty, _ = await trade.ask(Action.SERVICES)

    assert max(len(sandbox.CATALOGS[trade.panel]) // 4, 1) == len(short)
    assert empty == []


# --- no code ----------------------------------------------------------------------------------


async def test_the_common_adapter_trades_by_declared_differences_alone() -> None:
    adapter = ApiV2(
        rename={"link": "url"},
        batch={Action.CANCEL: 1, Action.REFILL: 1},
        without=[Action.REFILL_STATUS],
    )
    async with trading("instasmm", adapter) as trade:
        order = await trade.add()
        canceled = await trade.cancel(order)
        trade.now = 10 * MINUTE
        refilled = await trade.add()
        trade.now = 20 * MINUTE
        reports = await trade.ask(Action.STATUS, order, refilled)
        refills = await trade.ask(Action.REFILL, refilled)

    assert canceled == {order: True}
    assert [Status.CANCELED, Status.COMPLETED] == [row.status for row in reports.values()]
    assert refills == {refilled: ""}
