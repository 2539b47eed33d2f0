"""The command line: results for people and for programs, and exit codes that scripts can trust."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner, Result

from gateway import transitions
from gateway.commands.main import app
from gateway.model import Offer, Order
from gateway.store import Placement, Step
from gateway.store.sqlite import SqliteStore

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
        (("customer", "debit", "alice", "500"), 1, "does not cover"),
        (("customer", "add", "alice"), 1, "there is a customer alice already"),
        (("order", "show", "99"), 2, "there is no order 99"),
        (("order", "settle", "1"), 2, "one of --upstream"),
        (("order", "settle", "1", "--upstream", "5", "--not-placed"), 2, "one of --upstream"),
        (("order", "settle", "2", "--upstream", "5"), 1, "only unknown orders"),
        (("order", "settle", "1", "--upstream", "a b"), 2, "such as 23501"),
        (("order", "settle", "1", "--upstream", "7"), 1, "another order has this id"),
        (("order", "retry", "2"), 1, "only failed orders"),
        (("order", "list", "--status", "weird"), 2, "one of Pending"),
        (("order", "list", "--since", "tomorrow"), 2, "an age like 1d"),
        (("order", "list", "--customer", "zoe"), 2, "there is no customer zoe"),
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
    result = run("--database-url", "postgresql://x/y", "audit")

    assert 1 == result.exit_code
    assert "use sqlite:///" in result.output
