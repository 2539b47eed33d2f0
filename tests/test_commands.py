"""The command line: results for people and for programs, and exit codes that scripts can trust."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from typer.testing import CliRunner, Result

import build
from gateway import reporting, transitions
from gateway.commands.main import app
from gateway.errors import ErrorText, Fault, Rejected
from gateway.model import Held, Offer, Order, Report, Status
from gateway.store import Placement, Sighting, Step, Transition
from gateway.store.sqlite import SqliteStore
from gateway.view import view

Run = Callable[..., Result]

YAML = """
currency: USD
tiers: {gold: {markup: 10%}}
providers:
  p: {adapter: api_v2, url: "http://127.0.0.1:1/api/v2", key: "${P_KEY}", timeout: 1s}
services:
  101: {routes: [p/1]}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder of its own with the owner's file in it."""
    (tmp_path / "providers.yaml").write_text(YAML)
    (tmp_path / ".env").write_text("P_KEY=upstream-secret\n")
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def command(*words: str) -> Result:
        return runner.invoke(app, words)

    return command


def parsed(result: Result) -> Any:
    assert 0 == result.exit_code, result.output
    return json.loads(result.stdout)


def test_a_customers_life(run: Run) -> None:
    added = parsed(run("customer", "add", "alice", "--credit", "25", "--tier", "gold", "--json"))

    assert {"id", "name", "key", "tier", "balance"} == added.keys()
    assert (1, "alice", "gold", "25.00") == tuple(
        added[name] for name in ("id", "name", "tier", "balance")
    )
    assert 32 == len(added["key"])

    credited = parsed(run("customer", "credit", "alice", "1.5", "--reference", "r", "--json"))
    again = parsed(run("customer", "credit", "alice", "1.5", "--reference", "r", "--json"))
    debited = parsed(run("customer", "debit", "alice", "6.5", "--json"))
    assert [("26.50", True), ("26.50", False), ("20.00", True)] == [
        (one["balance"], one["posted"]) for one in (credited, again, debited)
    ]

    renewed = parsed(run("customer", "key", "alice", "--json"))
    assert added["key"] != renewed["key"]
    assert parsed(run("customer", "disable", "alice", "--json"))["disabled"]
    assert not parsed(run("customer", "enable", "alice", "--json"))["disabled"]
    assert parsed(run("customer", "tier", "alice", "", "--json"))["tier"] is None
    assert ["alice"] == [one["name"] for one in parsed(run("customer", "list", "--json"))]
    assert "20.00" == parsed(run("customer", "show", "alice", "--json"))["balance"]
    assert added["key"] not in run("customer", "list").output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("customer", "add", ""), 2, "a customer needs a name"),
        (("customer", "add", "bob", "--credit", "-3"), 2, "write one like 25.50"),
        (("customer", "add", "bob", "--credit", "1.0000001"), 2, "more than six decimals"),
        (("customer", "add", "bob", "--credit", "NaN"), 2, "is not an amount"),
        (("customer", "add", "bob", "--tier", "iron"), 2, "there are: gold"),
        (("customer", "credit", "nobody", "5"), 2, "there is no customer nobody"),
        (("customer", "credit", "alice", "much"), 2, "is not an amount"),
        (("customer", "debit", "alice", "500"), 1, "of alice, 4.80, does not cover 500.00"),
        (("customer", "credit", "alice", "-5"), 2, "is `gateway customer debit alice 5`"),
        (("customer", "credit", "alice", "--", "-5"), 2, "`gateway customer debit alice 5`"),
        (("customer", "debit", "alice", "-.5"), 2, "is `gateway customer credit alice .5`"),
        (("customer", "credit", "alice", "5", "--refrence", "r"), 2, "--refrence"),
        (("customer", "add", "alice"), 1, "there is a customer alice already"),
        (("order", "show", "99"), 2, "there is no order 99"),
        (("customer", "limit", "alice"), 2, "say what to limit"),
        (("customer", "limit", "nobody", "--daily", "5"), 2, "there is no customer nobody"),
        (("customer", "limit", "alice", "--daily", "-5"), 2, "write one like 25.50"),
        (("customer", "limit", "alice", "--daily", "much"), 2, "is not an amount"),
        (("customer", "limit", "alice", "--from", "home"), 2, "'home' is no address"),
        (("customer", "limit", "alice", "--from", "10.0.0.1,"), 2, "is no address"),
        (("customer", "limit", "alice", "--per-second", "0"), 2, "from 1 to 1000000"),
        (("customer", "limit", "alice", "--per-second", "often"), 2, "from 1 to 1000000"),
        (("provider", "deposit", "x", "5"), 2, "there is no provider x; there are: p"),
        (("provider", "deposit", "p", "0"), 2, "write one like 50.00"),
        (("provider", "deposit", "p", "-5"), 2, "-5 is not a positive amount; write one like"),
        (("provider", "deposit", "p", "five"), 2, "is not an amount"),
        (("order", "settle", "1"), 2, "one of --upstream"),
        (("order", "settle", "1", "--placed", "--not-placed"), 2, "one of --upstream"),
        (("order", "settle", "1", "--placed", "--upstream", "5"), 2, "one of --upstream"),
        (("order", "settle", "2", "--placed"), 1, "only unknown orders"),
        (("order", "settle", "99", "--placed"), 2, "there is no order 99"),
        (("order", "settle", "1", "--upstream", "5", "--not-placed"), 2, "one of --upstream"),
        (("order", "settle", "2", "--upstream", "5"), 1, "only unknown orders"),
        (("order", "settle", "1", "--upstream", "a b"), 2, "such as 23501"),
        (("order", "settle", "1", "--upstream", "7"), 1, "another order has this id"),
        (("order", "retry", "2"), 1, "only failed orders"),
        (("order", "list", "--status", "weird"), 2, "one of Pending"),
        (("order", "list", "--since", "tomorrow"), 2, "an age like 1d"),
        (("order", "list", "--customer", "zoe"), 2, "there is no customer zoe"),
        (("order", "list", "--provider", "x"), 2, "ordered from x, and the file has no such"),
        (("sync", "x"), 2, "there is no provider x; there are: p"),
        (("sync",), 1, "p"),
        (("teleport",), 2, "No such command"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(
    run: Run, words: tuple[str, ...], code: int, said: str
) -> None:
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    result = run(*words)

    assert code == result.exit_code, result.output
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output


async def _two_orders() -> None:
    """Order 1 has an unknown outcome, order 2 is placed as 7."""
    store = await SqliteStore.open(Path("gateway.db"))
    offer = Offer("1", "n", "Default", "c", Decimal("0.9"), 1, 1000)
    choice = transitions.Choice("p", offer, 90_000, "USD", "1")
    draft = Order(
        customer=1,
        service=101,
        type="Default",
        params={"link": "https://x.com/a", "quantity": "100"},
        size=100,
        charge=100_000,
        currency="USD",
    )
    following = transitions.Following(30_000, 10**9)
    for _ in range(2):
        await store.place([Placement(1, transitions.opened(draft, choice, 10), 10)])
    await store.advance(
        [
            Step(1, transitions.unknown("hangs", 1, 20)),
            Step(2, transitions.accepted("7", 1, 20, following)),
        ]
    )
    await store.close()


def test_orders_are_listed_shown_and_settled(run: Run) -> None:
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())

    listed = parsed(run("order", "list", "--json"))
    assert [
        {
            "id": 2,
            "customer": "alice",
            "service": 101,
            "provider": "p",
            "upstream_id": "7",
            "link": "https://x.com/a",
            "quantity": 100,
            "charge": "0.10",
            "status": "Pending",
            "remains": 100,
            "created_at": "1970-01-01T00:00:00Z",
        },
        1,
    ] == [listed[0], listed[1]["id"]]
    assert [1] == [
        one["id"] for one in parsed(run("order", "list", "--status", "unknown", "--json"))
    ]
    assert [2] == [
        one["id"] for one in parsed(run("order", "list", "--status", "pending", "--json"))
    ]
    assert [] == parsed(run("order", "list", "--since", "1d", "--json"))

    shown = parsed(run("order", "show", "1", "--json"))
    assert ["placed", "unknown"] == [event["what"] for event in shown["events"]]
    assert [("hold", "0.10")] == [(one["code"], one["amount"]) for one in shown["transfers"]]

    settled = parsed(run("order", "settle", "1", "--not-placed", "--json"))
    assert "failed" == settled["status"]
    assert "4.90" == parsed(run("customer", "show", "alice", "--json"))["balance"]
    assert "queued" == parsed(run("order", "retry", "1", "--json"))["state"]
    assert "Canceled" == parsed(run("order", "cancel", "1", "--json"))["status"]
    assert {"ok": True, "problems": []}.items() <= parsed(run("audit", "--json")).items()


def test_none_of_the_orders_of_a_provider_that_the_file_names_no_more_is_no_mistake(
    run: Run, tmp_path: Path
) -> None:
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    (tmp_path / "providers.yaml").write_text(YAML.replace("  p:", "  q:").replace("p/1", "q/1"))
    listed = run("order", "list", "--provider", "p", "--status", "failed", "--json")

    assert [] == parsed(listed)


@pytest.mark.parametrize(
    ("status", "said", "left"),
    [
        (Status.CANCELED, 0, 100),
        (Status.PARTIAL, 40, 40),
        (Status.COMPLETED, None, 0),
        (Status.IN_PROGRESS, None, 100),
    ],
)
def test_the_owner_reads_of_an_order_what_its_customer_reads(
    run: Run, status: Status, said: int | None, left: int
) -> None:
    """A canceled one has all of it left, whatever its provider says."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    seen = asyncio.run(_reported(build.report(status, remains=said)))
    listed = parsed(run("order", "list", "--json"))[0]
    shown = parsed(run("order", "show", "2", "--json"))

    assert [left, left] == [listed["remains"], shown["remains"]]
    assert seen == {name: str(listed[name]) for name in ("status", "charge", "remains")}


async def _reported(report: Report) -> dict[str, object]:
    """Have the provider say this of order 2; returns what the customer reads of it then."""
    after = await _stepped(2, reporting.reported(report, 30, build.FOLLOWING, 30))
    return {name: view(after)[name] for name in ("status", "charge", "remains")}


def test_a_customers_limits_are_set_shown_and_lifted_each_on_its_own(run: Run) -> None:
    run("customer", "add", "alice", "--credit", "5")
    names = ("daily_cap", "addresses", "per_second")

    def shown(result: Result) -> list[object]:
        return [parsed(result)[name] for name in names]

    assert [None, [], None] == shown(run("customer", "show", "alice", "--json"))
    networks = "203.0.113.7, 10.0.0.0/8,2001:DB8::/32"
    assert ["50.00", [], None] == shown(
        run("customer", "limit", "alice", "--daily", "50", "--json")
    )
    assert ["50.00", ["203.0.113.7/32", "10.0.0.0/8", "2001:db8::/32"], None] == shown(
        run("customer", "limit", "alice", "--from", networks, "--json")
    )
    run("customer", "limit", "alice", "--per-second", "20", "--daily", "0.5")
    assert ["0.50", ["203.0.113.7/32", "10.0.0.0/8", "2001:db8::/32"], 20] == shown(
        run("customer", "show", "alice", "--json")
    )
    assert "0.50" in run("customer", "show", "alice").output

    every = ("--daily", "none", "--from", "any", "--per-second", "usual")
    assert [None, [], None] == shown(run("customer", "limit", "alice", *every, "--json"))


def test_what_was_ordered_today_is_shown_beside_what_may_be(run: Run) -> None:
    """Else nobody sees why a customer with money has not enough funds."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    asyncio.run(_again())
    run("customer", "limit", "alice", "--daily", "0.15")
    shown = parsed(run("customer", "show", "alice", "--json"))

    assert ("0.10", "0.15") == (shown["ordered_today"], shown["daily_cap"])


def test_a_wrong_limit_changes_none_of_them(run: Run) -> None:
    run("customer", "add", "alice")
    run("customer", "limit", "alice", "--daily", "50")
    result = run("customer", "limit", "alice", "--daily", "7", "--per-second", "0")

    assert 2 == result.exit_code
    assert "50.00" == parsed(run("customer", "show", "alice", "--json"))["daily_cap"]


def test_a_deposit_is_booked_once(run: Run, tmp_path: Path) -> None:
    booked = [
        parsed(run("provider", "deposit", "p", "50.5", "--reference", "r", "--json"))
        for _ in range(2)
    ]
    deposit = {"provider": "p", "deposit": "50.50", "currency": "USD"}
    assert [deposit | {"posted": True}, deposit | {"posted": False}] == booked
    assert "nothing was done" in run("provider", "deposit", "p", "50.5", "--reference", "r").output
    other = run("provider", "deposit", "p", "50.6", "--reference", "r")
    assert (1, True) == (other.exit_code, "another amount" in other.output)
    assert parsed(run("provider", "deposit", "p", "1", "--json"))["posted"]
    assert parsed(run("provider", "deposit", "p", "1", "--json"))["posted"]

    db = apsw.Connection(str(tmp_path / "gateway.db"))
    rows = db.execute("SELECT kind, balance FROM accounts WHERE owner = 'p'")
    found = {str(kind): balance for kind, balance in rows}
    db.close()
    assert {"purse": 52_500_000, "paid": -52_500_000} == found
    assert parsed(run("audit", "--json"))["ok"]


LOCKED_OUT = Rejected(Fault.ACCOUNT, ErrorText.UNAVAILABLE, "Invalid API key")


@pytest.mark.parametrize(
    ("seen", "health", "advice"),
    [
        (None, "not seen yet", "`gateway sync p` fetches its list"),
        (Sighting("p", trouble=str(LOCKED_OUT)), "account: Invalid API key", "its key"),
        (Sighting("p", trouble="p: no answer"), "p: no answer", "it is asked again by itself"),
        (Sighting("p", synced_at=5), "list too old", "`gateway sync p` tells why"),
        (Sighting("p", synced_at=2**47, balance=4_999_999), "low balance", "it is under 5; pay in"),
        (Sighting("p", synced_at=2**47, balance=5_000_000), "ok", ""),
    ],
)
def test_of_a_provider_in_trouble_it_is_said_what_to_do(
    run: Run, tmp_path: Path, seen: Sighting | None, health: str, advice: str
) -> None:
    yaml = YAML.replace("timeout: 1s", "low_balance: 5")
    (tmp_path / "providers.yaml").write_text(yaml)
    asyncio.run(_sighted(seen))
    (row,) = parsed(run("provider", "list", "--json"))
    read = " ".join(run("provider", "list").output.split())

    assert (health, True) == (row["health"], advice in (row["advice"] or ""))
    assert bool(advice) is (f"p: {row['advice']}" in read)


async def _sighted(seen: Sighting | None) -> None:
    store = await SqliteStore.open(Path("gateway.db"))
    await store.sight([seen] if seen else [])
    await store.close()


def test_an_order_can_be_settled_as_placed_before_its_id_is_known(run: Run) -> None:
    """Its money is captured at once; it is followed no further until it has an id, and says so."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())

    settled = parsed(run("order", "settle", "1", "--placed", "--json"))
    assert ("placed", "Pending", None, None) == tuple(
        settled[name] for name in ("state", "status", "upstream_id", "next_look")
    )
    assert ["hold", "capture", "cost"] == [one["code"] for one in settled["transfers"]]
    assert "under an id that is not known" in settled["evidence"]["says"]
    assert "--upstream THEIR_ID" in settled["evidence"]["decide"]
    again = run("order", "settle", "1", "--placed")
    assert (1, True) == (again.exit_code, "only unknown orders" in again.output)

    assert 1 == run("order", "settle", "1", "--upstream", "7").exit_code, "it is order 2's"
    named = parsed(run("order", "settle", "1", "--upstream", "8", "--json"))
    assert ("placed", "8", None) == tuple(
        named[name] for name in ("state", "upstream_id", "evidence")
    )
    assert named["next_look"]
    assert settled["transfers"] == named["transfers"]
    assert ["placed", "unknown", "settled as placed", "identified"] == [
        event["what"] for event in named["events"]
    ]
    assert {"ok": True, "problems": []}.items() <= parsed(run("audit", "--json")).items()


WRONG = build.report(Status.CANCELED, charge=0, remains=0)
"""What a provider says of somebody else's order."""


def test_an_order_that_was_given_a_wrong_id_gets_the_right_one(run: Run) -> None:
    """What was reported under that, of another order, counts no more, however late it comes."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    run("order", "settle", "1", "--upstream", "8")
    asyncio.run(_stepped(1, reporting.reported(WRONG, 30, build.FOLLOWING, 30)))
    canceled = parsed(run("order", "show", "1", "--json"))
    same = run("order", "settle", "1", "--upstream", "8")
    taken = run("order", "settle", "1", "--upstream", "7")
    right = parsed(run("order", "settle", "1", "--upstream", "9", "--json"))
    asyncio.run(_stepped(1, reporting.reported(WRONG, 40, build.FOLLOWING, 40)))
    after = parsed(run("order", "show", "1", "--json"))

    assert ("Canceled", "0.00", "0.00") == tuple(
        canceled[name] for name in ("status", "charge", "cost")
    )
    assert (1, True) == (same.exit_code, "p has it as 8" in " ".join(same.output.split()))
    assert (1, True) == (taken.exit_code, "another order has this id" in taken.output)
    assert ("9", "Pending", "0.10", "0.09", 100) == tuple(
        right[name] for name in ("upstream_id", "status", "charge", "cost", "remains")
    )
    assert ("corrected", "owner", "8", "9", "0.09 USD") == tuple(
        right["events"][-1][name] for name in ("what", "by", "before", "upstream_id", "cost")
    )
    assert right["next_look"] == right["events"][-1]["at"]
    assert right == after
    assert "4.80" == parsed(run("customer", "show", "alice", "--json"))["balance"]
    assert {"ok": True, "problems": []}.items() <= parsed(run("audit", "--json")).items()


def test_ids_of_two_orders_that_were_mixed_up_can_be_exchanged(run: Run) -> None:
    """One of them is without an id meanwhile; what it was told to cancel, it is told again."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    asyncio.run(_again())
    for order, upstream_id in (("1", "9"), ("3", "8")):
        run("order", "settle", order, "--upstream", upstream_id)
    canceled = (transitions.cancel_wanted(30), transitions.cancel_answered(None, 30))
    asyncio.run(_stepped(1, *canceled))
    nameless = parsed(run("order", "settle", "1", "--placed", "--json"))
    run("order", "settle", "3", "--upstream", "9")
    run("order", "settle", "1", "--upstream", "8")
    listed = parsed(run("order", "list", "--json"))

    assert (None, "wanted") == (nameless["upstream_id"], nameless["cancel"])
    assert ["9", "7", "8"] == [one["upstream_id"] for one in listed]
    assert {"ok": True, "problems": []}.items() <= parsed(run("audit", "--json")).items()


def test_what_another_order_has_cost_is_not_what_this_one_costs(run: Run) -> None:
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    run("order", "settle", "1", "--upstream", "8")
    dear = build.report(Status.COMPLETED, charge=5_000_000)
    asyncio.run(_stepped(1, reporting.reported(dear, 30, build.FOLLOWING, 30)))
    run("order", "settle", "1", "--upstream", "9")
    partial = build.report(Status.PARTIAL, remains=50)
    at = time.time_ns() // 1_000_000 + 1
    asyncio.run(_stepped(1, reporting.reported(partial, at, build.FOLLOWING, at)))

    assert "0.045" == parsed(run("order", "show", "1", "--json"))["cost"]


def test_an_id_that_its_provider_gave_an_order_is_not_put_right(run: Run) -> None:
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    refused = [run("order", "settle", "2", *said) for said in (("--upstream", "9"), ("--placed",))]

    assert [1, 1] == [one.exit_code for one in refused]
    assert "7" == parsed(run("order", "show", "2", "--json"))["upstream_id"]


async def _stepped(order: int, *changes: Transition) -> Order:
    """Take an order further."""
    store = await SqliteStore.open(Path("gateway.db"))
    for change in changes:
        (after,) = await store.advance([Step(order, change)])
    await store.close()
    assert isinstance(after, Order)
    return after


@contextmanager
def answering(folder: Path, answer: object) -> Iterator[None]:
    """Let the provider answer whatever it is asked with this."""

    class Panel(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Panel) as server:
        threading.Thread(target=server.serve_forever).start()
        yaml = YAML.replace("127.0.0.1:1/", f"127.0.0.1:{server.server_port}/")
        (folder / "providers.yaml").write_text(yaml)
        yield
        server.shutdown()


def test_a_placed_order_that_its_provider_denies_can_be_ended(run: Run, tmp_path: Path) -> None:
    """Its money is back by new transfers, and it is neither at risk nor asked for any more."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    with answering(tmp_path, {"error": "Incorrect order ID"}):
        ended = parsed(run("order", "settle", "2", "--not-placed", "--json"))
    again = run("order", "settle", "2", "--not-placed")
    sent_again = run("order", "retry", "2")

    assert ("failed", "7", "0.00", None) == tuple(
        ended[name] for name in ("status", "upstream_id", "charge", "next_look")
    )
    assert ["hold", "capture", "cost", "refund", "rebate"] == [
        one["code"] for one in ended["transfers"]
    ]
    assert ("settled as not placed", "owner", "Incorrect order ID") == tuple(
        ended["events"][-1][name] for name in ("what", "by", "words")
    )
    assert "p took it as 7, and here it is given up" == ended["evidence"]["says"]
    assert ["0.09"] == [one["unsettled"] for one in parsed(run("provider", "list", "--json"))]
    assert {"ok": True, "problems": []}.items() <= parsed(run("audit", "--json")).items()
    assert [1, 1] == [again.exit_code, sent_again.exit_code]
    assert "it may be there twice" in " ".join(sent_again.output.split())


def test_an_id_that_the_provider_denies_is_not_taken_for_an_orders(
    run: Run, tmp_path: Path
) -> None:
    """It was mistyped; where nobody can be asked, the owner's word is enough."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    with answering(tmp_path, {"error": "Incorrect order ID"}):
        denied = run("order", "settle", "1", "--upstream", "99999")
    shown = parsed(run("order", "show", "1", "--json"))
    unheard = run("order", "settle", "1", "--upstream", "8", "--json")

    assert (1, True) == (denied.exit_code, "p has no order 99999" in denied.output)
    assert "unknown" == shown["state"]
    assert "8" == parsed(unheard)["upstream_id"]
    assert "p could not be asked for 8" in unheard.stderr


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"charge": "0.045"}, "p has 8 at 0.045, while order 1 is of 100 and should cost 0.09;"),
        ({"charge": "0.09", "quantity": "50"}, "p has 8 of 50 at 0.09, while order 1 is of 100"),
        ({"charge": "0.09", "quantity": "100"}, ""),
        ({"charge": None}, ""),
        ({"charge": "0.01", "status": "Partial"}, ""),
    ],
)
def test_an_id_that_seems_to_be_another_orders_is_taken_with_a_warning(
    run: Run, tmp_path: Path, row: dict[str, object], told: str
) -> None:
    """The owner's word counts: the price may have changed since."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    with answering(tmp_path, {"status": "In progress", "remains": "10", "currency": "USD"} | row):
        settled = run("order", "settle", "1", "--upstream", "8", "--json")

    assert "8" == parsed(settled)["upstream_id"]
    assert told in " ".join(settled.stderr.split())
    assert bool(told) is ("again, with the right id" in " ".join(settled.stderr.split()))


def test_commands_go_by_the_last_good_file_as_serving_does(run: Run, tmp_path: Path) -> None:
    """A key must be locked also while the owner is in the middle of writing his file."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_kept(YAML))
    (tmp_path / "providers.yaml").write_text(YAML + "\tbroken")
    disabled = run("customer", "disable", "alice", "--json")

    assert parsed(disabled)["disabled"]
    assert "providers.yaml:" in disabled.stderr
    assert "the last good file is in force" in disabled.stderr
    assert 1 == run("check").exit_code


async def _kept(text: str) -> None:
    """Have a gateway served by this file once."""
    store = await SqliteStore.open(Path("gateway.db"))
    await store.keep_configuration(text, 1)
    await store.close()


def test_without_a_good_file_no_database_is_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text("nonsense")

    assert 1 == run("audit").exit_code
    assert not (tmp_path / "gateway.db").exists()


def test_a_new_database_is_said_to_be_one(run: Run) -> None:
    """From another folder it is another one, and an audit of nothing adds up."""
    said = "a new database: sqlite:///gateway.db"

    assert [True, False] == [said in run("audit").stderr for _ in range(2)]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": "In progress", "charge": "0.09"}, "p has it as 7: In progress"),
        ({"error": "Invalid API key"}, "could not be asked for 7: Invalid API key"),
        (["what?"], "could not be asked for 7: "),
    ],
)
def test_a_placed_order_that_its_provider_does_not_deny_stays(
    run: Run, tmp_path: Path, answer: object, said: str
) -> None:
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    with answering(tmp_path, answer):
        refused = run("order", "settle", "2", "--not-placed")

    assert (1, True) == (refused.exit_code, said in " ".join(refused.output.split()))
    assert "placed" == parsed(run("order", "show", "2", "--json"))["state"]


def test_of_an_order_whose_provider_is_gone_the_owners_word_is_enough(
    run: Run, tmp_path: Path
) -> None:
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    (tmp_path / "providers.yaml").write_text("currency: USD\n")

    assert "failed" == parsed(run("order", "settle", "2", "--not-placed", "--json"))["status"]


def test_an_order_that_was_settled_as_placed_by_mistake_can_be_ended(run: Run) -> None:
    """Till then it says that nobody can be told of the cancel that its customer wants."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    run("order", "settle", "1", "--placed")
    canceled = run("order", "cancel", "1")
    shown = parsed(run("order", "show", "1", "--json"))
    ended = parsed(run("order", "settle", "1", "--not-placed", "--json"))

    assert (1, True) == (
        canceled.exit_code,
        "p cannot be told" in " ".join(canceled.output.split()),
    )
    assert ("wanted", True) == (
        shown["cancel"],
        shown["evidence"]["says"].endswith("and p cannot be told that its cancel is wanted"),
    )
    assert shown["evidence"]["decide"].endswith("--upstream THEIR_ID, or --not-placed")
    assert ("failed", None, None) == tuple(
        ended[name] for name in ("status", "upstream_id", "evidence")
    )
    assert "4.90" == parsed(run("customer", "show", "alice", "--json"))["balance"]
    assert {"ok": True, "problems": []}.items() <= parsed(run("audit", "--json")).items()


@pytest.mark.parametrize("lost", [True, False])
def test_an_order_that_its_customer_has_placed_again_is_not_sent_as_well(
    run: Run, lost: bool
) -> None:
    """He took it for lost, and would have it twice; unless the second one is lost, too."""
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    run("order", "settle", "1", "--not-placed")
    asyncio.run(_again())
    if lost:
        run("order", "settle", "3", "--not-placed")
    result = run("order", "retry", "1")

    assert (0 if lost else 1) == result.exit_code
    assert lost is ("order 3 is the same" not in " ".join(result.output.split()))
    assert lost is ("queued" == parsed(run("order", "show", "1", "--json"))["state"])


async def _again() -> None:
    """Place order 1 once more, as order 3; its outcome is unknown."""
    store = await SqliteStore.open(Path("gateway.db"))
    order = msgspec.structs.replace((await store.orders([1]))[1], capped=True)
    at = time.time_ns() // 1_000_000
    route = build.choice("p", cost=90_000)
    await store.place([Placement(1, transitions.opened(order, route, at), at)])
    await store.advance([Step(3, transitions.unknown("hangs", 1, at))])
    await store.close()


def test_an_order_that_was_with_nobody_when_it_was_backed_up_says_so(run: Run) -> None:
    run("customer", "add", "alice", "--credit", "5")
    asyncio.run(_two_orders())
    asyncio.run(_restored())
    shown = parsed(run("order", "show", "3", "--json"))
    evidence, event = shown["evidence"], shown["events"][-1]
    run("order", "settle", "3", "--not-placed")
    run("order", "retry", "3")
    queued = parsed(run("order", "show", "3", "--json"))["evidence"]

    assert "had no provider when it was backed up" in evidence["says"]
    assert "gateway order settle 3 --not-placed" in evidence["decide"]
    assert {"at", "what", "words", "note"} == event.keys()
    assert "by these books no provider was asked for it" == event["note"]
    assert "it waits for a route that can take it" in queued["says"]
    assert "gateway catalog show 101" in queued["decide"]


async def _restored() -> None:
    """Make of order 1 an order 3, as a backup leaves it in which it waits for a route."""
    store = await SqliteStore.open(Path("gateway.db"))
    order = msgspec.structs.replace((await store.orders([1]))[1], provider="", route="")
    at = time.time_ns() // 1_000_000
    await store.place([Placement(1, transitions.opened(order, None, at), at)])
    await store.advance([Step(3, transitions.unknown("restored from a backup", None, at))])
    await store.close()


def test_an_audit_that_finds_something_exits_1(run: Run, tmp_path: Path) -> None:
    run("customer", "add", "alice", "--credit", "5")
    db = apsw.Connection(str(tmp_path / "gateway.db"))
    db.execute("UPDATE accounts SET balance = 6000000 WHERE kind = 'available'")
    db.close()
    result = run("audit", "--json")

    assert 1 == result.exit_code
    found = json.loads(result.stdout)
    assert not found["ok"]
    assert any("available of 1" in problem for problem in found["problems"])


def test_check_says_every_mistake_with_its_line(run: Run, tmp_path: Path) -> None:
    assert 0 == run("check").exit_code
    bad = tmp_path / "bad.yaml"
    bad.write_text(YAML.replace("currency: USD", "currenzy: USD").replace("p/1", "q/1"))
    result = run("check", str(bad), "--json")

    assert 1 == result.exit_code
    mistakes = json.loads(result.stdout)["mistakes"]
    assert all(one.startswith(f"{bad}:") for one in mistakes)
    assert 3 == len(mistakes)


def test_no_command_prints_a_providers_key(run: Run) -> None:
    for words in (("check",), ("sync",), ("provider", "list"), ("provider", "list", "--json")):
        assert "upstream-secret" not in run(*words).output


def test_a_database_of_another_kind_is_refused_plainly(run: Run) -> None:
    result = run("--database-url", "mysql://x/y", "audit")

    assert 1 == result.exit_code
    assert "give sqlite:///" in result.output


# --- the catalog ----------------------------------------------------------------------------------

OFFER = Offer("1", "Followers", "Default", "Instagram", Decimal("0.90"), 10, 1000)


@pytest.fixture
def quarantined(run: Run, tmp_path: Path) -> Run:
    """Let a provider jump with one rate, fall with another, and shorten its list."""
    offers = [OFFER, *(msgspec.structs.replace(OFFER, id=str(n)) for n in range(2, 5))]
    dearer = msgspec.structs.replace(OFFER, rate=Decimal(9))
    cheaper = msgspec.structs.replace(offers[1], rate=Decimal("0.01"))

    async def go() -> None:
        store = await SqliteStore.open(tmp_path / "gateway.db")
        now = int(time.time() * 1000)
        await build.listed(store, "p", offers, now)
        held = [
            Held("p", "1", "its rate was 0.90 and is 9", paused=True, offered=dearer, at=now),
            Held("p", "2", "its rate was 0.90 and is 0.01", offered=cheaper, at=now),
        ]
        await build.listed(store, "p", offers, now, held=held)
        await store.hold_back(Held("p", "", "lists 1 services instead of 4", services=1, at=now))
        await store.close()

    asyncio.run(go())
    return run


def test_what_waits_is_listed_and_counted(quarantined: Run) -> None:
    listed = parsed(quarantined("catalog", "quarantine", "--json"))
    (provider,) = parsed(quarantined("provider", "list", "--json"))

    assert [("p", "as it was"), ("p/1", "paused"), ("p/2", "as it was")] == [
        (row["id"], row["meanwhile"]) for row in listed
    ]
    assert 3 == provider["held_back"]
    assert "its rate was 0.90 and is 9" in quarantined("catalog", "quarantine").stdout


def test_the_owner_decides_and_is_not_asked_again(quarantined: Run) -> None:
    assert ["p/1"] == parsed(quarantined("catalog", "accept", "p/1", "--json"))["accepted"]
    assert ["p/2"] == parsed(quarantined("catalog", "reject", "p/2", "--json"))["rejected"]
    assert ["p"] == parsed(quarantined("catalog", "accept", "--all", "--json"))["accepted"]
    assert [] == parsed(quarantined("catalog", "quarantine", "--json"))
    assert ["accepted", "rejected"] == [
        row["decision"]
        for row in parsed(quarantined("catalog", "quarantine", "--rejected", "--json"))
    ]
    shown = parsed(quarantined("catalog", "show", "101", "--json"))
    assert "9.00" == shown["rates"][""]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["accept"], 2, "or say --all"),
        (["reject", "p/1", "--all"], 2, "or say --all"),
        (["accept", "p/1", "p/9"], 1, "not in quarantine: p/9"),
        (["show", "7"], 1, "7 is not a service of ours"),
        (["show", "101"], 1, "101 is unavailable; p/1 is paused: its rate was 0.90 and is 9; see"),
        (["changes", "--since", "yesterday"], 2, "write an age like 1d"),
    ],
)
def test_what_is_wrong_with_a_word_on_the_catalog_is_said(
    quarantined: Run, words: list[str], code: int, says: str
) -> None:
    result = quarantined("catalog", *words)

    assert code == result.exit_code
    assert says in result.stderr
    assert 3 == len(parsed(quarantined("catalog", "quarantine", "--json")))


def test_changes_are_listed_by_age(quarantined: Run) -> None:
    quarantined("catalog", "accept", "p/2")
    listed = parsed(quarantined("catalog", "changes", "--since", "1d", "--json"))

    assert [
        ("p/2", "rate", "0.90", "0.01"),
        ("p", "first", "", "4"),
        ("p/1", "paused", "", ""),
    ] == [(row["id"], row["what"], row["before"], row["after"]) for row in listed]
    assert [] == parsed(quarantined("catalog", "changes", "--provider", "q", "--json"))
    assert [] == parsed(quarantined("catalog", "changes", "--since", "2100-01-01", "--json"))


def test_a_service_is_shown_with_what_is_left_of_each_groups_rate(quarantined: Run) -> None:
    quarantined("catalog", "accept", "p/1")
    shown = parsed(quarantined("catalog", "show", "101", "--json"))
    (route,) = shown["routes"]

    assert {"": "9.00", "gold": "9.90"} == shown["rates"]
    assert ("p/1", "9", "USD", "9.00") == tuple(
        route[name] for name in ("route", "rate", "currency", "cost")
    )
    assert {"margin": "0.00", "percent": "0.0%"} == route["margins"][""]
    assert {"margin": "0.90", "percent": "9.1%"} == route["margins"]["gold"]
    assert {"rate", "paused", "resumed"} == {row["what"] for row in shown["changes"]}
    assert "gold: 9.90 USD" in quarantined("catalog", "show", "101").stdout
