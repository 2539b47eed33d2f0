"""A simulated world: the gateway's processes, its customers, the panels, and what befalls them."""

import asyncio
import hashlib
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from decimal import Decimal
from logging import ERROR
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gateway import auth, ledger
from gateway.app import WATCHED
from gateway.model import Customer
from gateway.money import Money
from gateway.simulation.invariants import Invariants, Violated
from gateway.simulation.loop import Clock, Loop, Scheduler, Standstill
from gateway.simulation.panels import Panels, Weather
from gateway.simulation.plan import AFTER, JUMPS, Plan, Wish, form
from gateway.simulation.process import Answer, Process
from gateway.store.sqlite import SqliteStore

WORDS = ("", "", "", "partial", "cancel", "late-cancel", "overdeliver", "odd-status")
"""What becomes of an order, by a word in its link."""
LONGEST = 30.0
"""Seconds for which a customer waits."""
CALM = 2 * AFTER + 30
"""Seconds of fair weather at the end, in which everything comes to rest."""
DAYS = 3 * 24 * 3600.0
"""Seconds that pass until the last look at everything."""
DOOM = 40
"""Steps after the arrival of an order in which its process is killed or stopped."""
LAST_LINES = 30


class Result(msgspec.Struct, kw_only=True):
    """What came of a simulation.

    Attributes:
        violated: which promise was broken; empty: none.
        step: how many steps were done.
        seconds: on the simulated clock.
        digest: of everything that happened; the same for the same seed.
        trace: the last of what happened.

    """

    seed: int
    orders: int
    violated: str
    step: int
    seconds: int
    digest: str
    states: dict[str, int]
    settled: dict[str, int]
    happened: dict[str, int]
    calls: dict[str, int]
    troubles: dict[str, int]
    trace: list[str]


class World:
    """Everything, on one clock."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.clock = Clock()
        self.chance = random.Random(f"world {plan.seed}")  # noqa: S311  # no secrets
        self.outside = Loop(self.clock)
        self.weather = Weather()
        self.panels = Panels(self.clock, self.outside, self.chance, self.weather)
        self.wishes: list[Wish] = []
        self.happened: Counter[str] = Counter()
        self.raised: list[str] = []
        self.step = 0
        self.trace: list[str] = []
        self._config = plan.config
        self._path = folder / "gateway.db"
        self._store = SqliteStore.rehearse(self._path)
        self._scheduler = Scheduler(self.clock, self.chance)
        self._scheduler.loops.append(self.outside)
        self._processes: list[Process] = []
        self._ended: list[Process] = []
        self._keys: list[str] = []
        self._doomed = False
        self._rested_at = 0.0
        self._digest = hashlib.sha256()
        self._invariants = Invariants(self._store, self.panels, plan.config, self.clock)

    # --- from beginning to end ----------------------------------------------------------------

    def run(self) -> Result:
        """Simulate it all; returns what came of it."""
        violated = ""
        with _listening(self.raised):
            try:
                self._live()
            except Violated as broken:
                violated = str(broken)
            except Standstill:
                violated = "nothing is going on any more, though something should"
            finally:
                for process in [*self._processes, *self._ended]:
                    process.loop.end()
                self.outside.end()
        return Result(
            seed=self.plan.seed,
            orders=self.plan.orders,
            violated=violated,
            step=self.step,
            seconds=round(self._rested_at or self.clock()),
            digest=self._digest.hexdigest()[:16],
            states=self._invariants.states(),
            settled=self._invariants.settled(),
            happened=dict(sorted(self.happened.items())),
            calls=dict(sorted(self.panels.calls.items())),
            troubles=dict(sorted(self.panels.troubles.items())),
            trace=self.trace[-LAST_LINES:],
        )

    def _live(self) -> None:
        self._finish(self._prepare())
        for _ in range(self.plan.processes):
            self._begin()
        self._until(3)
        self.weather.trouble, self.weather.lies = self.plan.trouble, self.plan.lies
        self.weather.lag = self.plan.lag
        buying = [self.outside.create_task(self._buy(wish)) for wish in self.wishes]
        unrest = self.outside.create_task(self._unrest())
        while not all(one.done() for one in buying):
            self._turn()
        unrest.cancel()
        self._until(5)
        self.weather.trouble = self.weather.lies = self.weather.lag = 0.0
        self.weather.down_until.clear()
        self._until(CALM)
        self._rest()

    def _rest(self) -> None:
        """Let days pass, look at everything once more, and compare it all."""
        for process in list(self._processes):
            self._kill(process)
        self._rested_at = self.clock()
        self.clock.passed += DAYS
        last = self._begin(work=False)
        while not last.ready:
            self._turn()
        looking = last.loop.create_task(self._look(last))
        while not looking.done():
            self._turn()
        looking.result()
        self._check()
        self._invariants.everything(self.wishes)
        self._invariants.rest(self.wishes)

    async def _look(self, process: Process) -> None:
        gateway = process.gateway
        for name in self.plan.panels:
            await gateway.router.balance(name)
            await gateway.follow.look(name, 10_000)
        await gateway.aftersales.cancel_again()
        await gateway.orders.leftovers()

    async def _prepare(self) -> None:
        plan = self.plan
        pepper = await self._store.pepper()
        for number in range(plan.customers):
            key = auth.new_key()
            draft = Customer(id=0, name=f"customer {number}", created_at=self.clock.now())
            customer = await self._store.add_customer(draft, auth.digest(pepper, key))
            if customer is None:
                raise RuntimeError("the database is not new")
            money = Money(plan.opening, plan.config.currency)
            await self._store.post([ledger.top_up(customer.id, money, "opening", self.clock.now())])
            self._invariants.paid_in[customer.id] = plan.opening
            self._keys.append(key)
        for number in range(plan.orders):
            service = self.chance.choice(sorted(plan.services))
            target = f"https://example.com/{number}/{self.chance.choice(WORDS)}"
            key = f"key-{number}" if self.chance.random() < 0.6 else ""  # noqa: PLR2004
            self.wishes.append(
                Wish(
                    customer=self.chance.choice(self._keys),
                    service=service,
                    target=target,
                    params=form(plan.services[service], target, self.chance),
                    key=key,
                    repeats=bool(key) or plan.config.orders.duplicates == "same",
                )
            )

    # --- step by step -------------------------------------------------------------------------

    def _turn(self) -> None:
        """Do one step, whatever it brings, and see whether all promises still hold."""
        loop = self._scheduler.turn()
        self.step += 1
        process = next((one for one in self._processes if one.loop is loop), None)
        self._check(process)
        if process and process.doom is not None and loop.steps >= process.doom:
            process.doom = None
            self._befall(process)

    def _check(self, process: Process | None = None) -> None:
        """See whether all promises hold, after a step of a process, or of all that is outside."""
        for line in self.panels.trace:
            self._note(line)
        self.panels.trace.clear()
        wrong = self.panels.wrong + self.raised + self.outside.wrong
        for one in self._processes:
            wrong += one.loop.wrong
        if wrong:
            raise Violated(wrong[0])
        for line in self._invariants.look(process.calls if process else None):
            self._note(line)
        self._invariants.sent()

    def _note(self, line: str) -> None:
        line = f"{self.clock():.4f} {line}"
        self._digest.update(line.encode())
        self.trace.append(line)

    def _until(self, seconds: float) -> None:
        self._finish(asyncio.sleep(seconds))

    def _finish(self, work: Any) -> None:  # noqa: ANN401  # a coroutine of any kind
        task = self.outside.create_task(work)
        while not task.done():
            self._turn()
        task.result()

    # --- processes ----------------------------------------------------------------------------

    def _begin(self, *, work: bool = True) -> Process:
        number = len(self._processes) + len(self._ended)
        process = Process(
            number, self._path, self._config, self.clock, self.panels, self.chance, work=work
        )
        self._processes.append(process)
        self._scheduler.loops.append(process.loop)
        self._note(f"process {number} begins")
        return process

    def _kill(self, process: Process) -> None:
        if not process.alive:
            return
        self._note(f"process {process.number} is killed")
        process.kill()
        self._remove(process)
        self._invariants.everything(self.wishes)

    def _remove(self, process: Process) -> None:
        self._processes.remove(process)
        self._ended.append(process)
        self._scheduler.loops.remove(process.loop)

    def _befall(self, process: Process) -> None:
        """Kill a process, or stop it for a while; it is replaced, or goes on."""
        if self.chance.random() < self.plan.stops:
            self.happened["stopped"] += 1
            self._note(f"process {process.number} is stopped")
            process.pause()
            seconds = self.chance.choice((0.5, 5.0, 12.0, 60.0, 2.5 * AFTER))
            self.outside.call_later(seconds, self._go_on, process)
            if len(self._processes) == 1:
                self.outside.call_later(self.chance.uniform(0, 5), self._begin)
        else:
            self.happened["killed"] += 1
            self._kill(process)
            self.outside.call_later(self.chance.uniform(0, 5), self._begin)

    def _go_on(self, process: Process) -> None:
        if process.alive:
            self._note(f"process {process.number} goes on")
            process.go_on()

    # --- customers ----------------------------------------------------------------------------

    async def _buy(self, wish: Wish) -> None:
        """Order, and ask again where that is safe; then do what customers do."""
        await asyncio.sleep(self.chance.uniform(0, self.plan.spread))
        if wish.repeats and self.chance.random() < 0.2:  # noqa: PLR2004
            self.happened["ordered twice at once"] += 1
            await asyncio.gather(self._order(wish), self._order(wish))
        else:
            await self._order(wish)
        if wish.got and self.chance.random() < 0.5:  # noqa: PLR2004
            await asyncio.sleep(self.chance.uniform(0, 40))
            await self._meddle(wish)

    async def _order(self, wish: Wish) -> None:
        for _ in range(6):
            process = await self._somebody()
            self._may_befall(process)
            wish.open += 1
            sent = {"service": str(wish.service), "idempotency_key": wish.key, **wish.params}
            answer = await self._ask(process, wish.customer, "add", sent)
            self._note(f"{wish.target} is answered {answer}")
            if answer is not None and answer[0] == 200:  # noqa: PLR2004
                wish.open -= 1
                self._invariants.answered(wish, answer[1])
                if not wish.repeats or wish.got or self.chance.random() < 0.5:  # noqa: PLR2004
                    return
                self.happened["ordered again after a refusal"] += 1
                await asyncio.sleep(self.chance.uniform(0, 10))
                continue
            wish.lost = wish.lost or process.alive
            wish.open -= 1
            if not wish.repeats:
                return
            await asyncio.sleep(self.chance.uniform(0, 10))

    def _may_befall(self, process: Process) -> None:
        if self.plan.crash_at is not None:
            if not self._doomed:
                self._doomed = True
                process.doom = process.loop.steps + self.plan.crash_at
        elif self.chance.random() < self.plan.doom:
            process.doom = process.loop.steps + self.chance.randint(0, DOOM)

    async def _meddle(self, wish: Wish) -> None:
        for order in sorted(wish.got):
            action = self.chance.choice(("status", "cancel", "refill", "balance", "services"))
            process = await self._somebody()
            answer = await self._ask(process, wish.customer, action, {"orders": str(order)})
            self._note(f"{action} of {order} is answered {str(answer)[:60]}")

    async def _somebody(self) -> Process:
        """Return a process that takes requests, which may be stopped."""
        while not (ready := [one for one in self._processes if one.ready]):  # noqa: ASYNC110
            await asyncio.sleep(0.5)  # of a clock that nobody waits for
        return self.chance.choice(ready)

    async def _ask(
        self, process: Process, key: str, action: str, params: Mapping[str, str]
    ) -> Answer:
        answer: asyncio.Future[Answer] = self.outside.create_future()
        process.take({"key": key, "action": action, **params}, answer)
        await asyncio.wait({answer}, timeout=LONGEST)
        return answer.result() if answer.done() else None

    # --- what befalls them --------------------------------------------------------------------

    async def _unrest(self) -> None:
        """Let things happen that nobody asked for."""
        events = (
            self._crash,
            self._deploy,
            self._change,
            self._down,
            self._reprice,
            self._money,
            self._foreign,
        )
        while True:
            await asyncio.sleep(self.chance.uniform(1, 20))
            if self.chance.random() < self.plan.unrest:
                self.chance.choice(events)()

    def _crash(self) -> None:
        if running := [one for one in self._processes if not one.loop.stopped]:
            self._befall(self.chance.choice(running))

    def _deploy(self) -> None:
        """Stop a process as SIGTERM does, when another has begun."""
        running = [one for one in self._processes if one.ready and not one.loop.stopped]
        if running:
            self.happened["deployed"] += 1
            self._begin()
            process = self.chance.choice(running)
            process.stop().add_done_callback(lambda _: self._left(process))

    def _left(self, process: Process) -> None:
        if process in self._processes:
            self._note(f"process {process.number} has ended")
            self._remove(process)

    def _change(self) -> None:
        """Let the owner change his file; each process sees that by itself."""
        self.happened["file changed"] += 1
        files = self.plan.config, self.plan.other
        self._config = files[self._config is files[0]]
        for process in self._processes:
            if process.ready:
                self.outside.call_later(
                    self.chance.uniform(0, WATCHED), process.take_up, self._config
                )

    def _down(self) -> None:
        self.happened["panel down"] += 1
        panel = self.chance.choice(self.plan.panels)
        self.weather.down_until[panel] = self.clock() + self.chance.uniform(1, 40)

    def _reprice(self) -> None:
        self.happened["price jumped"] += 1
        panel = self.chance.choice(self.plan.panels)
        row = self.chance.choice(sorted(self.panels.stalls[panel].panel.rows))
        self.panels.reprice(panel, row, self.chance.choice(JUMPS))

    def _money(self) -> None:
        self.happened["money came or went"] += 1
        amount = Decimal(self.chance.randint(-99_999, 99_999)) / 1000
        self.panels.move(self.chance.choice(self.plan.panels), amount)

    def _foreign(self) -> None:
        self.happened["foreign order"] += 1
        panel = self.chance.choice(self.plan.panels)
        row = self.chance.choice(sorted(self.panels.stalls[panel].panel.rows))
        self.panels.spend(panel, str(row), self.chance.randint(101, 1999))


@contextmanager
def _listening(raised: list[str]) -> Iterator[None]:
    """Take what the gateway logs with an exception for what it is: a bug."""

    def hear(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if failure := event.get("exc_info"):
            error = failure if isinstance(failure, BaseException) else sys.exc_info()[1]
            frames = "".join(traceback.format_exception(error)) if error else ""
            raised.append(f"{event.get('event')}: {frames}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[hear], wrapper_class=structlog.make_filtering_bound_logger(ERROR)
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def simulate(plan: Plan) -> Result:
    """Run one simulation in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="gateway-simulation-") as folder:
        return World(plan, Path(folder)).run()
