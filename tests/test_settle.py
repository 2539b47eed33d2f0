"""Orders whose outcome nobody heard, settled through a whole gateway."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

import build
from gateway import transitions
from gateway.commands.main import app
from gateway.commands.order_facts import evidence_of
from gateway.errors import CallFailed
from gateway.evidence import Verdict
from gateway.model import Order, State, Status
from gateway.money import MILLION
from gateway.settle import Settler, weigh
from gateway.store import RESTORED, Movement, Store
from world import YAML, Form, Panel, World, world

SECOND = 1000
MINUTE = 60 * SECOND
COST = 90_000
"""What an order of a hundred costs, in millionths."""
SETTLE = YAML.replace('key: "${KEY}"', 'key: "${KEY}", limits: {per_second: 1000}, settle: RULES')
RULES = "{mode: MODE, probe_ids: IDS}"


class Till(Panel):
    """A panel that takes orders, keeps an account, and may lose its tongue."""

    def __init__(self) -> None:
        super().__init__(add=self._taken, balance=self._balance, status=self._status)
        self.account = 100 * MILLION
        self.rows: dict[str, dict[str, object]] = {}
        self.next = 23501
        self.mute = False
        self.deaf = False
        self.denied: set[str] = set()
        self.most_ids = 0

    def _taken(self, form: Form) -> object:
        if not self.deaf:
            answer = self.take(int(form["quantity"]))
        return httpx.ReadTimeout("silence") if self.mute or self.deaf else {"order": answer}

    def take(self, quantity: int = 100) -> int:
        """Take an order, ours or another's."""
        cost = quantity * 900
        self.account -= cost
        number = self.next
        self.next += 1
        self.rows[str(number)] = {
            "charge": f"{cost / MILLION:.5f}",
            "status": "In progress",
            "remains": str(quantity),
            "currency": "USD",
        }
        return number

    def cancel(self, number: int) -> None:
        """Cancel an order, and give its money back."""
        row = self.rows[str(number)]
        self.account += round(float(str(row["charge"])) * MILLION)
        row |= {"status": "Canceled", "charge": "0"}

    def _balance(self, _: Form) -> object:
        return {"balance": f"{self.account / MILLION:.5f}", "currency": "USD"}

    def _status(self, form: Form) -> object:
        ids = form.get("orders", form.get("order", "")).split(",")
        self.most_ids = max(self.most_ids, len(ids))
        rows: dict[str, object] = {
            one: {"error": "Incorrect order ID"}
            if one in self.denied or one not in self.rows
            else self.rows[one]
            for one in ids
        }
        return rows if "orders" in form else rows[ids[0]]


class Trade:
    """A gateway, and the panel that it trades with."""

    def __init__(self, one: World, panel: Till) -> None:
        self.one = one
        self.panel = panel

    async def look(self, minutes: float = 0) -> None:
        """See the balance, some minutes later."""
        self.one.clock.forward(int(minutes * MINUTE))
        await self.one.gateway.settler.look("p")

    async def add(self, quantity: int = 100, **trouble: bool) -> int:
        """Order; returns our id."""
        for name, value in trouble.items():
            setattr(self.panel, name, value)
        link = f"https://example.com/{len(self.panel.calls)}"
        answer = await self.one.add(link=link, quantity=quantity)
        self.panel.mute = self.panel.deaf = False
        self.one.clock.forward(MINUTE)
        return int(answer["order"])

    async def unknown(self, *, taken: bool, quantity: int = 100) -> int:
        """Order, and hear nothing of what became of it."""
        order = await self.add(quantity, **{"mute" if taken else "deaf": True})
        assert State.UNKNOWN is (await self.one.order(order)).state
        return order

    async def evidence(self, order: int) -> dict[str, Any]:
        """Return what the owner is shown of an order."""
        gateway = self.one.gateway
        found = await evidence_of(gateway.store, gateway.config, await self.one.order(order))
        return found or {}

    async def order(self, order: int) -> Order:
        return await self.one.order(order)


Open = Callable[..., Any]


@pytest.fixture
def trade(tmp_path: Path) -> Open:
    """Return what opens a gateway whose provider's balance was seen."""

    @asynccontextmanager
    async def opened(mode: str = "auto", ids: int = 0) -> AsyncIterator[Trade]:
        panel = Till()
        yaml = SETTLE.replace("RULES", RULES).replace("MODE", mode).replace("IDS", str(ids))
        async with world(tmp_path, yaml, p=panel) as one:
            found = Trade(one, panel)
            await found.look()
            one.clock.forward(MINUTE)
            yield found

            assert [] == await one.audit()

    return opened


# --- suggested, or done -------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [True, False])
async def test_what_the_evidence_says_is_only_suggested_unless_the_owner_says_otherwise(
    trade: Open, taken: bool
) -> None:
    async with trade("suggest", ids=300) as one:
        order = await one.unknown(taken=taken)
        with capture_logs() as logs:
            await one.look(4)
            await one.look(4)
            too_early = await one.evidence(order)
            await one.look(2)
            early = await one.evidence(order)
            await one.look(5)
            await one.look(5)
        told = [one["verdict"] for one in logs if one["event"] == "evidence of an unknown order"]
        said = await one.evidence(order)

        assert ["open", said["says"]] == told
        assert "no balance was seen since that would surely show it" == too_early["why"]
        assert ("open", True) == (early["says"], "second reading" in early["why"])
        assert ("placed" if taken else "not placed") == said["says"]
        assert ("the 0.09 that this order costs" if taken else "would have cost 0.09") in said[
            "why"
        ]
        way = "--placed, or with its id --upstream THEIR_ID" if taken else "--not-placed"
        assert f"gateway order settle {order} {way}" == said["decide"]
        assert (State.UNKNOWN, "") == (
            (await one.order(order)).state,
            (await one.order(order)).upstream_id,
        )
        assert "99.91" == await one.one.balance()
        assert [] == one.panel.asked("status")


def at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go where the owner's file and database are."""
    rules = RULES.replace("MODE", "suggest").replace("IDS", "0")
    (folder / "providers.yaml").write_text(SETTLE.replace("RULES", rules))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KEY", "upstream-secret")


def test_the_owner_is_shown_it_in_both_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trade: Open
) -> None:
    async def happen() -> None:
        async with trade("suggest") as one:
            await one.unknown(taken=True)
            await one.look(10)
            await one.look(5)

    asyncio.run(happen())
    at_home(tmp_path, monkeypatch)
    run = CliRunner()
    listed = run.invoke(app, ["order", "list", "--status", "unknown", "--json"])
    shown = run.invoke(app, ["order", "show", "1", "--json"])
    read = run.invoke(app, ["order", "show", "1"])
    decided = run.invoke(app, ["order", "settle", "1", "--placed", "--json"])
    (row,) = json.loads(listed.stdout)

    assert "placed" == row["evidence"]["says"]
    assert row["evidence"] == json.loads(shown.stdout)["evidence"]
    assert "the 0.09 that this order costs" in " ".join(read.stdout.split())
    assert "followed no further" in json.loads(decided.stdout)["evidence"]["says"]


async def test_the_owner_may_let_it_be_decided(trade: Open) -> None:
    """The money follows, and what was known is in the order's history."""
    async with trade() as one:
        placed = await one.unknown(taken=True)
        await one.look(10)
        await one.look(5)
        failed = await one.unknown(taken=False, quantity=200)
        await one.look(10)
        held = await one.one.balance()
        await one.look(5)
        events = {
            order: (await one.one.gateway.store.history(order))[0][-1] for order in (placed, failed)
        }

        assert "99.73" == held
        assert "99.91" == await one.one.balance()
        assert [State.PLACED, State.FAILED] == [
            (await one.order(order)).state for order in (placed, failed)
        ]
        assert ["settled as placed", "settled as not placed"] == [
            event.kind for event in events.values()
        ]
        assert ["evidence"] * 2 == [event.detail["by"] for event in events.values()]
        assert "this order costs" in str(events[placed].detail["words"])
        assert "Canceled" == (await one.one.api("status", order=failed))["status"]
        assert 2 == len(one.panel.asked("add"))


async def restored(one: Trade) -> None:
    """Have the books come from a backup at this moment."""
    at = one.one.clock()
    await one.one.gateway.store.end_loading({f"{RESTORED}{at}": at})
    one.one.clock.forward(MINUTE)


async def test_after_a_restore_nothing_is_decided_by_a_balance_that_lost_orders_may_move(
    trade: Open,
) -> None:
    """The owner is told what it says, and why that is not enough; for as long as that may be so."""
    async with trade("auto") as one:
        await restored(one)
        order = await one.unknown(taken=True)
        early = await one.evidence(order)
        for _ in range(3):
            await one.look(10)
        said = await one.evidence(order)
        before = await one.order(order)
        await one.one.step(order, transitions.settled(None, one.one.clock(), build.FOLLOWING))
        one.one.clock.forward(31 * 24 * 60 * MINUTE)
        await one.one.gateway.sync.fetch("p")
        await one.look()
        later = await one.unknown(taken=True)
        for _ in range(2):
            await one.look(10)

        assert ("placed", State.UNKNOWN) == (said["says"], before.state)
        assert ("open", said["but"]) == (early["says"], early["but"])
        assert "the books came from a backup" in said["but"]
        assert said["decide"].startswith("look at the panel")
        assert State.PLACED is (await one.order(later)).state


async def test_without_its_id_an_order_is_followed_no_further_and_says_so(trade: Open) -> None:
    async with trade() as one:
        order = await one.unknown(taken=True)
        await one.look(10)
        await one.look(5)
        followed = await one.one.look()
        says = (await one.evidence(order))["says"]
        its_id = next(iter(one.panel.rows))
        one.panel.rows[its_id]["status"] = "Completed"
        change = transitions.settled(its_id, one.one.clock(), build.FOLLOWING)
        await one.one.step(order, change)
        await one.one.look()

        assert (0, "p has it, under an id that is not known: it is followed no further") == (
            followed,
            says,
        )
        assert Status.COMPLETED is (await one.order(order)).status


async def test_a_provider_that_contradicts_itself_settles_nothing(trade: Open) -> None:
    """Its balance lacks the order, and then does not; nobody can tell why."""
    async with trade("suggest") as one:
        order = await one.unknown(taken=True)
        await one.look(10)
        await one.look(5)
        one.panel.account += COST
        await one.look(5)
        await one.look(5)

        said = await one.evidence(order)

        assert "open" == said["says"]
        assert "the readings of the balance contradict each other" == said["why"]


async def test_an_order_that_was_refunded_meanwhile_does_not_hide_one_that_was_taken(
    trade: Open,
) -> None:
    """It is asked for after each look, so that its refund is known before anything is concluded."""
    async with trade() as one:
        other = await one.add()
        await one.one.gateway.follow.look("p", 10)
        await one.look()
        order = await one.unknown(taken=True, quantity=300)
        one.panel.cancel(23501)
        await one.look(15)
        for _ in range(3):
            await one.look(10)

        assert Status.CANCELED is (await one.order(other)).status
        assert State.PLACED is (await one.order(order)).state


async def test_a_refund_of_an_order_that_was_settled_long_ago_hides_none_that_was_taken(
    trade: Open,
) -> None:
    """Both cost the same; whatever is still followed is asked for, however old."""
    async with trade() as one:
        other = await one.add()
        one.panel.rows["23501"] |= {"status": "Completed", "remains": "0"}
        for _ in range(3):
            await one.one.look()
        await one.one.gateway.sync.fetch("p")  # of an older catalog nothing is sold
        await one.look()
        one.one.clock.forward(MINUTE)
        order = await one.unknown(taken=True)
        one.panel.cancel(23501)
        for _ in range(3):
            await one.look(10)
        why = (await one.evidence(order))["why"]

        assert Status.CANCELED is (await one.order(other)).status
        assert State.UNKNOWN is (await one.order(order)).state
        assert "fits with this order and without it" in why


async def test_a_look_says_nothing_before_all_were_asked_for_however_many_rounds_that_takes(
    trade: Open,
) -> None:
    """The rounds go on where the last one ended, whatever the balance is meanwhile."""
    async with trade("suggest") as one:
        orders = [await one.add() for _ in range(4)]
        gateway = one.one.gateway
        settler = Settler(
            *(gateway.store, gateway.router, gateway.follow, gateway.config.providers),
            *(build.FOLLOWING, one.one.clock),
            most_asked=2,
        )
        await one.unknown(taken=False)
        asked, checked = [], []
        for _ in range(4):
            before = len(one.panel.asked("status"))
            await settler.look("p")
            one.one.clock.forward(MINUTE)
            asked.append([call["orders"] for call in one.panel.asked("status")[before:]])
            checked.append([one.checked for one in await gateway.store.readings("p", 0)])
        rounds = [["23501,23502"], ["23503,23504"], []]

        assert [1, 2, 3, 4] == orders
        assert [*rounds, rounds[0]] == asked
        assert [
            [False, False],
            [False, False, False],
            [False, True, False, False],
            [False, True, False, False, False],
        ] == checked


@pytest.mark.parametrize("denied", [True, False])
async def test_nothing_is_concluded_while_an_order_cannot_be_asked_for(
    trade: Open, denied: bool
) -> None:
    async with trade() as one:
        await one.add()
        await one.one.look()
        await one.one.gateway.sync.fetch("p")  # of an older catalog nothing is sold
        await one.look()
        order = await one.unknown(taken=False)
        if denied:
            one.panel.denied.add("23501")
        for _ in range(4):
            await one.look(10)

        assert (State.UNKNOWN if denied else State.FAILED) is (await one.order(order)).state


async def test_an_order_that_its_provider_denies_can_be_ended(trade: Open) -> None:
    """It is no longer at risk, nor asked for, nor in the way of what the evidence says."""
    async with trade() as one:
        other = await one.add()
        await one.look(10)
        one.one.clock.forward(MINUTE)
        order = await one.unknown(taken=False, quantity=300)
        one.panel.denied.add("23501")
        await one.look(10)
        store = one.one.gateway.store
        before = await store.at_risk()
        change = transitions.settled(None, one.one.clock(), build.FOLLOWING, denied=True)
        await one.one.step(other, change)
        after = await store.at_risk()
        for _ in range(2):
            await one.look(5)
        said = await one.one.api("status", order=other)

        assert [{"p": 4 * COST}, {"p": 3 * COST}] == [before, after]
        assert 0 == await one.one.look()
        assert ("Canceled", "0.00") == (said["status"], said["charge"])
        assert State.FAILED is (await one.order(order)).state
        assert "100.00" == await one.one.balance()
        assert [] == await one.one.gateway.store.undecided(State.UNKNOWN, 1)


@pytest.mark.parametrize("decided", ["placed", "not placed"])
async def test_an_order_that_nobody_follows_hides_none_that_was_taken(
    trade: Open, decided: str
) -> None:
    """It comes back: placed without an id, or given up by the owner and taken all the same."""
    async with trade("suggest") as one:
        other = await one.unknown(taken=True)
        at = one.one.clock()
        if decided == "placed":
            await one.one.step(other, transitions.settled("", at, build.FOLLOWING))
        else:
            await one.one.step(other, transitions.settled(None, at, build.FOLLOWING))
            await one.one.step(other, transitions.accepted("23501", 1, at, build.FOLLOWING))
        await one.look(15)
        one.one.clock.forward(MINUTE)
        order = await one.unknown(taken=True)
        one.panel.cancel(23501)
        for _ in range(4):
            await one.look(10)

        assert "fits with this order and without it" in (await one.evidence(order))["why"]


async def test_an_order_under_way_may_be_what_is_missing(trade: Open) -> None:
    async with trade("suggest") as one:
        order = await one.unknown(taken=False)
        route = build.choice("p", cost=COST)
        new = build.placement(one.one.customer.id, 100_000, route=route, at=one.one.clock())
        await one.one.gateway.store.place([new])
        one.panel.take()
        for _ in range(3):
            await one.look(10)

        assert "fits with this order and without it" in (await one.evidence(order))["why"]


async def test_much_that_happened_since_an_old_order_does_not_hide_a_new_one(
    trade: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trade("suggest") as one:
        old = await one.unknown(taken=False, quantity=500)
        for _ in range(6):
            await one.add()
        for _ in range(4):
            await one.look(15)
        one.one.clock.forward(MINUTE)
        new = await one.unknown(taken=True)
        await one.look(10)
        await one.look(5)
        store: Any = Few(one.one.gateway.store)
        found = await weigh(store, one.one.gateway.config.providers, "p")

        assert {old: Verdict.OPEN, new: Verdict.PLACED} == {
            order: finding.verdict for order, finding in found.items()
        }
        assert "too much happened" in found[old].why


@pytest.mark.parametrize("state", [State.SENDING, State.UNKNOWN])
async def test_nothing_is_concluded_where_not_all_that_may_be_missing_are_known(
    trade: Open, state: State
) -> None:
    """As many orders are of that state as are looked at, so there may be more."""
    async with trade("suggest") as one:
        order = await one.unknown(taken=False)
        await one.look(10)
        await one.look(5)
        gateway = one.one.gateway
        every = await weigh(gateway.store, gateway.config.providers, "p")
        full: Any = Full(gateway.store, state)
        some = await weigh(full, gateway.config.providers, "p")

        assert Verdict.NOT_PLACED is every[order].verdict
        assert {(Verdict.OPEN, "more orders are unknown there than can be weighed")} == {
            (one.verdict, one.why) for one in some.values()
        }


async def test_an_order_beyond_those_that_are_weighed_is_shown_with_the_reason(trade: Open) -> None:
    """A thousand others are older than it."""
    async with trade("suggest") as one:
        await one.unknown(taken=False)
        order = await one.order(await one.unknown(taken=False))
        gateway = one.one.gateway
        full: Any = Full(gateway.store, State.UNKNOWN)
        shown = await evidence_of(full, gateway.config, order) or {}

        assert ("open", "more orders are unknown there than can be weighed") == (
            shown["says"],
            shown["why"],
        )


async def test_an_order_sent_while_the_others_are_read_is_not_taken_for_one_of_them(
    trade: Open,
) -> None:
    """No balance is looked at that may show it."""
    async with trade("suggest") as one:
        order = await one.unknown(taken=False)
        gateway = one.one.gateway

        async def sent() -> None:
            await one.unknown(taken=True)
            await one.look(10)
            await one.look(5)

        busy: Any = Busy(gateway.store, sent)
        found = await weigh(busy, gateway.config.providers, "p")

        assert {order: Verdict.OPEN} == {one: found[one].verdict for one in found}


class Wrapped:
    """A store that is almost as it was."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Full(Wrapped):
    """A store with as many orders of one state as are looked at."""

    def __init__(self, store: Store, state: State) -> None:
        super().__init__(store)
        self._state = state

    async def undecided(
        self, state: State, limit: int, *, provider: str = "", after: int = 0
    ) -> list[Order]:
        some = await self._store.undecided(State.UNKNOWN, 1)
        if state is self._state:
            return some * limit
        return await self._store.undecided(state, limit, provider=provider, after=after)


class Busy(Wrapped):
    """A store in which something happens when the orders of all states have been read."""

    def __init__(self, store: Store, happen: Callable[[], Awaitable[None]]) -> None:
        super().__init__(store)
        self._happen = happen

    async def without_id(self, provider: str) -> list[Order]:
        found = await self._store.without_id(provider)
        await self._happen()
        return found


class Few(Wrapped):
    """A store in which six bookings are as many as are looked at."""

    async def movements(self, provider: str, since: int, limit: int) -> list[Movement]:
        found = await self._store.movements(provider, since, limit)
        return found if len(found) < 6 else found[:1] * limit


# --- an answer that comes too late --------------------------------------------------------------


async def test_the_owner_is_told_when_a_provider_takes_an_order_that_was_given_up(
    trade: Open,
) -> None:
    """Its id is kept, and still it is with them and paid for by nobody."""
    async with trade() as one:
        answered = asyncio.Event()

        async def late(form: Form) -> object:
            await answered.wait()
            return {"order": one.panel.take(int(form["quantity"]))}

        one.panel.answers["add"] = late
        adding = asyncio.ensure_future(one.one.add())
        while not one.panel.asked("add"):
            await asyncio.sleep(0)
        at = one.one.clock()
        await one.one.step(1, transitions.unknown("it takes too long", 1, at))
        await one.one.step(1, transitions.settled(None, at, build.FOLLOWING))
        with capture_logs() as logs:
            answered.set()
            await adding
        order = await one.order(1)

        assert (State.FAILED, "23501") == (order.state, order.upstream_id)
        assert ["23501"] == [
            one["upstream_id"]
            for one in logs
            if one["event"] == "taken by a provider after it was given up"
        ]
        assert (await one.evidence(1))["says"] == "p took it as 23501, and here it is given up"


async def test_nothing_is_told_of_an_order_that_is_taken_as_it_should_be(trade: Open) -> None:
    async with trade() as one:
        with capture_logs() as logs:
            await one.add()

        assert [] == [one for one in logs if one["log_level"] == "error"]


# --- which id -----------------------------------------------------------------------------------


@asynccontextmanager
async def between(trade: Open, ids: int = 300, others: int = 0) -> AsyncIterator[tuple[Trade, int]]:
    """Place an order of whose outcome nothing was heard, among others with ids of their own."""
    async with trade("auto", ids) as one:
        await one.add()
        for _ in range(others):
            one.panel.denied.add(str(one.panel.take()))
        await one.look()
        yield one, await one.unknown(taken=True, quantity=200)


async def settled(one: Trade, order: int) -> Order:
    """Let the evidence decide."""
    for _ in range(4):
        await one.look(10)
    found = await one.order(order)
    assert State.PLACED is found.state
    return found


async def test_its_id_is_found_between_those_of_its_neighbours(trade: Open) -> None:
    """By status, a hundred at a time, and it is followed from then on."""
    async with between(trade, others=250) as (one, order):
        later = await one.add()
        found = await settled(one, order)
        asked = [call.get("orders", "").split(",") for call in one.panel.asked("status")]
        probed = [ids for ids in asked if len(ids) > 3]
        one.panel.rows[found.upstream_id]["status"] = "Completed"
        await one.one.look()

        assert "23752" == found.upstream_id
        assert "23753" == (await one.order(later)).upstream_id
        assert [100, 100, 51] == [len(ids) for ids in probed]
        assert [str(id_) for id_ in range(23502, 23753)] == [id_ for ids in probed for id_ in ids]
        assert 100 == one.panel.most_ids
        assert Status.COMPLETED is (await one.order(order)).status
        assert await one.evidence(order) == {}


async def test_no_id_is_looked_for_beyond_the_reach(trade: Open) -> None:
    async with between(trade, ids=100, others=100) as (one, order):
        found = await settled(one, order)
        asked = {its_id for call in one.panel.calls for its_id in call.get("orders", "").split(",")}

        assert "" == found.upstream_id
        assert {"23502", "23601"} <= asked
        assert "23602" not in asked


async def test_no_id_is_looked_for_where_too_many_lie_between(trade: Open) -> None:
    async with between(trade, ids=100, others=101) as (one, order):
        await one.add()
        found = await settled(one, order)

        assert "" == found.upstream_id
        assert "23502" not in str(one.panel.asked("status"))


async def test_no_id_is_looked_for_unless_the_owner_says_so(trade: Open) -> None:
    async with between(trade, ids=0) as (one, order):
        assert "" == (await settled(one, order)).upstream_id
        assert "23502" not in str(one.panel.asked("status"))


async def test_no_id_is_looked_for_that_an_order_may_have_which_a_restore_has_lost(
    trade: Open,
) -> None:
    """Its charge may fit as well; once an order is known that was sent later, the ids are clear."""
    async with between(trade) as (one, before):
        await restored(one)
        after = await one.unknown(taken=True, quantity=300)
        await one.add()
        last = await one.unknown(taken=True, quantity=400)
        at = one.one.clock()
        for order in (before, after, last):
            await one.one.step(order, transitions.settled("", at, build.FOLLOWING))
        await one.look(10)

        assert ["", "", "23505"] == [
            (await one.order(order)).upstream_id for order in (before, after, last)
        ]


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        ({}, True),
        ({"charge": "0.17999"}, True),
        ({"charge": "0.17"}, False),
        ({"charge": None}, False),
        ({"currency": "INR"}, False),
        ({"quantity": "200"}, True),
        ({"quantity": "100"}, False),
    ],
)
async def test_an_id_is_taken_only_if_charge_and_quantity_fit(
    trade: Open, row: dict[str, Any], fits: bool
) -> None:
    async with between(trade) as (one, order):
        one.panel.rows["23502"] |= row
        found = await settled(one, order)

        assert ("23502" if fits else "") == found.upstream_id


async def test_none_is_taken_when_two_fit_until_the_other_is_claimed(trade: Open) -> None:
    """Then what is left can be no other's."""
    async with between(trade) as (one, order):
        twin = await one.unknown(taken=True, quantity=200)
        nobodys = await settled(one, order)
        change = transitions.settled("23502", one.one.clock(), build.FOLLOWING)
        await one.one.step(order, change)
        await one.look(10)

        assert "" == nobodys.upstream_id
        assert "23503" == (await one.order(twin)).upstream_id


async def test_none_is_taken_when_an_order_that_is_not_ours_fits_too(trade: Open) -> None:
    async with trade("auto", 300) as one:
        await one.add()
        one.panel.take(200)
        await one.look()
        order = await one.unknown(taken=True, quantity=200)

        assert "" == (await settled(one, order)).upstream_id


@pytest.mark.parametrize(("before", "itself", "after"), [(3, 2, 4), (2, 4, 3), (2, 3, 4)])
async def test_orders_sent_at_about_the_same_time_may_be_taken_in_any_order(
    trade: Open, before: int, itself: int, after: int
) -> None:
    """All cost the same; those that have an id are out of the question."""
    async with trade("auto", 300) as one:
        await one.add()
        await one.look()
        for number in (before, itself, after):
            one.panel.next = 23500 + number
            one.panel.mute = number == itself
            await one.one.add(link=f"https://example.com/{number}", quantity=200)
            one.one.clock.forward(SECOND)
        one.panel.mute = False

        assert f"{23500 + itself}" == (await settled(one, 3)).upstream_id


async def test_none_is_taken_that_may_be_another_orders(trade: Open) -> None:
    """The order itself was refunded, so that its charge no longer shows; its twin's fits both."""
    async with between(trade) as (one, order):
        twin = await one.unknown(taken=True, quantity=200)
        for minutes in (10, 5):
            await one.look(minutes)
            one.panel.rows["23502"] |= {"status": "Canceled", "charge": "0"}

        assert ["", ""] == [(await one.order(each)).upstream_id for each in (order, twin)]


async def test_the_same_ids_are_not_asked_for_again_and_again(trade: Open) -> None:
    async with between(trade) as (one, order):
        one.panel.denied.add("23502")
        await settled(one, order)
        asked = len(one.panel.asked("status"))
        for _ in range(3):
            await one.look(1)
        soon = len(one.panel.asked("status"))
        one.panel.denied.clear()
        await one.look(60)

        assert asked == soon
        assert "23502" == (await one.order(order)).upstream_id


async def test_an_id_that_cannot_be_looked_for_keeps_no_order_from_being_settled(
    trade: Open,
) -> None:
    async with between(trade) as (one, order):
        honest = one.panel.answers["status"]
        one.panel.answers["status"] = lambda form: (
            httpx.Response(502) if "orders" in form or form["order"] == "23502" else honest(form)
        )
        found = await settled(one, order)
        one.panel.answers["status"] = honest
        await one.look(1)

        assert "" == found.upstream_id
        assert "23502" == (await one.order(order)).upstream_id


# --- a balance that cannot be had ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (httpx.Response(502), "not JSON"),
        (httpx.ConnectError("refused"), "refused"),
        ({"error": "Invalid API key"}, "Invalid API key"),
    ],
)
async def test_a_balance_that_cannot_be_had_is_told_and_nothing_known_is_lost(
    trade: Open, answer: object, trouble: str
) -> None:
    async with trade() as one:
        order = await one.unknown(taken=True)
        await one.look(10)
        before = (await one.one.gateway.store.sightings())["p"]
        readings = await one.one.gateway.store.readings("p", 0)
        honest = one.panel.answers["balance"]
        one.panel.answers["balance"] = answer
        with pytest.raises(CallFailed):
            await one.look(5)
        seen = (await one.one.gateway.store.sightings())["p"]
        kept = await one.one.gateway.store.readings("p", 0)
        one.panel.answers["balance"] = honest
        await one.look(5)
        after = (await one.one.gateway.store.sightings())["p"]

        assert trouble in seen.trouble
        assert (before.balance, before.balance_at) == (seen.balance, seen.balance_at)
        assert readings == kept
        assert State.PLACED is (await one.order(order)).state
        assert ("", 0) == (after.trouble, after.failures)


def test_the_owner_sees_in_his_list_why_there_is_no_balance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trade: Open
) -> None:
    async def happen() -> None:
        async with trade() as one:
            one.panel.answers["balance"] = {"error": "Invalid API key"}
            with pytest.raises(CallFailed):
                await one.look(5)

    asyncio.run(happen())
    at_home(tmp_path, monkeypatch)
    listed = CliRunner().invoke(app, ["provider", "list", "--json"])
    (row,) = json.loads(listed.stdout)

    assert "Invalid API key" in row["health"]
    assert "100.00" == row["balance"]


async def test_money_of_a_provider_that_the_file_no_longer_names_is_not_judged(trade: Open) -> None:
    async with trade("suggest") as one:
        await one.unknown(taken=True)
        await one.look(10)

        assert {} == await weigh(one.one.gateway.store, {}, "p")
