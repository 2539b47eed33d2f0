"""``gateway plan``: what a file would change, told before it does."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import build
from gateway.commands.main import app
from gateway.imports import Wanted
from gateway.model import Customer, Offer
from gateway.store import Store
from gateway.store.sqlite import SqliteStore

Run = Callable[..., Result]

PROVIDERS = """\
currency: USD
markup: 100%
tiers: {gold: {markup: 50%}}
providers:
  p: {adapter: api_v2, url: "http://127.0.0.1:1/p", key: "${P_KEY}"}
  q: {adapter: api_v2, url: "http://127.0.0.1:1/q", key: "${P_KEY}", dialect: {without: [refill]}}
"""
IN_FORCE = f"""{PROVIDERS}
services:
  1: {{routes: [p/1], name: One}}
  2: {{routes: [p/2], name: Two, rate: "1.50"}}
imports:
  - {{provider: q, ids_from: 10}}
"""
OFFERS = {
    "p": [build.offer(str(number), f"P {number}", "1.00") for number in (1, 2, 3)],
    "q": [build.offer(str(number), f"Q {number}", "2.00") for number in (1, 2)],
}


def stored(folder: Path, work: Callable[[Store], Awaitable[Any]]) -> Any:
    """Do something with the store that the command finds."""

    async def run() -> Any:
        store = await SqliteStore.open(folder / "gateway.db")
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command on a file, where another one is in force."""
    (tmp_path / ".env").write_text("P_KEY=upstream-secret\n")
    monkeypatch.chdir(tmp_path)

    async def prepare(store: Store) -> None:
        await store.keep_configuration(IN_FORCE, 1)
        for provider, rows in OFFERS.items():
            await build.listed(store, provider, rows, 1)
        await store.give([Wanted("q", str(n), f"Q {n}", 10, 100) for n in (2, 1)], [1, 2])
        for at, (name, tier) in enumerate([("ann", ""), ("bob", "gold"), ("cid", "iron")]):
            customer = Customer(id=0, name=name, tier=tier, created_at=1)
            assert await store.add_customer(customer, bytes([at]) * 32)

    stored(tmp_path, prepare)

    def command(text: str, *flags: str) -> Result:
        (tmp_path / "new.yaml").write_text(text)
        return CliRunner().invoke(app, ["plan", "new.yaml", *flags])

    return command


def told(run: Run, text: str, code: int = 0) -> dict[str, Any]:
    result = run(text, "--json")

    assert code == result.exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [row["service"] for row in rows]


NOTHING = {
    "ok": True,
    **{kind: [] for kind in ("mistakes", "warnings", "added", "gone", "dearer", "cheaper")},
    **{kind: [] for kind in ("renamed", "rerouted", "at_a_loss", "customers")},
    "tiers": {"added": [], "gone": [], "changed": []},
}


def test_the_file_in_force_changes_nothing(run: Run) -> None:
    assert NOTHING == told(run, IN_FORCE)
    assert "every service and every rate stays" in run(IN_FORCE).stdout


def test_what_comes_and_goes_is_told_with_its_rates(run: Run) -> None:
    """Imported services, too, under the ids that they would have."""
    plan = told(run, IN_FORCE.replace("2: {routes: [p/2]", "3: {routes: [p/3]").replace(
        "imports:", "imports:\n  - {provider: p, ids_from: 20}"
    ))  # fmt: skip

    assert [3, 20] == ids(plan["added"])
    assert [2] == ids(plan["gone"])
    assert {
        "service": 20,
        "name": "P 2",
        "category": "First",
        "routes": ["p/2"],
        "rates": [{"tier": None, "rate": "2.00"}, {"tier": "gold", "rate": "1.50"}],
    } == plan["added"][1]


def test_rates_that_would_move_are_told_with_the_customers_whom_that_touches(run: Run) -> None:
    """Who is in a group that there is not pays what those in none do."""
    plan = told(run, IN_FORCE.replace("markup: 100%", "markup: 120%").replace("50%", "40%"))

    assert [1, 10, 11] == ids(plan["dearer"]) == ids(plan["cheaper"])
    assert [{"tier": None, "before": "2.00", "after": "2.20"}] == plan["dearer"][0]["rates"]
    assert [{"tier": "gold", "before": "1.50", "after": "1.40"}] == plan["cheaper"][0]["rates"]
    assert {"added": [], "gone": [], "changed": [None, "gold"]} == plan["tiers"]
    assert [("ann", 3, 0), ("bob", 0, 3), ("cid", 3, 0)] == [
        (one["customer"], one["dearer"], one["cheaper"]) for one in plan["customers"]
    ]


def test_a_price_group_that_goes_touches_those_who_are_in_it(run: Run) -> None:
    plan = told(run, IN_FORCE.replace("gold:", "silver:"))

    assert {"added": ["silver"], "gone": ["gold"], "changed": ["gold", "silver"]} == plan["tiers"]
    assert [("bob", True, 3)] == [
        (one["customer"], one["tier_gone"], one["dearer"]) for one in plan["customers"]
    ]


@pytest.mark.parametrize(
    ("said", "losses"),
    [
        ('rate: "0.99"', [("0.99", False)]),
        ('rate: "1.00"', []),
        ('rate: "0.99", max_loss: 5%', [("0.99", True)]),
        ('rate: "0.01", allow_loss: true', [("0.01", True)]),
    ],
)
def test_a_fixed_rate_below_cost_is_told_and_whether_it_would_be_sold(
    run: Run, said: str, losses: list[tuple[str, bool]]
) -> None:
    plan = told(run, IN_FORCE.replace('rate: "1.50"', said))

    assert losses == [(one["rate"], one["sold"]) for one in plan["at_a_loss"] if not one["tier"]]
    assert all(("p", "1.00") == (one["provider"], one["cost"]) for one in plan["at_a_loss"])


def test_whoever_is_in_no_price_group_is_shown_to_be_in_none(run: Run) -> None:
    """An empty place in a table might be anything."""
    losing = run(IN_FORCE.replace('rate: "1.50"', 'rate: "0.01"')).stdout.splitlines()
    touched = run(IN_FORCE.replace('rate: "1.50"', 'rate: "9.99"')).stdout.splitlines()

    assert ["2", "Two", "(none)"] in [line.split()[:3] for line in losing]
    assert ["ann", "(none)"] in [line.split()[:2] for line in touched]


def test_another_name_is_told(run: Run) -> None:
    plan = told(run, IN_FORCE.replace("name: One", "name: First"))

    assert [{"service": 1, "before": "One", "after": "First"}] == plan["renamed"]


def test_another_route_is_told(run: Run) -> None:
    """Customers who order by this id may mean another thing."""
    plan = told(run, IN_FORCE.replace("routes: [p/1]", "routes: [p/2]"))
    (found,) = plan["rerouted"]

    assert (1, ["Default", "p/1"]) == (found["service"], found["before"])
    assert "p/2" == found["after"][-1]


# --- what is refused --------------------------------------------------------------------------


def test_an_id_that_means_something_else_by_now_is_refused_with_its_line(run: Run) -> None:
    """Customers have it from an import; the same service may keep it."""
    text = f"{PROVIDERS}services:\n  10: {{routes: [p/1]}}\n  11: {{routes: [p/1, q/1]}}\n"
    plan = told(run, text, 1)

    line = "new.yaml:8:3: id 10 was given to q/2 by an import, and would mean another service"
    assert [f"{line}; give another id, or that route"] == plan["mistakes"]
    assert not plan["ok"]
    shown = run(text)
    assert (1, True, "") == (shown.exit_code, line in shown.stderr, shown.stdout)


def test_a_file_with_mistakes_is_refused_with_all_of_them(run: Run) -> None:
    plan = told(run, IN_FORCE.replace("markup: 100%", "markup: much").replace("[p/1]", "[x/1]"), 1)

    assert [
        "new.yaml:2:9: 'much' is not a percentage; write it with its sign, such as 25%",
        "new.yaml:9:16: there is no provider `x`; known are p, q",
    ] == plan["mistakes"]


def test_what_is_hardly_meant_is_told_with_its_line(run: Run) -> None:
    """Such files can be taken up all the same."""
    text = f"""{PROVIDERS}
services:
  1: {{routes: [p/7, p/1], name: Same}}
  2: {{routes: [p/2], name: Same}}
imports:
  - {{provider: p, ids_from: 30}}
  - {{provider: p, ids_from: 40, names: [P*]}}
"""

    assert [
        "new.yaml:9:3: 2 services would be called 'Same'; some clients know them by their names",
        "new.yaml:9:16: p has no service 7 now",
        "new.yaml:10:3: 2 services would be called 'Same'; some clients know them by their names",
        "new.yaml:13:5: nothing fits this rule that no rule before it takes",
    ] == told(run, text)["warnings"]


# --- and nothing else happens -----------------------------------------------------------------


def test_a_plan_changes_nothing_itself(run: Run, tmp_path: Path) -> None:
    """Neither the file in force, nor which ids are given."""

    async def look(store: Store) -> tuple[object, ...]:
        given = await store.imported()
        return await store.kept_configuration(), given.ids, given.names

    before = stored(tmp_path, look)
    told(run, IN_FORCE + "  - {provider: p, ids_from: 100}\n  - {provider: p, ids_from: 5}\n")

    assert before == stored(tmp_path, look)


def test_before_the_first_start_everything_is_added(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gateway.db").unlink()

    async def fill(store: Store) -> None:
        rows: list[Offer] = OFFERS["p"]
        await build.listed(store, "p", rows, 1)

    stored(tmp_path, fill)
    plan = told(run, IN_FORCE)

    assert [1, 2] == ids(plan["added"])
    assert ["gold"] == plan["tiers"]["added"]


def test_a_long_plan_is_cut_for_people_and_whole_for_programs(run: Run, tmp_path: Path) -> None:
    async def fill(store: Store) -> None:
        rows = [build.offer(str(number), f"P {number}", "1.00") for number in range(1, 31)]
        await build.listed(store, "p", rows, 1)

    stored(tmp_path, fill)
    text = IN_FORCE + "  - {provider: p, ids_from: 100}\n"

    assert 28 == len(told(run, text)["added"])
    shown = run(text).stdout
    assert "Added: 28" in shown
    assert "… and 8 more" in shown
    assert "2.00, gold: 1.50" in shown
