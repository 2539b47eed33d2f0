"""Of any number of processes one does each piece of work; hours of it on a clock of their own."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qsl

import apsw
import httpx
import msgspec
import pytest

from gateway import auth, config, ledger
from gateway.adapters import ADAPTERS
from gateway.app import Gateway
from gateway.auth import Auth
from gateway.background import KEPT_CLAIMS, LEASE, RENEWED
from gateway.cache import open_cache
from gateway.errors import CustomerError, ErrorText, LeaseLost
from gateway.line import TIRED
from gateway.model import Customer, Order, RefillStatus, State, Status
from gateway.money import Money, text
from gateway.store import Filter
from gateway.store.sqlite import SqliteStore
from gateway.upstream import Upstream
from virtual import Time, VirtualLoop
from world import ROWS, Form

YAML = """
currency: USD
every: {status: 2s, catalog: 10s, balance: 10s}
providers:
  p: {adapter: api_v2, url: "http://panel/p", key: "${KEY}", timeout: 60s}
services:
  101: {routes: [p/1]}
"""
SLOWLY = YAML.replace("status: 2s, catalog: 10s, balance: 10s", "status: 1h, catalog: 1d")
ROW = {"charge": "0.09", "start_count": "1", "remains": "40", "currency": "USD"}
DONE: Mapping[str, object] = ROW | {"status": "Completed", "remains": "0"}
RUNS: Mapping[str, object] = ROW | {"status": "In progress"}
GONE: Mapping[str, object] = ROW | {"status": "Canceled", "charge": "0"}
LOST = httpx.Response(502, content=b"<html>")


class Panel:
    """A panel that says what is true when it is asked, and may take its time to say it."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.takes: dict[str, float] = {}
        self.calls: list[tuple[str, str, float]] = []
        self.last = 500
        self.answers: dict[str, object] = {
            "services": ROWS,
            "balance": {"balance": "100.00", "currency": "USD"},
            "status": RUNS,
            "refill": {"refill": 77},
            "refill_status": {"status": "In progress"},
        }

    async def carry(self, process: str, request: httpx.Request) -> httpx.Response:
        form: Form = dict(parse_qsl((await request.aread()).decode()))
        action = form["action"]
        self.calls.append((process, action, self.time.passed))
        answer = self.answers.get(action)
        if action == "add" and answer is None:
            self.last += 1
            answer = {"order": self.last}
        if "orders" in form and isinstance(answer, Mapping):
            answer = dict.fromkeys(form["orders"].split(","), answer)
        await asyncio.sleep(self.takes.get(action, 0.01))
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(200, content=msgspec.json.encode(answer))

    def times(self, action: str, process: str = "") -> list[float]:
        """Return when it was asked for something."""
        return [at for who, what, at in self.calls if what == action and process in ("", who)]


class Process:
    """A gateway in a process of its own: stopped, as by SIGSTOP, whenever it is not run."""

    def __init__(
        self, name: str, folder: Path, panel: Panel, yaml: str, loop: VirtualLoop | None = None
    ) -> None:
        self.name = name
        self.panel = panel
        self.loop = loop or VirtualLoop(panel.time)
        adapters = {name: adapter.currency for name, adapter in ADAPTERS.items()}
        self._config = config.parse(yaml, "providers.yaml", {"KEY": "secret"}, adapters)
        self._path = folder / "gateway.db"
        self.gateway = self.loop.run(self._open())

    async def _open(self) -> Gateway:
        async def carry(request: httpx.Request) -> httpx.Response:
            return await self.panel.carry(self.name, request)

        store = SqliteStore.rehearse(self._path)
        door = Auth(store, await store.pepper())
        upstream = Upstream(httpx.MockTransport(carry))
        now = self.panel.time.now
        gateway = Gateway(self._config, store, open_cache("", ""), upstream, door, now)
        await gateway.shop.refresh()
        return gateway

    def start(self, *, work: bool = True) -> "Process":
        async def start() -> None:
            self.gateway.background.start(work=work)

        self.loop.run(start())
        return self

    def stop(self) -> None:
        self.loop.run(self.gateway.background.stop())

    def run_for(self, seconds: float) -> None:
        self.loop.run_for(seconds)

    def run_until(self, seen: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if seen():
                return
            self.run_for(0.05)
        raise AssertionError("it never happens")

    def run_until_open(self) -> None:
        """Run until there is something for sale."""
        self.run_until(lambda: bool(self.gateway.shop.catalog.services))

    def close(self) -> None:
        self.stop()
        self.loop.run(self.gateway.store.close())

    def customer(self) -> Customer:
        async def add() -> Customer:
            store = self.gateway.store
            draft = Customer(id=0, name="ann", created_at=1)
            added = await store.add_customer(draft, auth.digest(b"", "key"))
            assert added is not None
            await store.post([ledger.top_up(added.id, Money.of("100", "USD"), "opening", 1)])
            return added

        return self.loop.run(add())

    def add(self, customer: Customer, key: str = "", link: str = "https://x.com/a") -> int:
        params = {"service": "101", "link": link, "quantity": "100"}
        return self.loop.run(self.gateway.orders.place(customer, params, key))

    def order(self, order: int = 1) -> Order:
        return self.loop.run(self.gateway.store.orders([order]))[order]

    def orders(self) -> list[Order]:
        return self.loop.run(self.gateway.store.find_orders(Filter()))

    def balance(self, customer: Customer) -> str:
        accounts = self.loop.run(self.gateway.store.balances([customer.id]))
        return text(accounts[customer.id][0].available)

    def audit(self) -> list[str]:
        return self.loop.run(self.gateway.store.inspect(ledger.audit)).problems


class Machine:
    """Processes on one database and one clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = Time()
        self.panel = Panel(self.time)
        self.processes: list[Process] = []

    def process(self, yaml: str = YAML, loop: VirtualLoop | None = None) -> Process:
        """Open one more; ``loop``: it runs whenever the other one on that loop does."""
        name = "abc"[len(self.processes)]
        one = Process(name, self.folder, self.panel, yaml, loop)
        self.processes.append(one)
        return one


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Processes that end with the test."""
    one = Machine(tmp_path)
    yield one
    assert [] == one.processes[0].audit()
    for process in one.processes:
        process.close()
    for loop in {process.loop for process in one.processes}:
        loop.close()


# --- who does what ------------------------------------------------------------------------


def test_two_processes_do_together_what_one_does_alone(tmp_path: Path) -> None:
    """Each of them a part of it."""
    made: list[Counter[str]] = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        machine = Machine(folder)
        first = machine.process().start()
        others = [machine.process(loop=first.loop).start() for _ in range(number - 1)]
        customer = first.customer()
        first.run_until_open()
        first.add(customer)
        first.run_for(5)
        machine.panel.calls.clear()
        first.run_for(100)
        made.append(Counter(action for _, action, _ in machine.panel.calls))
        assert {first.name, *(one.name for one in others)} == {
            who for who, _, _ in machine.panel.calls
        }
        for one in machine.processes:
            one.close()
        first.loop.close()

    alone, together = made
    assert {"services", "balance", "status"} == alone.keys() == together.keys()
    for action, count in alone.items():
        assert count - 1 <= together[action] <= count + 1


def test_no_piece_is_done_twice_at_the_same_time(machine: Machine) -> None:
    """Though each call takes longer than the time between two."""
    machine.panel.takes = {"balance": 9.0, "services": 9.0}
    first = machine.process().start()
    machine.process(loop=first.loop).start()
    machine.process(loop=first.loop).start()
    first.run_for(300)

    for action in ("balance", "services"):
        times = machine.panel.times(action)
        assert 12 <= len(times) <= 18
        assert all(b - a >= 9 for a, b in pairwise(times[3:]))


def test_a_process_without_background_work_asks_nobody_and_hears_of_everything(
    machine: Machine,
) -> None:
    quiet = machine.process().start(work=False)
    customer = quiet.customer()
    quiet.run_for(60)
    assert [] == machine.panel.calls

    machine.process(loop=quiet.loop).start()
    quiet.run_for(2)
    assert [101] == list(quiet.gateway.shop.catalog.services)
    assert 100_000_000 == quiet.gateway.router.lines["p"].purse
    machine.panel.answers["services"] = [ROWS[0] | {"rate": "2.00"}]
    machine.panel.answers["balance"] = {"balance": "7.00", "currency": "USD"}
    quiet.run_for(12)
    assert 200_000 == quiet.gateway.shop.catalog.services[101].charge(100, "")
    assert 7_000_000 == quiet.gateway.router.lines["p"].purse
    quiet.run_for(70)  # until nobody can have read the lower rate a moment ago
    quiet.add(customer)
    assert {"b"} == {who for who, action, _ in machine.panel.calls if action != "add"}


def test_work_is_handed_over_at_a_stop(machine: Machine) -> None:
    """Within the time of two looks, though the lease would have lasted longer."""
    first = machine.process().start()
    first.run_for(30)
    second = machine.process().start()
    second.run_for(0.1)
    machine.panel.calls.clear()
    stopped_at = machine.time.passed
    first.stop()
    second.run_for(2 * RENEWED + 0.2)

    assert {"services", "balance"} <= {action for _, action, _ in machine.panel.calls}
    assert machine.time.passed - stopped_at < LEASE - RENEWED


def test_a_stop_does_not_wait_for_a_provider(machine: Machine) -> None:
    machine.panel.takes = {"balance": 1000.0}
    first = machine.process().start()
    first.run_for(1)
    stopped_at = machine.time.passed
    first.stop()

    assert stopped_at == machine.time.passed


def test_work_is_taken_over_when_its_process_falls_silent(machine: Machine) -> None:
    """Not before its lease has run out, and not long after."""
    first = machine.process().start()
    first.run_for(31)
    second = machine.process().start()
    machine.panel.calls.clear()
    silent_since = machine.time.passed
    second.run_until(lambda: bool(machine.panel.times("services")))

    waited = machine.time.passed - silent_since
    assert LEASE - RENEWED <= waited <= LEASE + RENEWED + 0.5
    second.run_for(60)
    assert {"b"} == {who for who, _, _ in machine.panel.calls}


def test_a_round_that_fails_is_followed_by_the_next(machine: Machine) -> None:
    machine.panel.answers["services"] = httpx.Response(200, content=b"<html>")
    machine.panel.answers["balance"] = {"error": "Something went wrong"}
    first = machine.process().start()
    first.run_for(35)
    assert {} == first.gateway.shop.catalog.services
    machine.panel.answers["services"] = ROWS
    first.run_for(300)

    assert [101] == list(first.gateway.shop.catalog.services)
    assert 10 < len(machine.panel.times("balance"))


# --- stopped for longer than a lease ------------------------------------------------------


def test_a_late_report_of_a_status_changes_nothing(machine: Machine) -> None:
    """What the other process has learned since stands, and the money with it."""
    first = machine.process().start()
    customer = first.customer()
    first.run_until_open()
    first.add(customer)
    machine.panel.answers["status"] = DONE
    machine.panel.takes["status"] = 1.0
    first.run_until(lambda: bool(machine.panel.times("status", "a")))

    machine.panel.answers["status"] = GONE
    second = machine.process().start()
    second.run_for(2 * LEASE)
    assert (Status.CANCELED, "100.00") == (second.order().status, second.balance(customer))
    seen = second.order()
    first.run_for(1.5)

    assert seen == first.order()
    assert "100.00" == first.balance(customer)
    assert [] == first.audit()
    first.run_for(60)
    assert Status.CANCELED is first.order().status


def test_a_late_list_replaces_no_newer_one(machine: Machine) -> None:
    first = machine.process().start()
    first.run_until_open()
    machine.panel.takes["services"] = 1.0
    asked = len(machine.panel.times("services"))
    first.run_until(lambda: len(machine.panel.times("services")) > asked)

    machine.panel.answers["services"] = [ROWS[0] | {"rate": "1.50"}]
    second = machine.process().start()
    second.run_for(2 * LEASE)
    first.run_for(1.5)

    offers = first.loop.run(first.gateway.store.offers())
    assert "1.50" == str(offers["p"]["1"].rate)


def test_a_late_balance_replaces_no_newer_one(machine: Machine) -> None:
    first = machine.process().start()
    first.run_for(1)
    machine.panel.takes["balance"] = 1.0
    asked = len(machine.panel.times("balance"))
    first.run_until(lambda: len(machine.panel.times("balance")) > asked)

    machine.panel.answers["balance"] = {"balance": "3.00", "currency": "USD"}
    second = machine.process().start()
    second.run_for(2 * LEASE)
    first.run_for(1.5)

    sightings = first.loop.run(first.gateway.store.sightings())
    assert 3_000_000 == sightings["p"].balance
    readings = first.loop.run(first.gateway.store.readings("p", 0))
    assert readings == sorted(readings, key=lambda one: one.answered_at)


def test_a_late_word_on_a_refill_changes_nothing(machine: Machine) -> None:
    first = machine.process().start()
    customer = first.customer()
    first.run_until_open()
    first.add(customer)
    machine.panel.answers["status"] = DONE
    first.run_until(lambda: first.order().status is Status.COMPLETED)
    assert {1: 1} == first.loop.run(first.gateway.aftersales.refill(customer, [1]))
    machine.panel.takes["refill_status"] = 1.0
    first.run_until(lambda: bool(machine.panel.times("refill_status")))

    machine.panel.answers["refill_status"] = {"status": "Completed"}
    second = machine.process().start()
    second.run_for(3 * LEASE)
    first.run_for(1.5)

    found = first.loop.run(first.gateway.store.refills([1]))
    assert RefillStatus.COMPLETED is found[1].status


def test_what_is_left_over_is_declared_so_by_whoever_has_that_to_do(machine: Machine) -> None:
    """A lease is held against its former holder even where the step itself would be possible."""
    first = machine.process().start()
    customer = first.customer()
    first.run_until_open()
    lease = first.gateway.background._held["leftovers"]
    machine.panel.takes["add"] = 60.0
    sending = machine.process()
    order = sending.add(customer)
    assert State.SENDING is first.order(order).state

    second = machine.process().start()
    second.run_for(2 * LEASE)
    machine.time.passed += 3600
    with pytest.raises(LeaseLost):
        first.loop.run(first.gateway.orders.leftovers(under=lease))
    assert State.SENDING is first.order(order).state

    second.run_for(2 * LEASE)
    assert State.UNKNOWN is first.order(order).state


def test_one_that_was_stopped_and_that_nobody_replaced_goes_on(machine: Machine) -> None:
    first = machine.process().start()
    customer = first.customer()
    first.run_until_open()
    first.add(customer)
    machine.panel.answers["status"] = DONE
    machine.panel.takes["status"] = 1.0
    first.run_until(lambda: bool(machine.panel.times("status")))
    machine.time.passed += 3 * LEASE
    machine.panel.answers["status"] = RUNS
    machine.panel.takes["status"] = 1000.0
    first.run_for(1.5)

    assert Status.COMPLETED is first.order().status


def test_one_that_goes_on_leaves_the_work_to_whom_it_belongs(machine: Machine) -> None:
    """And gets a share of it again."""
    first = machine.process().start()
    first.run_for(30)
    second = machine.process().start()
    second.run_for(2 * LEASE)
    machine.panel.calls.clear()
    for _ in range(200):
        first.run_for(0.25)
        second.run_for(0.25)

    assert {"a", "b"} == {who for who, _, _ in machine.panel.calls}
    for action in ("services", "balance"):
        assert 7 <= len(machine.panel.times(action)) <= 12


# --- news ---------------------------------------------------------------------------------


def test_every_process_knows_what_is_at_risk(machine: Machine) -> None:
    """And that it is settled, wherever that was seen."""
    yaml = YAML.replace('key: "${KEY}"', 'key: "${KEY}", max_unsettled: 0.20')
    first = machine.process(yaml).start()
    customer = first.customer()
    first.run_until_open()
    other = machine.process(yaml, first.loop).start(work=False)
    first.add(customer)
    first.add(customer)
    first.run_for(1.5)
    with pytest.raises(CustomerError) as caught:
        other.add(customer)
    assert ErrorText.UNAVAILABLE is caught.value.text

    machine.panel.answers["status"] = DONE
    first.run_for(10)
    assert 3 == other.add(customer)


def test_one_piece_of_news_that_fails_does_not_hinder_the_others(machine: Machine) -> None:
    """What is for sale can't be read; what the balance is can."""
    first = machine.process().start()
    first.run_until_open()
    other = machine.process(loop=first.loop)
    database = apsw.Connection(str(machine.folder / "gateway.db"))
    database.execute("DELETE FROM counters WHERE name = 'offers'")
    database.close()
    other.start(work=False)
    first.run_for(15)

    assert 100_000_000 == other.gateway.router.lines["p"].purse


def test_money_that_one_process_has_sent_off_is_missing_in_the_purse_of_all(
    machine: Machine,
) -> None:
    """As soon as the provider shows it."""
    machine.panel.answers["balance"] = {"balance": "0.20", "currency": "USD"}
    first = machine.process().start()
    customer = first.customer()
    first.run_until_open()
    other = machine.process(loop=first.loop).start(work=False)
    first.add(customer)
    first.add(customer)
    machine.panel.answers["balance"] = {"balance": "0.02", "currency": "USD"}
    first.run_for(15)

    with pytest.raises(CustomerError):
        other.add(customer)


# --- providers in trouble -----------------------------------------------------------------


def test_a_resting_provider_is_only_read_and_less_and_less_until_it_answers(
    machine: Machine,
) -> None:
    first = machine.process(SLOWLY + "orders: {unavailable: queue}\n").start()
    customer = first.customer()
    first.run_for(2)
    machine.panel.answers["add"] = machine.panel.answers["balance"] = httpx.ConnectError("down")
    for _ in range(TIRED):
        first.add(customer)
    tired_at = machine.time.passed
    machine.panel.calls.clear()
    first.add(customer)
    first.run_for(170)
    looks = [tired_at, *machine.panel.times("balance")]
    for wait, (before, after) in zip((5, 10, 20, 40, 80), pairwise(looks), strict=True):
        assert wait <= after - before <= wait + 1
    assert {"balance"} == {action for _, action, _ in machine.panel.calls}
    orders = range(1, TIRED + 2)
    assert {State.QUEUED} == {first.order(order).state for order in orders}

    machine.panel.answers["balance"] = {"balance": "9.00", "currency": "USD"}
    machine.panel.answers["add"] = None
    first.run_for(200)
    assert {State.PLACED} == {first.order(order).state for order in orders}
    assert TIRED + 1 == len(machine.panel.times("add"))


def test_a_provider_that_refuses_our_account_is_read_less_and_less(machine: Machine) -> None:
    first = machine.process(SLOWLY).start()
    customer = first.customer()
    first.run_for(2)
    machine.panel.answers["add"] = machine.panel.answers["balance"] = {"error": "Invalid API key"}
    with pytest.raises(CustomerError):
        first.add(customer)
    machine.panel.calls.clear()
    first.run_for(600)

    assert 5 <= len(machine.panel.times("balance")) <= 20


@pytest.mark.parametrize("trouble", ["it does not answer", "it refuses our account"])
@pytest.mark.parametrize("balance", ["has none", "is in another currency"])
def test_a_provider_whose_balance_tells_nothing_comes_back(
    machine: Machine, trouble: str, balance: str
) -> None:
    yaml = SLOWLY
    if balance == "has none":
        yaml = yaml.replace("timeout: 60s", "dialect: {without: [balance]}")
    machine.panel.answers["balance"] = {"balance": "9.00", "currency": "INR"}
    first = machine.process(yaml).start()
    customer = first.customer()
    first.run_for(2)
    silent = trouble == "it does not answer"
    machine.panel.answers["add"] = (
        httpx.ConnectError("down") if silent else {"error": "Not enough funds"}
    )
    for _ in range(TIRED if silent else 1):
        with pytest.raises(CustomerError):
            first.add(customer)
    machine.panel.answers["add"] = None
    machine.panel.calls.clear()
    with pytest.raises(CustomerError):
        first.add(customer)
    assert [] == machine.panel.times("add")

    first.run_for(900)
    assert first.add(customer)
    looked = {"balance"} if balance != "has none" else {"services"} if silent else set()
    assert {"add"} | looked == {action for _, action, _ in machine.panel.calls}


# --- balances and claims ------------------------------------------------------------------


def test_balances_are_seen_as_often_as_the_owner_says_and_sooner_while_an_order_is_unknown(
    machine: Machine,
) -> None:
    """For an hour, since later it helps no more."""
    first = machine.process(SLOWLY).start()
    customer = first.customer()
    first.run_for(1201)
    usual = machine.panel.times("balance")
    assert [300] * 4 == [round(b - a, -1) for a, b in pairwise(usual)]

    machine.panel.answers["add"] = LOST
    order = first.add(customer)
    unknown_at = machine.time.passed
    assert State.UNKNOWN is first.order(order).state
    first.run_for(5000)
    times = [at - unknown_at for at in machine.panel.times("balance") if at > unknown_at]
    hurried = [at for at in times if at <= 3600]
    later = [at for at in times if at > 3700]
    assert 57 <= len(hurried) <= 61
    assert 4 <= len(later) <= 5


def test_an_idempotency_key_is_kept_for_days_and_then_forgotten(machine: Machine) -> None:
    first = machine.process(f"{SLOWLY}orders: {{max_catalog_age: 30d}}\n").start()
    customer = first.customer()
    first.run_for(2)
    assert [1, 1] == [first.add(customer, "key") for _ in range(2)]
    for days, order in ((1, 1), (KEPT_CLAIMS / 24 / 3600 / 1000, 2)):
        machine.time.passed += days * 24 * 3600 + 1
        lease = first.gateway.background._held["claims"]
        first.loop.run(first.gateway.background._claims(lease))

        assert order == first.add(customer, "key")


# --- stopped in the middle of an order ----------------------------------------------------


def test_an_order_that_a_stopped_process_was_sending_becomes_unknown(machine: Machine) -> None:
    """And stays it when that one goes on, having heard nothing in the provider's time."""
    first = machine.process(YAML + "orders: {answer_within: 100ms}\n").start()
    customer = first.customer()
    first.run_until_open()
    machine.panel.takes["add"] = 1.0
    order = first.add(customer)
    second = machine.process().start()
    second.run_for(2 * 60)
    assert State.SENDING is second.order(order).state, "it could still be written"
    second.run_for(30)
    assert State.UNKNOWN is second.order(order).state
    for _ in range(40):
        first.run_for(1)
        second.run_for(1)

    assert (State.UNKNOWN, "99.91") == (first.order(order).state, first.balance(customer))
    assert 1 == len(machine.panel.times("add"))


def test_a_mark_that_was_made_before_a_stop_is_not_written_after_it(machine: Machine) -> None:
    first = machine.process().start()
    customer = first.customer()
    first.run_until_open()
    params = {"service": "101", "link": "https://x.com/a", "quantity": "100"}
    placing = first.loop.create_task(first.gateway.orders.place(customer, params))
    other = machine.process()
    while not other.orders():
        first.run_for(0)
    assert (State.SENDING, []) == (other.order().state, machine.panel.times("add"))

    machine.time.passed += 61
    first.run_for(5)
    with pytest.raises(CustomerError):
        placing.result()
    assert [] == machine.panel.times("add")
    assert (State.FAILED, "100.00") == (first.order().state, first.balance(customer))
