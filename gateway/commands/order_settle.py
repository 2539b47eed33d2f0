"""``gateway order settle``: the owner decides an order by what he, or its provider, knows."""

import re
from typing import Annotated

import typer

from gateway import reporting, transitions
from gateway.commands.order_facts import Id, get_order, take_step
from gateway.commands.start import Json, command, fail
from gateway.commands.terminal import err, now, opened_store
from gateway.config import Config
from gateway.errors import CallFailed, Fault
from gateway.model import Order, Refusal, Report, State
from gateway.money import text
from gateway.order_types import SUBSCRIPTIONS
from gateway.router import Router
from gateway.transitions import Following
from gateway.upstream import Upstream

_UPSTREAM_ID = re.compile(r"[!-~]{1,64}")


def _following(config: Config) -> Following:
    return Following(int(config.every.status * 1000), int(config.orders.follow_for * 1000))


@command
async def settle(
    order_id: Id,
    upstream: Annotated[str | None, typer.Option(help="Placed, under this id of theirs.")] = None,
    placed: Annotated[  # noqa: FBT002
        bool, typer.Option("--placed", help="They have it; under which id is not known.")
    ] = False,
    not_placed: Annotated[  # noqa: FBT002
        bool, typer.Option("--not-placed", help="They have no such order.")
    ] = False,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Decide an order whose outcome is not known; or name, or end, one that is placed.

    ``--not-placed`` ends one that is placed without an id, or under an id that they deny. Where an
    order was given a wrong id, ``--upstream`` gives it the right one, ``--placed`` takes it away.
    """
    if (upstream is not None) + placed + not_placed != 1:
        fail("say one of --upstream THEIR_ID, --placed and --not-placed")
    if upstream is not None and not _UPSTREAM_ID.fullmatch(upstream):
        fail(f"--upstream {upstream}: write the provider's order id, such as 23501")
    async with opened_store() as (store, config):
        order = await get_order(store, order_id)
        denied = not_placed and order.state is State.PLACED and transitions.cancelable(order)
        nameless = upstream is not None and transitions.awaits_id(order)
        its_id = "" if placed else upstream
        events, transfers = await store.history(order_id)
        wrong = transitions.is_wrong(order, its_id, events)
        if order.state is not State.UNKNOWN and not (nameless or denied or wrong):
            fail(_not_settled(order), 1)
        if not (not_placed or order.provider):
            fail(f"order {order_id} had no provider when it was backed up; say --not-placed", 1)
        words = await _denial(config, order) if denied else ""
        if upstream is not None:
            await _see_that_it_is_known(config, order, upstream)
        change = transitions.settled(its_id, now(), _following(config), why=words, denied=denied)
        if wrong:
            change = transitions.corrected(
                order.upstream_id, its_id or "", events, transfers, now()
            )
        await take_step(store, config, order_id, change, json=json)


def _not_settled(order: Order) -> str:
    by = f"; {order.provider} has it as {order.upstream_id}" if order.upstream_id else ""
    which = "only unknown orders are settled, and those under way that their provider denies"
    return f"order {order.id} is {order.word}{by}; {which}"


async def _denial(config: Config, order: Order) -> str:
    """Return how a provider denies an order; fails the command unless it does.

    Empty where there is nobody to be asked, or no id to ask for: then the owner's word is enough.
    """
    if not order.upstream_id or order.provider not in config.providers:
        return ""
    said = await _said(config, order.provider, order.upstream_id)
    if isinstance(said, Report):
        fail(f"{order.provider} has it as {order.upstream_id}: {said.word}", 1)
    if not isinstance(said, Refusal) or said.fault is not Fault.ORDER:
        fail(_unasked(order.provider, order.upstream_id, said), 1)
    return said.words


async def _see_that_it_is_known(config: Config, order: Order, upstream_id: str) -> None:
    """Fail the command when the provider denies that id; warn where it means another order."""
    provider = order.provider
    if provider not in config.providers:
        return
    said = await _said(config, provider, upstream_id)
    if isinstance(said, Refusal) and said.fault is Fault.ORDER:
        fail(f"{provider} has no order {upstream_id}: {said.words}", 1)
    if not isinstance(said, Report):
        err.print(_unasked(provider, upstream_id, said), markup=False, soft_wrap=True)
    elif order.type != SUBSCRIPTIONS and reporting.contradicts(order, said):
        charge = "" if said.charge is None else f" at {text(said.charge)}"
        quantity = "" if said.quantity is None else f" of {said.quantity}"
        costs = f"order {order.id} is of {order.size} and should cost {text(order.cost)}"
        again = f"if that is another one, say order settle {order.id} again, with the right id"
        words = f"{provider} has {upstream_id}{quantity}{charge}, while {costs}; {again}"
        err.print(words, style="yellow", markup=False, soft_wrap=True)


def _unasked(provider: str, upstream_id: str, said: Refusal | CallFailed | None) -> str:
    why = said.words if isinstance(said, Refusal) else said or "it left it out"
    return f"{provider} could not be asked for {upstream_id}: {why}"


async def _said(
    config: Config, provider: str, upstream_id: str
) -> Report | Refusal | CallFailed | None:
    """Return what a provider says of an order; ``None``: nothing."""
    upstream = Upstream()
    try:
        router = Router(config.providers, upstream, now)
        return (await router.status(provider, [upstream_id])).get(upstream_id)
    finally:
        await upstream.aclose()
