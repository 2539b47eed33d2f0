"""``gateway demo``: everything at once, on this machine, with play money."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway import ledger, sandbox
from gateway.commands.terminal import err, out
from gateway.demo import SCENES, Scene, Stage, Step, steps
from gateway.demo.stage import OPENING, StageFailed
from gateway.model import Order, State
from gateway.money import Money, text

LONGEST = 45.0
"""Seconds for all orders to come to their ends."""
PAUSE = 0.25
COLORS = {"Completed": "green", "Partial": "yellow", "Canceled": "red", "Pending": "dim"}


@dataclass
class Part:
    """A scene as it is played: what the customer sees, and what the owner's books say."""

    scene: Scene
    order: int = 0
    now: dict[str, Any] = field(default_factory=dict)
    refill: str = ""
    refilled: str = ""
    canceling: Any = None
    kept: Order | None = None

    def settled(self) -> bool:
        """Tell whether the order is where it must end, and its refill too."""
        refilled = self.scene.then != "refill" or self.refilled == self.scene.refilled
        return self.now.get("status") == self.scene.ends and refilled

    def profit(self) -> Decimal | None:
        """Return what the order earned, in the customer's currency; ``None``: not known yet."""
        if self.kept is None or self.kept.state is not State.PLACED:
            return None
        spent = Money(ledger.cost(self.kept), self.kept.cost_currency)
        earned = Money(ledger.net(self.kept), self.kept.currency)
        return earned.decimal - spent.decimal * self.kept.exchange

    def wrong(self) -> Iterator[str]:
        """Say what did not come out as it must."""
        name = f"order {self.order} ({self.scene.about})"
        if not self.order:
            yield f"{self.scene.about} was not taken: {self.now}"
            return
        if not self.settled():
            then = f", refill {self.refilled or 'none'}" if self.scene.then == "refill" else ""
            yield f"{name} is {self.now.get('status')} instead of {self.scene.ends}{then}"
        if self.scene.then == "cancel" and self.canceling != 1:
            yield f"{name}: its cancel was answered {self.canceling}"
        # A share is rounded up to a millionth.
        held = Money(self.kept.charge, self.kept.currency).decimal if self.kept else Decimal(0)
        over = Decimal(self.now.get("charge", 0)) - held * self.scene.share / 1000
        if not 0 <= over < Decimal("0.000001"):
            yield f"{name} is charged {self.now.get('charge')}; {held} was held"


def demo(
    once: Annotated[  # noqa: FBT002
        bool, typer.Option("--once", help="Stop at the end: exit 0 if all came out right.")
    ] = False,
) -> None:
    """Start panels, a gateway and a customer; buy, follow, audit; then serve until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Stage() as stage:
            with err.status("starting five practice panels and a gateway"):
                stage.start()
            wrong = _play(stage)
            if once:
                raise typer.Exit(1 if wrong else 0)
            _serve(stage, wrong)
    except StageFailed as failed:
        err.print(str(failed), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        out.print("\nstopped; nothing is left behind")


def _play(stage: Stage) -> list[str]:
    """Buy, follow and prove; returns what did not come out right."""
    parts = [Part(scene) for scene in SCENES]
    until = time.monotonic() + LONGEST
    with _shown() as show:
        for part in parts:
            _buy(stage, part)
            show(parts)
        while time.monotonic() < until and not all(one.settled() for one in parts):
            time.sleep(PAUSE)
            _look(stage, parts)
            show(parts)
            stage.check()
    out.print(_table(parts))
    return _prove(stage, parts, _market(stage))


def _market(stage: Stage) -> list[Step]:
    """Let a provider's list change for the worse; returns what became of it."""
    played = []
    with err.status("a provider changes what it sells, and the owner decides"):
        for step in steps(stage):
            played.append(step)
            stage.check()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("in the catalog")
    table.add_column("what came of it")
    for step in played:
        table.add_row(step.about, Text(step.saw, "" if step.saw == step.wanted else "red"))
    out.print()
    out.print(table)
    out.print()
    return played


def _buy(stage: Stage, part: Part) -> None:
    answer = stage.ask("add", service=str(part.scene.service), **part.scene.params)
    part.now = answer
    part.order = int(answer.get("order", 0))
    if part.order:
        part.now = stage.ask("status", order=str(part.order))
        if part.scene.then == "cancel":
            part.canceling = stage.ask("cancel", orders=str(part.order))[0]["cancel"]


def _look(stage: Stage, parts: list[Part]) -> None:
    ids = ",".join(str(part.order) for part in parts if part.order)
    statuses = stage.ask("status", orders=ids)
    for part in parts:
        part.now = statuses.get(str(part.order), part.now)
        if part.scene.then == "refill" and part.now.get("status") == "Completed":
            if not part.refill:
                part.refill = str(stage.ask("refill", order=str(part.order)).get("refill", ""))
            if part.refill:
                part.refilled = stage.ask("refill_status", refill=part.refill)["status"]
    kept = asyncio.run(_kept(stage, [part.order for part in parts]))
    for part in parts:
        part.kept = kept.get(part.order)


async def _kept(stage: Stage, ids: list[int]) -> dict[int, Order]:
    async with stage.store() as store:
        return await store.orders(ids)


async def _audited(stage: Stage) -> ledger.Audit:
    async with stage.store() as store:
        return await store.inspect(ledger.audit)


def _evidence(stage: Stage, order: int) -> dict[str, str]:
    """Return what the provider's balance says of an order, once two looks at it agree."""
    until = time.monotonic() + LONGEST
    with err.status("looking at the provider's balance"):
        while True:
            evidence: dict[str, str] = stage.owner("order", "show", str(order))["evidence"]
            if evidence["says"] != "open" or time.monotonic() > until:
                return evidence
            time.sleep(PAUSE)


def _prove(stage: Stage, parts: list[Part], played: list[Step]) -> list[str]:
    """Audit the books, and compare them with the customer's purse and the panels' counters."""
    wrong = [words for part in parts for words in part.wrong()]
    wrong += [f"{one.about}: {one.saw}" for one in played if one.saw != one.wanted]
    audit = asyncio.run(_audited(stage))
    wrong += audit.problems
    opening, balance = Decimal(OPENING), Decimal(stage.ask("balance")["balance"])
    charged = sum((Decimal(part.now.get("charge", 0)) for part in parts), Decimal(0))
    if opening - charged != balance:
        wrong.append(f"the customer has {balance} instead of {opening - charged}")
    ours = sum(1 for part in parts if part.order)
    theirs = sum(len(stage.behind(panel, "orders")) for panel in sandbox.PANELS)
    if ours != theirs:
        wrong.append(f"the panels took {theirs} orders; the customer placed {ours}")
    unknown = [part for part in parts if part.kept and part.kept.state is State.UNKNOWN]
    if [part.scene.ends for part in unknown] != ["Pending"]:
        wrong.append(f"{len(unknown)} orders have an unknown outcome instead of one")
    profit = sum((part.profit() or Decimal(0) for part in parts), Decimal(0))
    out.print(
        f"{ours} orders, and the panels have taken {theirs}; charged {charged:f} USD, {balance:f} "
        f"left of {OPENING}; profit {profit.normalize():f} USD",
        soft_wrap=True,
    )
    for part in unknown:
        out.print(
            f"order {part.order}: the provider's answer was lost on purpose; it is kept as "
            "unknown, its money held, and it is never sent again",
            soft_wrap=True,
        )
        evidence = _evidence(stage, part.order)
        if evidence["says"] != "placed":
            wrong.append(f"the evidence says {evidence['says']}: {evidence['why']}")
        out.print(
            f"  evidence: {evidence['says']}; {evidence['why']}\n  {evidence['decide']}",
            markup=False,
            soft_wrap=True,
        )
    verdict = "add up" if audit.ok else "do NOT add up"
    out.print(f"the books {verdict}: {audit.transfers} transfers, {audit.accounts} accounts")
    for words in wrong:
        out.print(f"wrong: {words}", style="red", markup=False, soft_wrap=True)
    return wrong


def _serve(stage: Stage, wrong: list[str]) -> None:
    """Say how to go on, and stay until Ctrl-C."""
    address = f"http://127.0.0.1:{stage.port}/api/v2"
    order = "service=401&link=https://instagram.com/me&quantity=100"
    out.print(f"\nserving at {address} until Ctrl-C; from another terminal:\n", soft_wrap=True)
    for call in (f"action=add&{order}", "action=services", "action=balance"):
        out.print(f"  curl -d 'key={stage.key}&{call}' {address}", soft_wrap=True)
    if wrong:
        out.print("\nnot everything came out right: see above", style="red")
    while True:
        stage.check()
        time.sleep(PAUSE)


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[list[Part]], None]]:
    """Show the table as it changes, on a terminal; elsewhere nothing until the end."""
    if not out.is_terminal:
        yield lambda _: None
        return
    room = max(out.height - 4, 5)
    with Live(console=out, refresh_per_second=8, transient=True) as live:

        def show(parts: list[Part]) -> None:
            # What fits on the screen, the orders that still move first.
            moving = sorted((part for part in parts if part.now), key=Part.settled)
            live.update(_table(sorted(moving[:room], key=lambda part: part.order)))

        yield show


def _table(parts: list[Part]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("#", "id", "provider"):
        table.add_column(name, no_wrap=True)
    # On a narrow terminal the words give way, and the money stays whole.
    table.add_column("what", no_wrap=True, max_width=max(out.width - 75, 8))
    for name in ("left", "charge", "cost", "profit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for part in parts:
        if not part.now:
            continue
        kept, status = part.kept, str(part.now.get("status", part.now.get("error", "")))
        cost = f"{text(ledger.cost(kept))} {kept.cost_currency}" if kept else ""
        profit = part.profit()
        refill = f", refill: {part.refilled}" if part.refilled else ""
        table.add_row(
            str(part.order or ""),
            str(part.scene.service),
            kept.provider if kept else "",
            part.scene.about + refill,
            str(part.now.get("remains", "")),
            str(part.now.get("charge", "")),
            cost if profit is not None else "not known",
            f"{profit.normalize():f}" if profit is not None else "",
            Text(status, COLORS.get(status, "")),
        )
    return table
