"""The practice panels against the providers' documentation: shapes, words, courses, books, faults.

What is expected is written out here from the documentation's examples, and never computed by the
sandbox's own code.
"""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from itertools import pairwise
from typing import Any

import httpx
import pytest
import uvicorn

from gateway import sandbox

PANELS = ("smm-panel.in", "instasmm", "smmproxy", "smmai", "smm1st")
COMMON = ("smmai", "smm1st")
"""Panels that document one and the same dialect."""
SINGLE = ("instasmm", "smmproxy")
"""Panels that take one order a call for refill and cancel."""
DEPOSIT = Decimal(1000)
FIRST = 23501
LINK = "https://example.com/you"
MINUTE = 60.0

NAMES = "ann\nbob\ncarl\ndora\neve\nfay\ngus\nhal\nida\njoe"
OF_TYPE: dict[str, dict[str, str]] = {
    "Default": {"link": LINK, "quantity": "1000"},
    "Package": {"link": LINK},
    "Custom Comments": {"link": LINK, "comments": NAMES},
    "Custom Comments Package": {"link": LINK, "comments": NAMES},
    "Mentions": {"link": LINK, "quantity": "1000", "usernames": NAMES},
    "Mentions with Hashtags": {
        "link": LINK,
        "quantity": "1000",
        "usernames": NAMES,
        "hashtags": "#a\n#b",
    },
    "Mentions Custom List": {"link": LINK, "usernames": NAMES},
    "Mentions Hashtag": {"link": LINK, "quantity": "1000", "hashtag": "#a"},
    "Mentions User Followers": {"link": LINK, "quantity": "1000", "username": "ann"},
    "Mentions Media Likers": {"link": LINK, "quantity": "1000", "media": LINK},
    "Comment Likes": {"link": LINK, "quantity": "1000", "username": "ann"},
    "Comment Replies": {"link": LINK, "username": "ann", "comments": NAMES},
    "Poll": {"link": LINK, "quantity": "1000", "answer_number": "2"},
    "Invites from Groups": {"link": LINK, "quantity": "1000", "groups": "one\ntwo"},
    "SEO": {"link": LINK, "quantity": "1000", "keywords": "shoes"},
    "Web Traffic": {
        "link": LINK,
        "quantity": "1000",
        "country": "DE",
        "device": "1",
        "type_of_traffic": "3",
    },
    "Subscriptions": {"username": "ann", "min": "100", "max": "200", "delay": "30", "posts": "2"},
}
"""A complete order of every type that API v2 has."""
SIZES = {"Package": 1, "Custom Comments Package": 1, "Subscriptions": 0} | dict.fromkeys(
    ("Custom Comments", "Mentions Custom List", "Comment Replies"), 10
)
"""What these orders count at first, where it is not a thousand."""


class Now:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


class Caller:
    """Somebody with a key of one panel."""

    def __init__(self, panel: str, client: httpx.AsyncClient, now: Now) -> None:
        self.panel = panel
        self.client = client
        self.now = now

    async def post(self, action: str, **params: object) -> httpx.Response:
        """Call an action under the panel's own parameter names."""
        if self.panel == "instasmm" and action == "add":
            if "link" in params:
                params["url"] = params.pop("link")
            params = {"quantity": 10} | params  # documented as wanted by every type
        form = {"key": f"sandbox-{self.panel}", "action": action}
        form |= {name: str(value) for name, value in params.items()}
        return await self.client.post(f"/{self.panel}/api/v2", data=form)

    async def __call__(self, action: str, **params: object) -> Any:
        answer = await self.post(action, **params)
        assert answer.status_code == 200
        return answer.json()

    async def add(self, link: str = LINK, **params: object) -> Any:
        """Order a thousand followers, or what else is said; returns the answer."""
        return await self("add", **({"service": 1, "link": link, "quantity": 1000} | params))

    async def order(self, link: str = LINK, **params: object) -> int:
        """Order the same; returns the id."""
        order = (await self.add(link, **params))["order"]
        assert isinstance(order, int)
        return order

    async def refill(self, order: int) -> Any:
        """Ask for one refill."""
        return await self("refill", order=order)

    async def cancel(self, order: int) -> Any:
        """Ask for one cancel, by the name that the panel documents."""
        return await self("cancel", **{"order" if self.panel in SINGLE else "orders": order})

    async def word(self, order: int) -> str:
        return str((await self("status", order=order))["status"])

    async def balance(self) -> Decimal:
        answer = await self.post("balance")
        return Decimal(json.loads(answer.text, parse_float=Decimal)["balance"])

    async def behind(self, what: str, **asked: object) -> Any:
        """Ask behind the counter."""
        url = f"/{self.panel}/sandbox/{what}"
        answer = await (self.client.post(url, json=asked) if asked else self.client.get(url))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def accepted(self) -> list[dict[str, Any]]:
        """Return what the panel really took."""
        return list(await self.behind("orders"))

    def later(self, minutes: float) -> None:
        self.now.at += minutes * MINUTE


@asynccontextmanager
async def calling(panel: str, *, seed: int = 0, speed: float = 1.0) -> AsyncIterator[Caller]:
    """Open a sandbox of its own, and call one of its panels."""
    now = Now()
    app = sandbox.create(clock=now, seed=seed, speed=speed)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://sandbox"
    ) as client:
        yield Caller(panel, client, now)


@pytest.fixture(params=PANELS)
async def caller(request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    async with calling(request.param) as one:
        yield one


@pytest.fixture
async def common() -> AsyncIterator[Caller]:
    """A caller of the panel with the plainest dialect."""
    async with calling("smm1st") as one:
        yield one


def only(*panels: str) -> pytest.MarkDecorator:
    """Run a test for these panels alone."""
    return pytest.mark.parametrize("caller", panels, indirect=True)


def shape(value: object) -> object:
    """Return a value's JSON types in its own structure."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value]
    return type(value)


# --- services -----------------------------------------------------------------------------------

FOLLOWERS = {
    "service": 1,
    "name": "Followers",
    "type": "Default",
    "category": "First Category",
    "rate": "0.90",
    "min": "50",
    "max": "10000",
}
FIRST_ROWS: dict[str, dict[str, object]] = {
    "smm-panel.in": {
        "service": 1,
        "name": "Instagram Followers | Real | 365 Days Refill",
        "type": "Default",
        "category": "Instagram - Followers",
        "rate": "26.88",
        "min": "100",
        "max": "10000",
        "refill": True,
        "cancel": True,
    },
    "instasmm": FOLLOWERS,
    "smmproxy": FOLLOWERS
    | {"desc": "High quality followers", "refill": True, "cancel": True, "dripfeed": True},
    "smmai": FOLLOWERS | {"refill": True, "cancel": True},
    "smm1st": FOLLOWERS | {"refill": True, "cancel": True},
}


async def test_the_first_service_is_the_documented_one(caller: Caller) -> None:
    rows = await caller("services")

    assert FIRST_ROWS[caller.panel] == rows[0]


async def test_every_row_has_the_documented_fields_in_their_order_and_types(
    caller: Caller,
) -> None:
    rows = await caller("services")

    example = FIRST_ROWS[caller.panel]
    assert [list(example)] * len(rows) == [list(row) for row in rows]
    assert [shape(example)] * len(rows) == [shape(row) for row in rows]


async def test_every_order_type_is_sold_by_somebody() -> None:
    sold: set[str] = set()
    for panel in PANELS:
        async with calling(panel) as caller:
            sold |= {row["type"] for row in await caller("services")}

    assert set(OF_TYPE) == sold


async def test_each_panel_sells_every_type_that_it_documents(caller: Caller) -> None:
    documented = {
        "smm-panel.in": {"Default", "Custom Comments", "Subscriptions"},
        "instasmm": {"Default", "Custom Comments"},
        "smmproxy": {"Default", "Custom Comments"},
        "smmai": set(OF_TYPE)
        - {"Mentions", "Mentions Media Likers", "Comment Likes", "Comment Replies"}
        - {"Invites from Groups", "SEO", "Web Traffic"},
        "smm1st": {"Default", "Custom Comments"},
    }

    sold = {row["type"] for row in await caller("services")}

    assert documented[caller.panel] - sold == set()


# --- add ----------------------------------------------------------------------------------------


async def test_every_service_can_be_bought_at_its_rate(caller: Caller) -> None:
    """A thousand cost the rate, ten lines a hundredth of it, a package the rate, a post nothing."""
    for number, row in enumerate(await caller("services")):
        before = await caller.balance()

        answer = await caller("add", service=row["service"], **OF_TYPE[row["type"]])

        assert {"order": FIRST + number} == answer
        size = Decimal(SIZES.get(row["type"], 1000))
        share = size if "Package" in row["type"] else size / 1000
        assert Decimal(row["rate"]) * share == before - await caller.balance(), row


async def test_an_order_that_lacks_something_is_refused_and_costs_nothing(caller: Caller) -> None:
    for row in await caller("services"):
        whole = OF_TYPE[row["type"]]
        for missing in set(whole) - {"posts"}:
            if caller.panel == "instasmm" and row["type"] != "Default" and missing == "quantity":
                continue
            params = {name: value for name, value in whole.items() if name != missing}
            params |= {"quantity": ""} if missing == "quantity" else {}

            answer = await caller("add", service=row["service"], **params)

            assert ["error"] == list(answer), (row, missing)
    assert [] == await caller.accepted()
    assert await caller.balance() == DEPOSIT


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "1e3", "٣٠٠", "x", "9" * 5000, "NaN"])
@pytest.mark.parametrize("name", ["service", "quantity", "runs", "posts", "min", "delay"])
async def test_what_is_no_number_is_refused(common: Caller, name: str, number: str) -> None:
    """Some of these mean "none", and are taken as such; none of them upsets the panel."""
    service = 1
    params: dict[str, object] = {"link": LINK, "quantity": 1000, "interval": 5}
    async with calling("smmai") as smmai:
        caller = smmai if name in {"posts", "min", "delay"} else common
        if caller is smmai:
            service, params = 8, dict[str, object](OF_TYPE["Subscriptions"])
        answer = await caller("add", **({"service": service} | params | {name: number}))

        harmless = number == "0" and name in {"runs", "posts", "delay"}
        assert (["order"] if harmless else ["error"]) == list(answer)
        assert int(harmless) == len(await caller.accepted())


REFUSALS: dict[str, dict[str, str]] = {
    "smm-panel.in": {
        "key": "Invalid API key",
        "action": "Incorrect request",
        "service": "Invalid service ID",
        "few": "Invalid quantity",
        "many": "Invalid quantity",
        "funds": "Not enough funds",
    },
    "instasmm": {"service": "incorrect service type"},
}
"""The error texts that the documentation prints for what can be wrong with a call."""


@pytest.mark.parametrize("wrong", ["key", "action", "service", "few", "many", "funds", "link"])
async def test_a_refusal_is_an_error_with_http_200(caller: Caller, wrong: str) -> None:
    whole: dict[str, object] = {"service": 1, "link": LINK, "quantity": 1000}
    changed: dict[str, dict[str, object]] = {
        "service": {"service": 999},
        "few": {"quantity": 1},
        "many": {"quantity": 10001},
        "link": {"link": "no link at all"},
    }
    if wrong == "funds":
        await caller.behind("balance", set="0.5")
    if wrong == "key":
        form = {"key": "other", "action": "balance"}
        answer = (await caller.client.post(f"/{caller.panel}/api/v2", data=form)).json()
    else:
        action = "nothing" if wrong == "action" else "add"
        answer = await caller(action, **(whole | changed.get(wrong, {})))

    assert {"error": str} == shape(answer)
    assert answer["error"] == REFUSALS.get(caller.panel, {}).get(wrong, answer["error"])
    assert [] == await caller.accepted()


async def test_each_panel_has_its_own_key_and_books(caller: Caller) -> None:
    await caller.add()

    for panel in set(PANELS) - {caller.panel}:
        other = Caller(panel, caller.client, caller.now)
        assert await other.balance() == DEPOSIT
        assert [] == await other.accepted()
        form = {"key": f"sandbox-{caller.panel}", "action": "balance"}
        answer = await caller.client.post(f"/{panel}/api/v2", data=form)
        assert {"error": "Invalid API key"} == answer.json()


async def test_a_trailing_slash_is_served_and_not_redirected(caller: Caller) -> None:
    form = {"key": f"sandbox-{caller.panel}", "action": "balance"}
    answer = await caller.client.post(f"/{caller.panel}/api/v2/", data=form)

    assert answer.status_code == 200
    assert "balance" in answer.json()


@only("instasmm")
async def test_instasmm_calls_the_target_url(caller: Caller) -> None:
    form = {"key": "sandbox-instasmm", "action": "add", "service": "1", "quantity": "100"}
    by_link = await caller.client.post("/instasmm/api/v2", data=form | {"link": LINK})
    by_url = await caller.client.post("/instasmm/api/v2", data=form | {"url": LINK})

    assert ["error"] == list(by_link.json())
    assert {"order": FIRST} == by_url.json()


@only("smmai")
@pytest.mark.parametrize("delay", [1, 7, 45, 599, 601])
async def test_smmai_takes_only_the_delays_of_its_list(caller: Caller, delay: int) -> None:
    answer = await caller("add", **({"service": 8} | OF_TYPE["Subscriptions"] | {"delay": delay}))

    assert ["error"] == list(answer)


@only("smm-panel.in")
@pytest.mark.parametrize(("delay", "taken"), [(0, True), (7, True), (600, True), (601, False)])
async def test_smm_panel_in_takes_any_delay_up_to_600(
    caller: Caller, delay: int, taken: bool
) -> None:
    subscription = {"service": 55} | OF_TYPE["Subscriptions"] | {"delay": delay}
    answer = await caller("add", **(subscription | {"expiry": "31/12/2025"}))

    assert taken == ("order" in answer)


@only("smmai")
@pytest.mark.parametrize(
    ("expiry", "taken"),
    [("31/12/2030", True), ("1/2/2030", True), ("2030-12-31", False), ("31/02/2030", False)],
)
async def test_an_expiry_is_a_day_with_the_day_first(
    caller: Caller, expiry: str, taken: bool
) -> None:
    answer = await caller("add", **({"service": 8} | OF_TYPE["Subscriptions"] | {"expiry": expiry}))

    assert taken == ("order" in answer)


@pytest.mark.parametrize(
    ("more", "taken"),
    [
        ({"type_of_traffic": "1"}, False),
        ({"type_of_traffic": "1", "google_keyword": "shoes"}, True),
        ({"type_of_traffic": "2"}, False),
        ({"type_of_traffic": "2", "referring_url": LINK}, True),
        ({"type_of_traffic": "3"}, True),
    ],
)
async def test_web_traffic_wants_what_its_kind_needs(
    common: Caller, more: dict[str, str], taken: bool
) -> None:
    answer = await common("add", **({"service": 9} | OF_TYPE["Web Traffic"] | more))

    assert taken == ("order" in answer)


async def test_blank_lines_are_no_comments_and_both_line_ends_are_taken(common: Caller) -> None:
    order = await common.order(service=2, comments="one\r\n\r\n  \ntwo\nthree\n")

    assert 3 == (await common.accepted())[0]["size"]
    assert "0.024" == (await common("status", order=order))["charge"]


async def test_the_list_takes_no_more_than_a_hundred_ids(common: Caller) -> None:
    await common.order()
    hundred = ",".join(str(FIRST + n) for n in range(100))

    assert 100 == len(await common("status", orders=hundred))
    assert ["error"] == list(await common("status", orders=f"{hundred},1"))


# --- status -------------------------------------------------------------------------------------

CURRENCY = dict.fromkeys(PANELS, "USD") | {"smm-panel.in": "INR"}
RUNNING = dict.fromkeys(PANELS, "In progress") | {"smmproxy": "In Progress"}
CANCELED = dict.fromkeys(PANELS, "Canceled") | {"smm-panel.in": "Cancelled"}
PRICES = dict.fromkeys(PANELS, Decimal("0.9")) | {"smm-panel.in": Decimal("26.88")}
"""Of a thousand followers."""


async def test_a_status_has_five_fields_all_strings(caller: Caller) -> None:
    order = await caller.order()

    status = await caller("status", order=order)

    assert ["charge", "start_count", "status", "remains", "currency"] == list(status)
    assert {str} == {type(value) for value in status.values()}
    assert CURRENCY[caller.panel] == status["currency"]
    assert PRICES[caller.panel] == Decimal(status["charge"])


async def test_an_order_takes_ten_minutes_from_pending_to_completed(caller: Caller) -> None:
    order = await caller.order()
    seen = []
    for _ in range(12):
        status = await caller("status", order=order)
        seen.append((status["status"], int(status["remains"])))
        caller.later(1)

    assert ("Pending", 1000) == seen[0]
    assert ("Processing", 1000) == seen[1]
    assert [RUNNING[caller.panel]] * 8 == [word for word, _ in seen[2:10]]
    assert [("Completed", 0)] * 2 == seen[10:]
    assert all(before >= after for (_, before), (_, after) in pairwise(seen))
    assert 500 == seen[6][1]


async def test_what_there_was_at_the_start_is_said_when_it_is_known(caller: Caller) -> None:
    order = await caller.order()
    pending = await caller("status", order=order)
    caller.later(5)
    running = await caller("status", order=order)
    caller.later(10)
    completed = await caller("status", order=order)

    assert "0" == pending["start_count"]
    assert int(running["start_count"]) > 0
    assert running["start_count"] == completed["start_count"]


async def test_many_statuses_are_a_map_by_id_with_an_error_for_what_is_not_ours(
    caller: Caller,
) -> None:
    first, second = await caller.order(), await caller.order()

    statuses = await caller("status", orders=f"{first}, {second},10")

    unknown = {"error": "Incorrect order ID"}
    if caller.panel == "smmproxy":
        unknown["status"] = "104"
    assert [str(first), str(second), "10"] == list(statuses)
    assert await caller("status", order=first) == statuses[str(first)]
    assert unknown == statuses["10"]


async def test_one_status_of_an_order_that_is_not_ours_is_an_error(caller: Caller) -> None:
    for order in ("1", "", "x", "-1", "9" * 5000):
        assert "error" in await caller("status", order=order)


async def test_a_dripfeed_says_how_many_runs_are_done(caller: Caller) -> None:
    order = await caller.order(quantity=100, runs=10, interval=60)
    caller.later(6)

    status = await caller("status", order=order)

    if caller.panel == "smmproxy":
        assert {"status": "In Progress", "runs": 5} == status
    else:
        assert 5 == status["runs"]
        assert "500" == status["remains"]
        assert PRICES[caller.panel] == Decimal(status["charge"])
    assert PRICES[caller.panel] == DEPOSIT - await caller.balance()


async def test_a_dripfeed_is_refused_where_there_is_none_or_its_interval_lacks(
    caller: Caller,
) -> None:
    without = await caller("add", service=1, link=LINK, quantity=100, runs=2)

    assert ["error"] == list(without)
    if caller.panel == "smmproxy":  # service 4 says so in its list
        rows = {row["service"]: row for row in await caller("services")}
        assert rows[4]["dripfeed"] is False
        refused = await caller.add(service=4, runs=2, interval=5)
        assert {"error": "Dripfeed is not supported by this service"} == refused


@pytest.mark.parametrize(
    ("caller", "service"),
    [("smm-panel.in", 55), ("smmproxy", 3), ("smmai", 8)],
    indirect=["caller"],
)
async def test_a_subscription_is_charged_by_the_posts_it_has_delivered(
    caller: Caller, service: int
) -> None:
    rate = {row["service"]: Decimal(row["rate"]) for row in await caller("services")}[service]
    order = await caller.order(service=service, **(OF_TYPE["Subscriptions"] | {"link": ""}))
    seen: dict[int, str] = {}
    for _ in range(12):
        status = await caller("status", order=order)
        seen.setdefault(status["posts"], status["status"])
        assert rate * 200 / 1000 * status["posts"] == DEPOSIT - await caller.balance()
        caller.later(0.5)

    assert {0: "Active", 1: "Active", 2: "Completed"} == seen
    if caller.panel == "smmproxy":
        assert {"status", "posts"} == set(status)


# --- refill and cancel --------------------------------------------------------------------------

REFILLED: dict[str, object] = {
    "smm-panel.in": {"refill": 9871},
    "instasmm": {
        "status": "Success",
        "message": "Your order successfully added for refill. Thank you for patience.",
    },
    "smmproxy": {
        "refill": "9871",
        "status": 200,
        "message": "Refill has been placed successfully!",
    },
    "smmai": {"refill": "9871"},
    "smm1st": {"refill": "9871"},
}
CANCELS: dict[str, object] = {
    "smm-panel.in": [{"order": FIRST, "cancel": {"status": True}}],
    "instasmm": {
        "status": "Success",
        "message": ("Your order was successfully marked for cancellation. Thank you for patience."),
    },
    "smmproxy": {
        "status": "success",
        "message": "Cancellation request added, we'll try our best to cancel it.",
    },
    "smmai": [{"order": FIRST, "cancel": 1}],
    "smm1st": [{"order": FIRST, "cancel": 1}],
}


async def test_a_refill_is_answered_as_documented(caller: Caller) -> None:
    order = await caller.order()
    caller.later(11)

    assert REFILLED[caller.panel] == await caller.refill(order)


@only("smm-panel.in", *COMMON)
async def test_many_refills_are_a_list_of_numbers_and_errors(caller: Caller) -> None:
    orders = [await caller.order() for _ in range(2)]
    caller.later(11)

    answer = await caller("refill", orders=f"{orders[0]},{orders[1]},3")

    assert [
        {"order": orders[0], "refill": 9871},
        {"order": orders[1], "refill": 9872},
        {"order": 3, "refill": {"error": "Incorrect order ID"}},
    ] == answer


@only("smm-panel.in", "smmproxy", *COMMON)
@pytest.mark.parametrize(
    ("link", "last"), [(LINK, "Completed"), (f"{LINK}/refill-rejected", "Rejected")]
)
async def test_a_refill_goes_from_pending_to_its_end(caller: Caller, link: str, last: str) -> None:
    order = await caller.order(link)
    caller.later(11)
    await caller.refill(order)
    seen = []
    for _ in range(5):
        answer = await caller("refill_status", refill=9871)
        assert ["status"] == list(answer)
        seen.append(answer["status"])
        caller.later(1)

    assert ["Pending", "In progress", last] == list(dict.fromkeys(seen))


@only("smm-panel.in", *COMMON)
async def test_many_refill_statuses_are_answered_as_documented(caller: Caller) -> None:
    orders = [await caller.order(), await caller.order(f"{LINK}/refill-rejected")]
    caller.later(11)
    await caller("refill", orders=",".join(map(str, orders)))
    caller.later(5)

    answer = await caller("refill_status", refills="9871,9872,3")

    if caller.panel == "smm-panel.in":
        assert [
            {"9871": {"status": "Completed"}},
            {"9872": {"status": "Rejected"}},
            {"3": {"error": "Refill not found"}},
        ] == answer
    else:
        assert [
            {"refill": 9871, "status": "Completed"},
            {"refill": 9872, "status": "Rejected"},
            {"refill": 3, "status": {"error": "Refill not found"}},
        ] == answer


@only("instasmm")
async def test_instasmm_has_no_refill_status(caller: Caller) -> None:
    assert {"error": "Incorrect request"} == await caller("refill_status", refill=9871)


async def test_an_order_under_way_is_not_refilled(caller: Caller) -> None:
    order = await caller.order()

    assert ["error"] == list(await caller.refill(order))


async def test_a_cancel_is_answered_as_documented_and_comes_true_later(caller: Caller) -> None:
    order = await caller.order()

    assert CANCELS[caller.panel] == await caller.cancel(order)
    assert "Pending" == await caller.word(order)
    caller.later(1)
    assert CANCELED[caller.panel] == await caller.word(order)
    assert await caller.balance() == DEPOSIT


async def test_an_order_canceled_under_way_is_partial_and_refunded_by_its_share(
    caller: Caller,
) -> None:
    order = await caller.order()
    caller.later(6)
    await caller.cancel(order)
    caller.later(1)

    status = await caller("status", order=order)

    delivered = 1000 - int(status["remains"])
    assert "Partial" == status["status"]
    assert 500 < delivered < 600
    assert PRICES[caller.panel] * delivered / 1000 == Decimal(status["charge"])
    assert Decimal(status["charge"]) == DEPOSIT - await caller.balance()


async def test_a_finished_order_is_not_canceled(caller: Caller) -> None:
    order = await caller.order()
    caller.later(11)

    answer = await caller.cancel(order)

    words = "Cancel is not available"
    if caller.panel == "smm-panel.in":
        assert [{"order": order, "cancel": {"status": False, "error": words}}] == answer
    elif caller.panel in COMMON:
        assert [{"order": order, "cancel": {"error": words}}] == answer
    else:
        assert {"error": words} == answer
    assert "Completed" == await caller.word(order)


async def test_a_cancel_that_comes_too_late_changes_nothing(common: Caller) -> None:
    order = await common.order()
    common.later(9.75)

    assert [{"order": order, "cancel": 1}] == await common.cancel(order)
    common.later(10)
    assert "Completed" == await common.word(order)
    late = await common.order(f"{LINK}/partial")
    common.later(7.5)
    await common.cancel(late)
    common.later(10)
    assert "300" == (await common("status", order=late))["remains"]
    late = await common.order(f"{LINK}/late-cancel")
    common.later(9.75)
    await common.cancel(late)
    common.later(10)
    assert "Canceled" == await common.word(late)


@only(*SINGLE)
async def test_refill_and_cancel_take_one_order_a_call(caller: Caller) -> None:
    order = await caller.order()

    assert ["error"] == list(await caller("cancel", orders=order))
    assert ["error"] == list(await caller("refill", orders=order))


@only("smm-panel.in")
async def test_a_service_without_cancel_says_so(caller: Caller) -> None:
    order = await caller.order(service=60)

    answer = await caller.cancel(order)

    assert answer[0]["cancel"] == {"status": False, "error": "Cancel is not available"}


# --- what becomes of an order -------------------------------------------------------------------


async def test_partial_leaves_thirty_percent_and_charges_the_rest(caller: Caller) -> None:
    order = await caller.order(f"{LINK}/partial")
    caller.later(11)

    status = await caller("status", order=order)

    assert ("Partial", "300") == (status["status"], status["remains"])
    assert PRICES[caller.panel] * 7 / 10 == Decimal(status["charge"])
    assert Decimal(status["charge"]) == DEPOSIT - await caller.balance()


async def test_cancel_is_given_up_by_the_panel_and_costs_nothing(caller: Caller) -> None:
    order = await caller.order(f"{LINK}/cancel")
    assert PRICES[caller.panel] == DEPOSIT - await caller.balance()
    caller.later(11)

    status = await caller("status", order=order)

    words = {"Cancelled", "Refunded"} if caller.panel == "smm-panel.in" else {"Canceled"}
    assert status["status"] in words
    assert Decimal(status["charge"]) == 0
    assert await caller.balance() == DEPOSIT


async def test_late_cancel_is_completed_then_partial_then_canceled(common: Caller) -> None:
    order = await common.order(f"{LINK}/late-cancel")
    seen = []
    for _ in range(20):
        left = DEPOSIT - await common.balance()
        seen.append((await common.word(order), left))
        common.later(1)

    ends = [pair for pair in dict.fromkeys(seen) if pair[0] in {"Completed", "Partial", "Canceled"}]
    assert [
        ("Completed", Decimal("0.9")),
        ("Partial", Decimal("0.45")),
        ("Canceled", Decimal(0)),
    ] == ends


async def test_slow_start_stays_pending(common: Caller) -> None:
    order = await common.order(f"{LINK}/slow-start")
    common.later(600)

    assert "Pending" == await common.word(order)


async def test_overdeliver_leaves_less_than_nothing_and_costs_no_more(common: Caller) -> None:
    order = await common.order(f"{LINK}/overdeliver")
    common.later(11)

    status = await common("status", order=order)

    assert ("Completed", "-50", "0.9") == (status["status"], status["remains"], status["charge"])


async def test_odd_status_says_a_word_of_its_own_for_a_while(common: Caller) -> None:
    order = await common.order(f"{LINK}/odd-status")
    common.later(5)
    odd = await common.word(order)
    common.later(6)

    assert odd not in {"Pending", "Processing", "In progress", "Completed", "Partial", "Canceled"}
    assert "Completed" == await common.word(order)


COURSES = ("", "partial", "cancel", "late-cancel", "slow-start", "overdeliver", "odd-status")


async def test_the_balance_is_the_deposit_less_every_charge_at_any_moment(caller: Caller) -> None:
    """Among orders that end in every way, some of them canceled, looked at every half minute."""
    orders = [
        await caller.order(f"{LINK}/{course}", quantity=quantity)
        for course in COURSES
        for quantity in (157, 1000, 999)
    ]
    for step in range(40):
        if step % 3 == 0:  # at every age, and some that have ended long ago
            await caller.cancel(orders[step * 5 % len(orders)])
        charges = [Decimal(order["charge"]) for order in await caller.accepted()]
        statuses = await caller("status", orders=",".join(map(str, orders)))

        assert charges == [Decimal(statuses[str(order)]["charge"]) for order in orders]
        assert await caller.balance() == DEPOSIT - sum(charges)
        caller.later(0.5)


async def test_the_same_seed_tells_the_same_story_and_another_another(caller: Caller) -> None:
    async def story(seed: int) -> list[str]:
        lines = []
        async with calling(caller.panel, seed=seed) as one:
            for course in COURSES:
                await one.order(f"{LINK}/{course}")
            for _ in range(18):
                orders = ",".join(str(FIRST + n) for n in range(len(COURSES)))
                lines.append((await one.post("status", orders=orders)).text)
                one.later(1)
        return lines

    first, again, other = await story(1), await story(1), await story(2)

    assert first == again
    assert first != other


async def test_at_speed_600_an_order_takes_a_second() -> None:
    async with calling("smm1st", speed=600) as caller:
        order = await caller.order()
        caller.now.at += 0.9
        assert "In progress" == await caller.word(order)
        caller.now.at += 0.1

        assert "Completed" == await caller.word(order)


# --- behind the counter -------------------------------------------------------------------------


async def test_the_counter_shows_what_was_really_taken(caller: Caller) -> None:
    await caller.order(f"{LINK}/a", quantity=157)
    await caller.add(quantity=1)

    [order] = await caller.accepted()

    assert (FIRST, 1, f"{LINK}/a") == (order["order"], order["service"], order["link"])
    assert ("157", 157) == (order["quantity"], order["size"])
    assert PRICES[caller.panel] * 157 / 1000 == Decimal(order["charge"])


async def test_the_clock_can_be_put_forward(caller: Caller) -> None:
    order = await caller.order()
    await caller.behind("clock", forward=11 * 60)

    assert "Completed" == await caller.word(order)


async def test_the_balance_can_be_set_and_follows_what_is_bought(caller: Caller) -> None:
    await caller.order()
    await caller.behind("balance", set="40.00001")
    await caller.order()

    assert await caller.balance() == Decimal("40.00001") - PRICES[caller.panel]


async def test_a_service_can_be_repriced_without_touching_orders_before(caller: Caller) -> None:
    before = await caller.order()
    await caller.behind("services", service=1, rate="2.5", min=10)
    after = await caller.order(quantity=10)

    row = (await caller("services"))[0]
    assert ("2.5", "10") == (row["rate"], row["min"])
    assert PRICES[caller.panel] == Decimal((await caller("status", order=before))["charge"])
    assert Decimal("0.025") == Decimal((await caller("status", order=after))["charge"])


async def test_a_service_can_go_and_come_back(caller: Caller) -> None:
    await caller.behind("services", remove=1)
    gone = [row["service"] for row in await caller("services")]
    refused = await caller.add()
    await caller.behind("services", restore=1)

    assert 1 not in gone
    assert ["error"] == list(refused)
    assert 1 in [row["service"] for row in await caller("services")]
    assert ["order"] == list(await caller.add())


@pytest.mark.parametrize(
    ("what", "body", "status"),
    [
        ("nothing", "{}", 404),
        ("faults", '{"fault": "flood"}', 400),
        ("faults", "[1]", 400),
        ("faults", "{", 400),
        ("services", '{"service": 999}', 400),
        ("balance", '{"set": "much"}', 400),
        ("clock", '{"forward": "long"}', 400),
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(
    common: Caller, what: str, body: str, status: int
) -> None:
    answer = await common.client.post(f"/smm1st/sandbox/{what}", content=body)

    assert status == answer.status_code
    assert await common.balance() == DEPOSIT


# --- faults -------------------------------------------------------------------------------------

TAKEN = ("502-after", "html", "empty", "not-json", "bom", "notice", "wrong-types", "no-order")
NOT_TAKEN = ("refuse", "refuse-funds", "refuse-link", "refuse-active", "refuse-odd", "500-before")


@pytest.mark.parametrize("fault", TAKEN + NOT_TAKEN)
@pytest.mark.parametrize("by", ["link", "switch"])
async def test_a_fault_takes_the_order_or_does_not(caller: Caller, fault: str, by: str) -> None:
    link = f"{LINK}?fault={fault}" if by == "link" else LINK
    if by == "switch":
        await caller.behind("faults", action="add", fault=fault)

    await caller.post("add", service=1, link=link, quantity=1000)

    taken = len(await caller.accepted())
    assert (1 if fault in TAKEN else 0) == taken
    assert PRICES[caller.panel] * taken == DEPOSIT - await caller.balance()


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        ("502-after", 502, "<html>"),
        ("500-before", 500, "<html>"),
        ("html", 200, "<html>"),
        ("empty", 200, ""),
        ("bom", 200, '\ufeff{"order"'),
        ("notice", 200, "<br />"),
        ("wrong-types", 200, '{"order":"23501"}'),
        ("no-order", 200, '{"status"'),
        ("refuse", 200, '{"error"'),
    ],
)
async def test_what_a_caller_hears_of_a_fault(
    common: Caller, fault: str, status: int, body: str
) -> None:
    answer = await common.post("add", service=1, link=f"{LINK}?fault={fault}", quantity=1000)

    assert status == answer.status_code
    assert answer.content.decode().replace(": ", ":").startswith(body)
    assert (answer.content == b"") == (fault == "empty")
    if fault in {"bom", "notice"}:
        tail = answer.content.decode()
        assert {"order": FIRST} == json.loads(tail[tail.index("{") :])


async def test_a_switch_is_for_its_action_and_so_many_calls(common: Caller) -> None:
    await common.behind("faults", action="balance", fault="html", times=2)

    assert ["order"] == list(await common.add())
    assert "<html>" in (await common.post("balance")).text
    assert "<html>" in (await common.post("balance")).text
    assert await common.balance() < DEPOSIT


async def test_a_switch_for_any_action_meets_the_first_and_can_be_taken_back(
    common: Caller,
) -> None:
    await common.behind("faults", action="*", fault="empty", times=9)
    assert "" == (await common.post("services")).text
    await common.behind("faults", fault="none")

    assert [] == await common.behind("faults")
    assert await common.balance() == DEPOSIT


async def test_wrong_types_swap_numbers_and_strings_to_the_last_digit(caller: Caller) -> None:
    order = await caller.order(quantity=157)
    right = await caller("status", order=order)
    await caller.behind("faults", action="status", fault="wrong-types")

    wrong = json.loads((await caller.post("status", order=order)).text, parse_float=Decimal)

    assert Decimal(right["charge"]) == wrong["charge"]
    assert (157, None) == (wrong["remains"], wrong["start_count"])


async def test_a_list_can_come_short_or_empty(caller: Caller) -> None:
    whole = await caller("services")
    for fault in ("short-list", "empty-list"):
        await caller.behind("faults", action="services", fault=fault)
    short, empty = await caller("services"), await caller("services")

    assert whole[: len(short)] == short
    assert 0 < len(short) < len(whole) / 2
    assert [] == empty


@only("instasmm")
async def test_instasmm_can_answer_as_its_page_prints_it(caller: Caller) -> None:
    await caller.behind("balance", set="10000")
    await caller.behind("faults", fault="as-printed", times=3)
    balance = (await caller.post("balance")).text
    await caller.post("add", service=1, link=LINK, quantity=100)
    cancel = (await caller.post("cancel", order=FIRST)).text

    assert '{"balance":10000,"currency":"USD",}' == compact(balance)
    assert compact(cancel).startswith('{"status":Success,"message":"Yourorder')


@only("smmproxy")
async def test_smmproxy_can_answer_as_its_page_prints_it(caller: Caller) -> None:
    await caller.behind("faults", action="services", fault="as-printed")
    text = compact((await caller.post("services")).text)

    assert '"refill":true,"cancel":true"dripfeed":true}' in text
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(text)


def compact(text: str) -> str:
    return "".join(text.split())


@only("instasmm")
async def test_instasmm_gives_its_balance_as_a_number(caller: Caller) -> None:
    await caller.behind("balance", set="10000.00001")

    assert '{"balance":10000.00001,"currency":"USD"}' == compact(
        (await caller.post("balance")).text
    )


@only("smm-panel.in", "smmproxy", *COMMON)
async def test_the_others_give_their_balance_as_a_string(caller: Caller) -> None:
    await caller.behind("balance", set="100.84292")

    assert {"balance": "100.84292", "currency": CURRENCY[caller.panel]} == await caller("balance")


# --- over a real socket -------------------------------------------------------------------------


@pytest.fixture(params=["httptools", "h11"])
async def address(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Serve the panels under each of the two HTTP parsers that the server may choose."""
    config = uvicorn.Config(
        sandbox.create(),
        http=request.param,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        await serving


async def dialogue(address: str, fault: str, wait: float = 5) -> bytes:
    """Order with a fault over a bare socket; returns all that comes until the line is closed."""
    body = f"key=sandbox-smm1st&action=add&service=1&quantity=100&link=x%3Ffault%3D{fault}"
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /smm1st/api/v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body.encode())
    )
    try:
        async with asyncio.timeout(wait):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def taken(address: str) -> int:
    async with httpx.AsyncClient() as client:
        return len((await client.get(f"{address}/smm1st/sandbox/orders")).json())


async def test_an_answer_comes_whole_without_a_fault(address: str) -> None:
    head, _, body = (await dialogue(address, "none")).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert {"order": FIRST} == json.loads(body)


@pytest.mark.parametrize(("fault", "orders"), [("drop-before", 0), ("drop-after", 1)])
async def test_a_dropped_line_says_not_a_byte(address: str, fault: str, orders: int) -> None:
    assert b"" == await dialogue(address, fault)
    assert orders == await taken(address)


async def test_half_an_answer_ends_in_the_middle(address: str) -> None:
    head, _, body = (await dialogue(address, "half")).partition(b"\r\n\r\n")

    promised = int(dict(line.split(b": ") for line in head.split(b"\r\n")[1:])[b"content-length"])
    assert 0 < len(body) < promised
    assert 1 == await taken(address)


async def test_a_hanging_panel_takes_the_order_and_never_answers(address: str) -> None:
    with pytest.raises(TimeoutError):
        await dialogue(address, "hang", wait=0.3)
    assert 1 == await taken(address)


async def test_a_client_sees_a_dropped_line_as_one(address: str) -> None:
    form = {"key": "sandbox-smm1st", "action": "balance"}
    async with httpx.AsyncClient(base_url=address) as client:
        await client.post("/smm1st/api/v2", data=form)  # the line is used again
        await client.post("/smm1st/sandbox/faults", json={"fault": "drop-after"})
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/smm1st/api/v2", data=form)

        assert 200 == (await client.post("/smm1st/api/v2", data=form)).status_code


async def test_a_slow_answer_comes_after_its_seconds(address: str) -> None:
    form = {"key": "sandbox-smm1st", "action": "balance"}
    slow = {"fault": "slow", "seconds": 0.3}
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(base_url=address) as client:
        await client.post("/smm1st/sandbox/faults", json=slow)
        began = loop.time()
        answer = await client.post("/smm1st/api/v2", data=form)

    assert "balance" in answer.json()
    assert loop.time() - began >= 0.3


PROGRAM = """
import socket
from gateway import sandbox
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
sandbox.serve(listening, speed=600)
"""


@contextmanager
def served() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``serve`` on a bound socket in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


async def test_serving_stops_when_told_although_an_answer_hangs() -> None:
    with served() as (process, address):
        with pytest.raises(TimeoutError):
            await dialogue(address, "hang", wait=1)
        hanging = asyncio.create_task(dialogue(address, "hang", wait=20))
        await asyncio.sleep(0.3)
        process.terminate()
        async with asyncio.timeout(10):
            while process.poll() is None:
                await asyncio.sleep(0.05)
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
