"""`/api/v2` from outside: every way in, every action, every error to the letter."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import httpx
import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.errors import ErrorText, StoreUnavailable
from gateway.model import Refill
from gateway.order_types import table
from gateway.store import Store
from world import ROWS, YAML, Panel, World, world

FORM = "application/x-www-form-urlencoded"


def _types() -> list[dict[str, object]]:
    """Return an offer of every type, ids from 1."""
    return [
        ROWS[0] | {"service": number, "name": kind.name, "type": kind.name, "min": "1"}
        for number, kind in enumerate(table(), 1)
    ]


ALL_TYPES = (
    YAML.split("services:")[0]
    + "services:\n"
    + "".join(
        f"  {100 + number}: {{routes: [p/{number}]}}\n" for number in range(1, len(table()) + 1)
    )
)
TYPE_IDS = {kind.name: 100 + number for number, kind in enumerate(table(), 1)}

# What a customer sends for each type, the charge at 0.90 per 1000, and what the panel gets.
BOUGHT: list[tuple[str, dict[str, str], str]] = [
    ("Default", {"quantity": "1000"}, "0.90"),
    ("Default", {"quantity": "100", "runs": "10", "interval": "60"}, "0.90"),
    ("Package", {}, "0.90"),
    ("Custom Comments", {"comments": "Nice!\nWow & co\n+1 100%"}, "0.0027"),
    ("Custom Comments Package", {"comments": "Nice!\nWow"}, "0.90"),
    ("Mentions", {"quantity": "10", "usernames": "a\nb"}, "0.009"),
    (
        "Mentions with Hashtags",
        {"quantity": "10", "usernames": "a\nb", "hashtags": "#x\n#y"},
        "0.009",
    ),
    ("Mentions Custom List", {"usernames": "a\nb\nc\nd"}, "0.0036"),
    ("Mentions Hashtag", {"quantity": "10", "hashtag": "#x"}, "0.009"),
    ("Mentions User Followers", {"quantity": "10", "username": "https://x.com/a"}, "0.009"),
    ("Mentions Media Likers", {"quantity": "10", "media": "https://x.com/p/1"}, "0.009"),
    ("Comment Likes", {"quantity": "10", "username": "a"}, "0.009"),
    ("Comment Replies", {"username": "a", "comments": "x\ny"}, "0.0018"),
    ("Poll", {"quantity": "10", "answer_number": "2"}, "0.009"),
    ("Invites from Groups", {"quantity": "10", "groups": "g1\ng2"}, "0.009"),
    ("SEO", {"quantity": "10", "keywords": "k1\nk2"}, "0.009"),
    (
        "Web Traffic",
        {
            "quantity": "10",
            "country": "DE",
            "device": "5",
            "type_of_traffic": "1",
            "google_keyword": "k",
        },
        "0.009",
    ),
    (
        "Subscriptions",
        {"username": "me", "min": "10", "max": "20", "delay": "30", "posts": "5"},
        "0.09",
    ),
]


@pytest.mark.parametrize(
    ("kind", "params", "charge"), BOUGHT, ids=[f"{n} {one[0]}" for n, one in enumerate(BOUGHT)]
)
async def test_every_order_type_can_be_bought(
    tmp_path: Path, kind: str, params: dict[str, str], charge: str
) -> None:
    panel = Panel(services=_types())
    link = {} if kind == "Subscriptions" else {"link": "https://x.com/?a=1&b=c+d%20e"}
    async with world(tmp_path, ALL_TYPES, p=panel) as one:
        added = await one.api("add", service=TYPE_IDS[kind], **link, **params)
        held = (await one.order(1)).charge

        assert {"order": 1} == added
        [sent] = panel.asked("add")
        assert {"action": "add", "service": str(TYPE_IDS[kind] - 100), **link, **params} == sent
        assert int(float(charge) * 1_000_000 + 0.5) == held


@pytest.mark.parametrize("kind", table(), ids=lambda kind: kind.name)
async def test_each_required_parameter_is_required(tmp_path: Path, kind: Any) -> None:
    complete = next(params for name, params, _ in BOUGHT if name == kind.name)
    if "link" in kind.required:
        complete = complete | {"link": "https://x.com/a"}
    async with world(tmp_path, ALL_TYPES, p=Panel(services=_types())) as one:
        for missing in kind.required:
            for absent in ({}, {missing: ""}, {missing: "undefined"}, {missing: "null"}):
                params = {n: v for n, v in complete.items() if n != missing} | absent
                answer = await one.api("add", service=TYPE_IDS[kind.name], **params)
                assert {"error": "Incorrect request"} == answer, (missing, absent)
        assert "100.00" == await one.balance()


def _ways(key: str) -> list[tuple[str, str, dict[str, Any]]]:
    params = {"key": key, "action": "balance"}
    action = {"action": "balance"}
    query = urlencode(params)
    part = {"key": (None, key), "action": (None, "balance")}
    raw = {"headers": {"content-type": FORM}}
    return [
        ("POST", "/api/v2", {"data": params}),
        ("POST", "/api/v2/", {"data": params}),
        ("POST", "/api/v2", {"files": part}),
        ("POST", "/api/v2", {"json": params}),
        ("GET", f"/api/v2?{query}", {}),
        ("GET", f"/api/v2/?{query}", {}),
        ("POST", f"/api/v2?{query}", {}),
        ("POST", f"/api/v2?key={key}", {"data": action}),
        ("POST", "/api/v2", {"data": action, "headers": {"Authorization": f"Bearer {key}"}}),
        ("POST", "/api/v2", {"data": action, "headers": {"authorization": f"bearer {key}"}}),
        ("POST", "/api/v2", {"data": action, "headers": {"X-Api-Key": key}}),
        ("POST", "/api/v2", {"data": action | {"key": "undefined"}, "headers": {"X-Api-Key": key}}),
        ("POST", "/api/v2", {"content": query}),
        ("POST", "/api/v2", {"content": json.dumps(params)}),
        ("POST", "/api/v2", {"content": json.dumps(params), **raw}),
        ("POST", "/api/v2", {"content": query, "headers": {"content-type": "text/plain"}}),
        ("POST", "/api/v2", {"content": f"{query}&runs=undefined&x[]=1&&=&y", **raw}),
        ("POST", "/api/v2", {"content": f"action=add&key=x&{query}", **raw}),
        ("POST", "/api/v2", {"data": params, "headers": {"user-agent": "Mozilla/4.0 (MSIE 5.01)"}}),
    ]


@pytest.mark.parametrize("way", range(len(_ways(""))))
async def test_every_way_in(tmp_path: Path, way: int) -> None:
    async with world(tmp_path) as one:
        method, path, what = _ways(one.key)[way]
        answer = await one.client.request(method, path, **what)

        assert (200, {"balance": "100.00", "currency": "USD"}) == (
            answer.status_code,
            answer.json(),
        )
        assert answer.content.startswith(b"{")
        assert "application/json; charset=utf-8" == answer.headers["content-type"]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"action": ""}, ErrorText.INCORRECT_REQUEST),
        ({"action": "teleport"}, ErrorText.INCORRECT_REQUEST),
        ({"action": "balance", "key": ""}, ErrorText.INVALID_KEY),
        ({"action": "balance", "key": "wrong"}, ErrorText.INVALID_KEY),
        ({"action": "balance", "key": "😀"}, ErrorText.INVALID_KEY),
        ({"action": "balance", "key": "x" * 100_000}, ErrorText.INVALID_KEY),
        ({"action": "add", "service": "999"}, ErrorText.INVALID_SERVICE),
        ({"action": "add", "service": "abc"}, ErrorText.INVALID_SERVICE),
        ({"action": "add", "service": "-101"}, ErrorText.INVALID_SERVICE),
        ({"action": "add", "service": "1e2"}, ErrorText.INVALID_SERVICE),
        ({"action": "add", "service": "9" * 50}, ErrorText.INVALID_SERVICE),
        ({"action": "add", "service": ""}, ErrorText.INCORRECT_REQUEST),
        ({"action": "add", "link": "not a link"}, ErrorText.BAD_LINK),
        ({"action": "add", "link": "https://"}, ErrorText.BAD_LINK),
        ({"action": "add", "link": "javascript:alert(1)"}, ErrorText.BAD_LINK),
        ({"action": "add", "link": "https://x.com/" + "a" * 5000}, ErrorText.BAD_LINK),
        ({"action": "add", "quantity": "49"}, ErrorText.INVALID_QUANTITY),
        ({"action": "add", "quantity": "10001"}, ErrorText.INVALID_QUANTITY),
        ({"action": "add", "quantity": "-100"}, ErrorText.INVALID_QUANTITY),
        ({"action": "add", "quantity": "1e2"}, ErrorText.INVALID_QUANTITY),
        ({"action": "add", "quantity": "100.5"}, ErrorText.INVALID_QUANTITY),
        ({"action": "add", "quantity": "NaN"}, ErrorText.INVALID_QUANTITY),
        ({"action": "add", "quantity": "١٠٠"}, ErrorText.INVALID_QUANTITY),
        ({"action": "add", "quantity": "9" * 400}, ErrorText.INVALID_QUANTITY),
        ({"action": "add", "runs": "-1", "quantity": "-1000"}, ErrorText.INVALID_QUANTITY),
        ({"action": "add", "runs": "-1"}, ErrorText.INCORRECT_RUNS),
        ({"action": "add", "runs": "two"}, ErrorText.INCORRECT_RUNS),
        ({"action": "add", "runs": "2"}, ErrorText.INCORRECT_INTERVAL),
        ({"action": "add", "runs": "2", "interval": "-5"}, ErrorText.INCORRECT_INTERVAL),
        (
            {"action": "add", "runs": "2000", "interval": "5", "quantity": "10000"},
            ErrorText.NOT_ENOUGH_FUNDS,
        ),
        ({"action": "add", "link": "https://x.com/\0"}, ErrorText.INCORRECT_REQUEST),
        ({"action": "status"}, ErrorText.INCORRECT_REQUEST),
        ({"action": "status", "order": "7"}, ErrorText.INCORRECT_ORDER),
        ({"action": "status", "order": "x"}, ErrorText.INCORRECT_ORDER),
        ({"action": "status", "order": "9" * 30}, ErrorText.INCORRECT_ORDER),
        ({"action": "status", "orders": " , ,"}, ErrorText.INCORRECT_REQUEST),
        (
            {"action": "status", "orders": ",".join(map(str, range(1001)))},
            ErrorText.INCORRECT_REQUEST,
        ),
        ({"action": "refill", "order": "7"}, ErrorText.INCORRECT_ORDER),
        ({"action": "refill_status", "refill": "7"}, ErrorText.REFILL_NOT_FOUND),
        ({"action": "cancel"}, ErrorText.INCORRECT_REQUEST),
    ],
)
async def test_every_mistake_has_its_text_and_costs_nothing(
    tmp_path: Path, params: dict[str, str], text: ErrorText
) -> None:
    usual = {"service": "101", "link": "https://x.com/a", "quantity": "100"}
    panel = Panel()
    async with world(tmp_path, p=panel) as one:
        sent = {"key": one.key} | (usual if params["action"] == "add" else {}) | params
        answer = await one.client.post("/api/v2", data=sent)

        assert (200, {"error": text}) == (answer.status_code, answer.json())
        assert [] == panel.asked("add")
        assert "100.00" == await one.balance()


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    body=st.one_of(
        st.binary(max_size=300),
        st.dictionaries(
            st.sampled_from(["action", "key", "service", "link", "quantity", "order", "runs"]),
            st.text(max_size=20) | st.integers().map(str),
        ).map(lambda form: urlencode(form, errors="surrogatepass").encode()),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    content_type=st.sampled_from(
        [
            FORM,
            "application/json",
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "",
            "é",
        ]
    ),
    good=st.booleans(),
)
def test_nothing_that_is_sent_breaks_it(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, content_type: str, good: bool
) -> None:
    async def send() -> None:
        async with world(tmp_path_factory.mktemp("fuzz")) as one:
            headers: dict[bytes, bytes] = {b"content-type": content_type.encode()}
            if good:
                headers[b"x-api-key"] = one.key.encode()
                body_ = b"action=add&service=101&" + body
            else:
                body_ = body
            answer = await one.client.post("/api/v2", content=body_, headers=headers)
            assert 200 == answer.status_code
            assert {"error"} == answer.json().keys()
            assert [] == await one.audit()

    asyncio.run(send())


async def test_a_body_over_256_kib_is_413_in_json(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        body = "key=" + "x" * (256 * 1024)
        answer = await one.client.post("/api/v2", content=body)

        assert (413, {"error": "Incorrect request"}) == (answer.status_code, answer.json())


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
async def test_only_get_and_post_act(tmp_path: Path, method: str) -> None:
    """A browser's question beforehand, or a link checker, must not order anything."""
    panel = Panel()
    async with world(tmp_path, p=panel) as one:
        form = {"key": one.key, "action": "add", "service": "101", "quantity": "100"}
        query = urlencode(form | {"link": "https://x.com/a"})
        answer = await one.client.request(method, f"/api/v2?{query}")

        body = b"" if method == "HEAD" else b'{"error":"Incorrect request"}'
        assert (200, body) == (answer.status_code, answer.content)
        assert [] == panel.asked("add")
        assert "100.00" == await one.balance()


async def test_a_json_true_is_no_order_1(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        await one.add()
        for orders in (True, [True]):
            body = {"key": one.key, "action": "cancel", "order": orders}
            answer = await one.client.post("/api/v2", json=body)
            assert "Incorrect order ID" in answer.text
        assert "" == (await one.order(1)).cancel


async def test_a_body_that_is_announced_too_large_is_not_waited_for(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        headers = {"content-length": "999999999"}
        answer = await one.client.post("/api/v2", content=b"key=", headers=headers)

        assert 413 == answer.status_code


async def test_half_a_request_is_not_acted_on(tmp_path: Path) -> None:
    """A client that goes away in the middle of `quantity=1000` did not order 10."""
    panel = Panel()
    async with world(tmp_path, p=panel) as one:
        form = f"key={one.key}&action=add&service=101&link=https://x.com/a&quantity=100"
        messages = [
            {"type": "http.request", "body": form.encode(), "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(_: Any) -> None:
            pytest.fail("nobody is there to be answered")

        transport = one.client._transport
        assert isinstance(transport, httpx.ASGITransport)
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/v2",
            "headers": [],
            "query_string": b"",
        }
        await transport.app(scope, receive, send)

        assert [] == panel.asked("add")
        assert "100.00" == await one.balance()


async def test_what_is_logged_of_a_request_says_whose_it_is(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        form = {"key": one.key, "action": "refill_status", "refill": "1"}
        await one.client.post("/api/v2", data=form, headers={"x-request-id": "theirs"})

        bound = {"request_id": "theirs", "customer": one.customer.id}
        assert bound == structlog.contextvars.get_contextvars()


async def test_an_order_that_is_asked_for_twice_is_told_once(tmp_path: Path) -> None:
    """Whether it is known at once or not; a name stands in an object only once."""
    async with world(tmp_path) as one:
        await one.add()
        key = {"key": one.key, "action": "status", "orders": "1,1"}
        told = [(await one.client.post("/api/v2", data=key)).text for _ in range(2)]

        assert [1, 1] == [text.count('"1":') for text in told]


async def test_a_disabled_customer_is_suspended(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        store = one.gateway.store
        await store.set_customer(one.customer, msgspec.structs.replace(one.customer, disabled=True))

        assert {"error": "Account suspended"} == await one.api("balance")


async def test_another_customers_orders_do_not_exist(tmp_path: Path) -> None:
    async with world(tmp_path, p=Panel(refill={"refill": "5"})) as one:
        await one.add()
        await one.api("refill", order=1)
        one.key = await one.customer_with("1", name="mallory")

        assert {"error": "Incorrect order ID"} == await one.api("status", order=1)
        assert {"1": {"error": "Incorrect order ID"}} == await one.api("status", orders=1)
        assert {"error": "Incorrect order ID"} == await one.api("refill", order=1)
        assert [{"order": 1, "cancel": {"error": "Incorrect order ID"}}] == await one.api(
            "cancel", orders=1
        )
        assert {"error": "Refill not found"} == await one.api("refill_status", refill=1)


# --- services -----------------------------------------------------------------------------

TIERS = """
currency: USD
exchange_rates: {INR: "0.0119"}
markup: 25%
tiers: {gold: {markup: 10%}}
providers:
  p: {adapter: smm_panel_in, url: "http://panel/p", key: "${KEY}"}
services:
  101: {routes: [p/1], name: Our followers}
  102: {routes: [p/1], rate: "1.20", refill: false}
  103: {routes: [p/999]}
"""


async def test_services_shows_the_customers_own_rates(tmp_path: Path) -> None:
    panel = Panel(
        services=[{k: v for k, v in ROWS[0].items() if k != "dripfeed"} | {"rate": "26.88"}]
    )
    async with world(tmp_path, TIERS, p=panel) as one:
        listed = await one.api("services")
        one.key = await one.customer_with("1", name="midas", tier="gold")
        golden = await one.api("services")

        row = {
            "service": 101,
            "name": "Our followers",
            "type": "Default",
            "category": "First Category",
            "rate": "0.39984",
            "min": "50",
            "max": "10000",
            "refill": True,
            "cancel": True,
            "dripfeed": True,
            "desc": "",
        }
        assert [
            row,
            row | {"service": 102, "name": "Followers", "rate": "1.20", "refill": False},
        ] == listed
        assert ["0.3518592", "1.20"] == [one["rate"] for one in golden]


async def test_the_rate_shown_is_the_rate_charged(tmp_path: Path) -> None:
    panel = Panel(services=[ROWS[0] | {"rate": "26.88"}])
    async with world(tmp_path, TIERS, money="0.39984", p=panel) as one:
        assert {"order": 1} == await one.add(quantity=1000)
        assert "0.00" == await one.balance()


async def test_an_unchanged_list_is_304(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        form = {"key": one.key, "action": "services"}
        first = await one.client.post("/api/v2", data=form)
        tag = first.headers["etag"]
        again = await one.client.post("/api/v2", data=form, headers={"If-None-Match": tag})

        assert (304, b"", tag) == (again.status_code, again.content, again.headers["etag"])


async def test_a_service_without_a_provider_is_known_and_unavailable(tmp_path: Path) -> None:
    async with world(tmp_path, TIERS) as one:
        assert {"error": "Service is unavailable"} == await one.add(service=103)


async def test_a_type_that_nobody_knows_is_sold_only_with_its_parameters(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"type": "Story Views 3000"}]
    takes = "parameters: {required: [link, story, quantity], size: quantity}"
    yaml = YAML + "  102: {routes: [p/1], " + takes + "}\n"
    panel = Panel(services=rows)
    async with world(tmp_path, yaml, p=panel) as one:
        assert [102] == [row["service"] for row in await one.api("services")]
        assert {"error": "Incorrect request"} == await one.add(service=102)
        assert {"order": 1} == await one.add(service=102, story="7")
        assert "7" == panel.asked("add")[0]["story"]


async def test_dripfeed_is_refused_where_the_provider_says_no(tmp_path: Path) -> None:
    async with world(tmp_path, p=Panel(services=[ROWS[0] | {"dripfeed": False}])) as one:
        assert {"error": "Dripfeed is not supported by this service"} == await one.add(
            runs=2, interval=5
        )
        assert {"order": 1} == await one.add(runs="undefined", interval="undefined")
        assert {"order": 2} == await one.add(runs=1)


# --- status -------------------------------------------------------------------------------


async def test_many_statuses_in_one_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        await one.add()
        shown = await one.api("status", order=1)
        wrong = {"error": "Incorrect order ID"}

        assert {"1": shown, "10": wrong} == await one.api("status", orders=" 1, 10,1 ,,")
        assert {"1": shown, "10": wrong} == await one.api("status", order="1,10")
        assert {"1": shown} == await one.api("status", orders="1")
        assert 1000 == len(await one.api("status", orders=",".join(map(str, range(1, 1001)))))


async def test_a_dripfeeds_runs_and_a_subscriptions_posts_are_shown(tmp_path: Path) -> None:
    rows = {
        "23501": {"status": "In Progress", "runs": 3},
        "23502": {"status": "Active", "posts": 2},
    }
    panel = Panel(services=_types(), status=lambda _: rows)
    async with world(tmp_path, ALL_TYPES, p=panel) as one:
        await one.add(runs=5, interval=10)
        await one.api(
            "add",
            service=TYPE_IDS["Subscriptions"],
            username="me",
            min=10,
            max=20,
            delay=0,
            posts=5,
        )
        assert "99.46" == await one.balance()
        await one.look()

        assert {
            "charge": "0.45",
            "start_count": "0",
            "status": "In progress",
            "remains": "200",
            "currency": "USD",
            "runs": 3,
        } == await one.api("status", order=1)
        shown = await one.api("status", order=2)
        assert ("Active", 2, "0.036", "USD") == tuple(
            shown[name] for name in ("status", "posts", "charge", "currency")
        )
        assert {"start_count", "remains"} <= shown.keys()

        rows["23502"] = {"status": "Expired", "posts": 3}
        await one.look()
        assert "99.496" == await one.balance()
        assert [] == await one.audit()


# --- refill and cancel --------------------------------------------------------------------


async def test_refills_are_asked_for_and_followed(tmp_path: Path) -> None:
    panel = Panel(
        refill=lambda form: (
            {"refill": "77"}
            if "order" in form
            else [
                {"order": 23501, "refill": 78},
                {"order": 23502, "refill": {"error": "Refill days are over"}},
            ]
        ),
        refill_status=lambda form: (
            {"status": "Completed"}
            if "refill" in form
            else [
                {"refill": 77, "status": "Completed"},
                {"refill": 78, "status": "Rejected"},
            ]
        ),
    )
    async with world(tmp_path, p=panel) as one:
        await one.add()
        await one.add(link="https://x.com/b")

        assert {"refill": "1"} == await one.api("refill", order=1)
        assert {"status": "Pending"} == await one.api("refill_status", refill=1)
        assert {"refill": "1"} == await one.api("refill", order=1), "it is under way already"
        assert 1 == len(panel.asked("refill"))

        await one.look_refills()

        assert {"status": "Completed"} == await one.api("refill_status", refill=1)
        assert [
            {"order": 1, "refill": 2},
            {"order": 2, "refill": {"error": "Refill is not available"}},
            {"order": 9, "refill": {"error": "Incorrect order ID"}},
        ] == await one.api("refill", orders="1,2,9")
        await one.look_refills()

        assert [
            {"refill": 1, "status": "Completed"},
            {"refill": 2, "status": "Rejected"},
            {"refill": 9, "status": {"error": "Refill not found"}},
        ] == await one.api("refill_status", refills="1,2,9")


async def test_cancels_reach_the_provider_and_each_id_has_its_answer(tmp_path: Path) -> None:
    panel = Panel(
        cancel=[
            {"order": 23501, "cancel": 1},
            {"order": 23502, "cancel": {"error": "Cancel is not available"}},
        ]
    )
    async with world(tmp_path, p=panel) as one:
        await one.add()
        await one.add(link="https://x.com/b")

        assert [
            {"order": 1, "cancel": 1},
            {"order": 2, "cancel": {"error": "Cancel is not available"}},
            {"order": 9, "cancel": {"error": "Incorrect order ID"}},
        ] == await one.api("cancel", orders="1,2,9")
        assert [{"order": 1, "cancel": 1}] == await one.api("cancel", order=1)
        assert ["23501,23502"] == [call["orders"] for call in panel.asked("cancel")]
        assert "99.82" == await one.balance()


async def test_a_cancel_that_nobody_heard_is_asked_again(tmp_path: Path) -> None:
    answers: list[Any] = [httpx.ConnectError("down"), [{"order": 23501, "cancel": 1}]]
    panel = Panel(cancel=lambda _: answers.pop(0))
    async with world(tmp_path, p=panel) as one:
        await one.add()

        assert [{"order": 1, "cancel": 1}] == await one.api("cancel", orders="1")
        assert 1 == await one.gateway.aftersales.cancel_again()
        assert 0 == await one.gateway.aftersales.cancel_again()


async def test_a_hanging_provider_delays_no_cancel_or_refill(tmp_path: Path) -> None:
    async def hang(_: object) -> object:
        await asyncio.sleep(0.5)
        return {"error": "Cancel is not available"}

    panel = Panel(cancel=hang, refill=hang)
    async with world(tmp_path, YAML + "orders: {answer_within: 50ms}\n", p=panel) as one:
        await one.add()

        assert [{"order": 1, "cancel": 1}] == await one.api("cancel", orders="1")
        assert {"refill": "1"} == await one.api("refill", order=1)
        await one.gateway.aftersales.drain(5)
        assert {"status": "Rejected"} == await one.api("refill_status", refill=1)


class Away:
    """A database that is away for the first of what comes of refills."""

    def __init__(self, store: Store, times: int) -> None:
        self.store = store
        self.times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def set_refills(self, refills: Sequence[Refill]) -> None:
        if self.times:
            self.times -= 1
            raise StoreUnavailable("away")
        await self.store.set_refills(refills)


async def test_what_came_of_refills_waits_for_the_database_and_the_log_says_so_once(
    tmp_path: Path,
) -> None:
    panel = Panel(refill={"error": "Refill is not available"})
    async with world(tmp_path, YAML + "orders: {answer_within: 50ms}\n", p=panel) as one:
        await one.add()
        await one.add(link="https://x.com/b")
        one.gateway.aftersales._store = cast(Store, Away(one.gateway.store, 2))
        with capture_logs() as lines:
            answers = [await one.api("refill", order=order) for order in (1, 2)]
            await one.gateway.aftersales.drain(5)

        assert [{"refill": "1"}, {"refill": "2"}] == answers
        assert [{"refill": refill, "status": "Rejected"} for refill in (1, 2)] == await one.api(
            "refill_status", refills="1,2"
        )
        assert ["an answer cannot be written down yet"] == [
            line["event"] for line in lines if line["log_level"] == "error"
        ]


async def test_no_provider_word_id_or_key_reaches_a_customer(tmp_path: Path) -> None:
    secret = {"error": "panel p: key upstream-secret, order 23501 at http://panel/p"}
    panel = Panel(status=secret, refill=secret, cancel=secret, refill_status=secret)

    async def everything(one: World) -> str:
        answers = [
            await one.add(),
            await one.api("refill", order=1),
            await one.api("cancel", orders=1),
            await one.look() and await one.api("status", order=1),
            await one.api("services"),
            await one.api("balance"),
        ]
        panel.answers["add"] = secret
        return json.dumps([*answers, await one.add(link="https://x.com/b")])

    async with world(tmp_path, p=panel) as one:
        said = await everything(one)

    for word in ("upstream-secret", "23501", "panel"):
        assert word not in said


async def test_a_database_that_is_gone_is_503_and_nothing_is_sent(tmp_path: Path) -> None:
    panel = Panel()
    async with world(tmp_path, p=panel) as one:
        form = {"key": one.key, "action": "add", "service": "101", "quantity": "100"}
        await one.gateway.store.close()
        with capture_logs() as lines:
            for _ in range(3):
                answer = await one.client.post("/api/v2", data=form | {"link": "https://x.com/a"})

        assert ["the database is not available"] == [line["event"] for line in lines]
        assert (503, {"error": "Service is unavailable"}) == (answer.status_code, answer.json())
        assert "5" == answer.headers["retry-after"]
        assert [] == panel.asked("add")
