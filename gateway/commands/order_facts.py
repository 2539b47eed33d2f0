"""An order as its owner is shown it: its row, its history, and what there is to decide it by."""

from typing import Annotated

import typer

from gateway import ledger, settle, transitions
from gateway.commands.start import fail, show_json
from gateway.commands.terminal import moment, out, show_facts
from gateway.config import Config
from gateway.evidence import Finding, Verdict
from gateway.model import Cancel, Event, Order, State, Transfer
from gateway.money import text
from gateway.store import Failure, Step, Store, Transition
from gateway.view import remains

Id = Annotated[int, typer.Argument(help="Our order id.")]


def row_of(order: Order, customers: dict[int, str]) -> dict[str, object]:
    """Return an order as a list shows it; ``customers``: their names, by id."""
    charge = order.charge if order.state in ledger.UNDECIDED else ledger.net(order)
    return {
        "id": order.id,
        "customer": customers.get(order.customer, str(order.customer)),
        "service": order.service,
        "provider": order.provider or None,
        "upstream_id": order.upstream_id or None,
        "link": order.params.get("link") or order.params.get("username", ""),
        "quantity": order.size,
        "charge": text(charge),
        "status": order.word,
        "remains": remains(order),
        "created_at": moment(order.created_at),
    }


async def names_of_customers(store: Store) -> dict[int, str]:
    """Return all customers' names, by id."""
    return {one.id: one.name for one in await store.customers()}


async def get_order(store: Store, order_id: int) -> Order:
    """Return an order, also one that is archived; fails the command when there is none."""
    found = await store.orders([order_id]) or await store.archived([order_id])
    if order_id not in found:
        fail(f"there is no order {order_id}")
    return found[order_id]


def _event(event: Event, currency: str) -> dict[str, object]:
    detail: dict[str, object] = dict(event.detail)
    if detail.get("attempt") == 0:  # restored from when it waited for its first
        never = ("attempt", "provider", "service", "began_at")
        detail = {name: value for name, value in detail.items() if name not in never}
        detail["note"] = "by these books no provider was asked for it"
    if isinstance(began := detail.get("began_at"), int):
        detail["began_at"] = moment(began)
    for name in ("charge", "cost"):
        if isinstance(amount := detail.get(name), int):
            detail[name] = f"{text(amount)} {currency}"
    return {"at": moment(event.at), "what": event.kind, **detail}


def _transfer(transfer: Transfer) -> dict[str, object]:
    return {
        "at": moment(transfer.at),
        "code": transfer.code,
        "amount": text(transfer.amount),
        "currency": transfer.currency,
    }


async def evidence_of(store: Store, config: Config, order: Order) -> dict[str, object] | None:
    """Return what is to be known of an order whose outcome is not, and how it is decided."""
    command = f"gateway order settle {order.id}"
    if transitions.awaits_id(order):
        says = f"{order.provider} has it, under an id that is not known: it is followed no further"
        if order.cancel is Cancel.WANTED:
            says += f", and {order.provider} cannot be told that its cancel is wanted"
        return {"says": says, "decide": f"{command} --upstream THEIR_ID, or --not-placed"}
    if order.state is State.FAILED and order.upstream_id:
        return {"says": f"{order.provider} took it as {order.upstream_id}, and here it is given up"}
    if order.state is State.QUEUED:
        says = "no provider has it: it waits for a route that can take it, or a free place there"
        how = f"gateway catalog show {order.service} has its routes, gateway provider list their "
        return {"says": says, "decide": f"{how}providers; gateway order cancel {order.id} ends it"}
    if order.state is not State.UNKNOWN:
        return None
    if not order.provider:
        says = "it had no provider when it was backed up, and nobody knows if it was sent since"
        how = f"look for its link at every panel; {command} --not-placed where none has it"
        return {"says": says, "decide": how}
    findings = await settle.weigh(store, config.providers, order.provider)
    absent = Finding(Verdict.OPEN, f"{order.provider} is not in the configuration")
    if order.provider in config.providers:
        absent = settle.TOO_MANY
    found = findings.get(order.id, absent)
    decide = {
        Verdict.PLACED: f"{command} --placed, or with its id --upstream THEIR_ID",
        Verdict.NOT_PLACED: f"{command} --not-placed",
    }
    by_hand = f"look at the panel, then {command} --upstream THEIR_ID or --not-placed"
    facts: dict[str, object] = {"says": found.verdict, "why": found.why}
    if found.doubt:
        facts["but"] = found.doubt
    return {**facts, "decide": by_hand if found.doubt else decide.get(found.verdict, by_hand)}


async def everything_of(store: Store, config: Config, order: Order) -> dict[str, object]:
    """Return every attempt, every status change and every movement of money of an order."""
    events, transfers = await store.history(order.id)
    began: dict[str, object] = {"at": moment(order.created_at), "what": "placed"}
    return {
        **row_of(order, await names_of_customers(store)),
        "state": order.state,
        "type": order.type,
        "params": order.params,
        "currency": order.currency,
        "cost": text(ledger.cost(order)),
        "cost_currency": order.cost_currency or None,
        "start_count": order.start_count,
        "cancel": order.cancel or None,
        "told": order.error or None,
        "next_look": moment(order.poll_at),
        "evidence": await evidence_of(store, config, order),
        "events": [began, *(_event(one, order.cost_currency) for one in events)],
        "transfers": [_transfer(one) for one in transfers],
        "refills": [
            {
                "refill": one.id,
                "status": one.status,
                "upstream_id": one.upstream_id or None,
                "created_at": moment(one.created_at),
            }
            for one in await store.refills_of(order.id)
        ],
    }


_TELLING = frozenset({"at", "what", "code", "amount", "currency", "note"})
"""Facts that need no name before them."""


def show_order(facts: dict[str, object], *, json: bool) -> None:
    """Print what ``everything_of`` an order is."""
    if json:
        show_json(facts)
        return
    lists = {name: facts.pop(name) for name in ("events", "transfers", "refills")}
    params = facts.pop("params")
    evidence = facts.pop("evidence")
    assert isinstance(params, dict)  # noqa: S101  # see _everything
    show_facts({name: value for name, value in facts.items() if value is not None})
    show_facts({f"  {name}": value for name, value in params.items()})
    if isinstance(evidence, dict):
        out.print("\nevidence", style="bold")
        show_facts({f"  {name}": value for name, value in evidence.items()})
    for name, rows in lists.items():
        assert isinstance(rows, list)  # noqa: S101  # see _everything
        if rows:
            out.print(f"\n{name}", style="bold")
        for row in rows:
            said = [
                str(value) if key in _TELLING else f"{key} {value}"
                for key, value in row.items()
                if value is not None
            ]
            out.print("  " + "  ".join(said), markup=False, soft_wrap=True)


async def take_step(
    store: Store, config: Config, order_id: int, change: Transition, *, json: bool
) -> None:
    """Change an order, and show what became of it; fails the command where that cannot be."""
    (after,) = await store.advance([Step(order_id, change)])
    if isinstance(after, Failure):
        fail(f"order {order_id} stays as it is: {after}", 1)
    show_order(await everything_of(store, config, after), json=json)
