"""Unknown orders, settled by what can be seen: the provider's balance, and ids that nobody claims.

Every look at a provider's balance is remembered. While an order is unknown there, every order that
is still followed there, however long ago it was settled, is asked for after a look, since any of
them may have been refunded; where that takes several rounds, that look says nothing before the
last of them. So ``evidence`` can tell what the balance lost. What it finds is shown to the owner,
or, where he says ``settle: {mode: auto}``, acted on. Nothing here ever sends an order.
"""

from collections.abc import Callable, Mapping
from functools import partial

import msgspec
import structlog

from gateway import reporting, transitions
from gateway.config import Provider
from gateway.errors import CallFailed
from gateway.evidence import READINGS, Finding, Verdict, judge
from gateway.follow import Follow
from gateway.model import Order, Report, State
from gateway.money import Money
from gateway.moves import Case
from gateway.offload import offload
from gateway.router import Router
from gateway.store import Lease, Reading, Sighting, Step, Store
from gateway.transitions import HOUR, Following

log = structlog.get_logger()

MOST_UNKNOWN = 1_000
"""Orders unknown, or being sent, that are weighed; with more, nothing is concluded."""
MOST_MOVEMENTS = 5_000
"""Bookings at a provider that are weighed; where more happened, nothing is concluded."""
MOST_ASKED = 2_000
"""Orders that are asked for in a round, to see what was refunded."""
LOOK_BACK = 24 * HOUR
"""How long before an order was sent a balance may have been seen that it is compared with."""
FORGOTTEN = 30 * 24 * HOUR
"""How long after an order was sent a refund is thought possible that no report tells of."""
ROUND = 6
"""Calls, one after the other, that a round of asking for orders takes at the most."""
WEIGHT = 20
"""Rows of a list that are as much work as an unknown order."""
TOO_MANY = Finding(Verdict.OPEN, "more orders are unknown there than can be weighed")
LOST = (
    "the books came from a backup since, or not long before, and an order that is not in them may "
    "have moved the balance: look at the panel"
)
TOO_MUCH = Finding(Verdict.OPEN, "too much happened at this provider since")
SEARCHED_AGAIN = HOUR
"""After which time ids among which none was found are looked through again."""
NEIGHBOURS = 20
"""Our orders before and after an unknown one, whose ids enclose its own."""


async def weigh(
    store: Store, providers: Mapping[str, Provider], provider: str
) -> dict[int, Finding]:
    """Return what the evidence says of a provider's unknown orders, by their ids."""
    if provider not in providers:
        return {}
    first = await store.undecided(State.UNKNOWN, 1, provider=provider)
    if not first:
        return {}
    # The balances first, so that none shows an order that is not among those read later. They are
    # read in the order in which an order goes through these, so that none slips through.
    readings = await store.readings(provider, first[0].created_at - LOOK_BACK)
    under_way = await store.undecided(State.SENDING, MOST_UNKNOWN, provider=provider)
    unknown = await store.undecided(State.UNKNOWN, MOST_UNKNOWN, provider=provider)
    if MOST_UNKNOWN in (len(under_way), len(unknown)):
        return dict.fromkeys((one.id for one in unknown), TOO_MANY)
    nameless = await store.without_id(provider)
    restored = max(await store.restores(), default=0)
    case = Case(readings, unknown, [*under_way, *nameless], [], *_times(providers[provider]))
    found: dict[int, Finding] = {}
    while case.unknown:
        full = await _with_movements(store, provider, case)
        if full:
            size = len(full.movements) + WEIGHT * len(full.unknown)
            return found | _doubted(await offload(partial(judge, full), size), case, restored)
        # Too much has happened since the oldest of them: that must not hide the others.
        half = -(-len(case.unknown) // 2)
        given_up, rest = case.unknown[:half], case.unknown[half:]
        found |= dict.fromkeys((one.id for one in given_up), TOO_MUCH)
        others = [*case.unfollowed, *given_up]
        case = msgspec.structs.replace(case, unknown=rest, unfollowed=others)
    return found


def _doubted(findings: Mapping[int, Finding], case: Case, restored: int) -> dict[int, Finding]:
    """Return findings with the doubt that books have which came from a backup not long before.

    What was ordered between the two is not in them, and may still be refunded.
    """
    doubt = {one.id: LOST for one in case.unknown if one.attempt_at < restored + FORGOTTEN}
    return {
        order: msgspec.structs.replace(finding, doubt=doubt.get(order, ""))
        for order, finding in findings.items()
    }


async def _with_movements(store: Store, provider: str, case: Case) -> Case | None:
    """Return a case with what was seen and booked around its orders, unless it is too much."""
    oldest = min(one.attempt_at for one in case.unknown)
    readings = [one for one in case.readings if one.asked_at >= oldest - LOOK_BACK]
    before = [one for one in readings if one.answered_at <= oldest]
    readings = readings[max(len(before) - READINGS, 0) :]
    since = (readings[0].asked_at if readings else oldest) - case.after
    movements = await store.movements(provider, since, MOST_MOVEMENTS)
    if len(movements) == MOST_MOVEMENTS:
        return None
    lost = await store.taken_too_late(provider, since - FORGOTTEN)
    recent = [one for one in case.unfollowed if one.attempt_at >= since - FORGOTTEN]
    return msgspec.structs.replace(
        case, readings=readings, movements=movements, unfollowed=[*recent, *lost]
    )


def _times(provider: Provider) -> tuple[int, int]:
    """Return by how many milliseconds the balance shows what was taken, and reports are old."""
    after = max(provider.settle.after, 2 * provider.timeout)  # no call takes longer
    return int(after * 1000), int(ROUND * provider.timeout * 1000)


class Settler:
    """Looks at balances, and settles unknown orders by them."""

    def __init__(
        self,
        store: Store,
        router: Router,
        follow: Follow,
        providers: Mapping[str, Provider],
        following: Following,
        now: Callable[[], int],
        most_asked: int = MOST_ASKED,
    ) -> None:
        self._store = store
        self._router = router
        self._follow = follow
        self._providers = providers
        self._following = following
        self._now = now
        self._most_asked = most_asked
        self._checking: dict[str, tuple[Reading, int]] = {}  # the last order that was asked for
        self._told: dict[int, Finding] = {}
        self._searched: dict[int, tuple[list[str], int]] = {}

    async def look(self, provider: str, under: Lease | None = None) -> Money:
        """See our balance at a provider, and settle what that settles."""
        asked_at = self._now()
        try:
            balance = await self._router.balance(provider)
        except CallFailed as failure:
            await self._tell_trouble(provider, str(failure))
            raise
        reading = Reading(provider, asked_at, self._now(), balance.micros, balance.currency)
        await self._remember(reading, under)
        unknown = await self._store.undecided(State.UNKNOWN, 1, provider=provider)
        if unknown:
            await self._check(reading, under)
        if unknown or await self._store.without_id(provider):
            await self._settle(provider, under)
        return balance

    async def _tell_trouble(self, provider: str, trouble: str) -> None:
        """Let the owner see why there is no balance; what was seen before stays."""
        failures = self._router.line(provider).health.failures
        await self._store.sight([Sighting(provider, failures=failures, trouble=trouble[:200])])

    async def _remember(self, reading: Reading, under: Lease | None) -> None:
        await self._store.add_reading(reading, under)
        health = self._router.line(reading.provider).health
        seen = Sighting(
            reading.provider,
            balance=reading.balance,
            currency=reading.currency,
            balance_at=reading.answered_at,
            answered_at=reading.answered_at,
            latency=round((health.latency or 0) * 1000),
            failures=health.failures,
            trouble="",
        )
        await self._store.sight([seen])

    async def _check(self, reading: Reading, under: Lease | None) -> None:
        """Ask for all that may have been refunded before a reading, so that it can be explained.

        What is too much for one round is asked for in the next ones, before any later reading.
        """
        provider = reading.provider
        reading, last = self._checking.pop(provider, (reading, 0))
        orders = await self._store.followed(provider, last, self._most_asked)
        if not await self._follow.ask(provider, orders, under):
            return
        if len(orders) == self._most_asked:
            self._checking[provider] = reading, orders[-1].id
        else:
            checked = msgspec.structs.replace(reading, checked=True)
            await self._store.add_reading(checked, under)

    async def _settle(self, provider: str, under: Lease | None) -> None:
        """Act on what the evidence says, where the owner lets it; then look for missing ids."""
        findings = await weigh(self._store, self._providers, provider)
        steps = []
        for order_id, finding in findings.items():
            self._tell(provider, order_id, finding)
            if (
                finding.verdict is not Verdict.OPEN
                and not finding.doubt
                and self._providers[provider].settle.mode == "auto"
            ):
                placed = "" if finding.verdict is Verdict.PLACED else None
                steps.append(self._step(order_id, placed, finding.why))
        if steps:
            await self._follow.advance(steps, under)
        for order in await self._store.without_id(provider):
            if its_id := await self._find(order):
                step = self._step(order.id, its_id, "found among ids that nobody claims")
                await self._follow.advance([step], under)

    def _step(self, order: int, upstream_id: str | None, why: str) -> Step:
        change = transitions.settled(upstream_id, self._now(), self._following, "evidence", why)
        return Step(order, change)

    def _tell(self, provider: str, order: int, finding: Finding) -> None:
        """Log what the evidence says of an order, whenever it says something else than before."""
        before = self._told.get(order)
        if before is None or before.verdict is not finding.verdict:
            log.warning(
                "evidence of an unknown order",
                provider=provider,
                order=order,
                verdict=finding.verdict,
                reason=finding.why,
            )
        self._told[order] = finding

    # --- which id -------------------------------------------------------------------------

    async def _find(self, order: Order) -> str:
        try:
            return await self.find_id(order)
        except CallFailed as failure:
            log.warning("an id could not be looked for", order=order.id, reason=str(failure))
            return ""

    async def find_id(self, order: Order) -> str:
        """Return the provider's id of an order that it has; empty when that is not certain.

        Ids between those of orders before and after it are asked for. It is the one that answers,
        that no order of ours has, whose charge (and quantity, where shown) fit, and that can be no
        other's. Raises a ``CallFailed``.
        """
        reach = self._providers[order.provider].settle.probe_ids
        ids = await self._between(order, reach) if reach else []
        if not ids:
            return ""
        ours = await self._store.known_ids(order.provider, ids)
        free = [one for one in ids if one not in ours]
        before, at = self._searched.get(order.id, ([], 0))
        if not free or (free == before and self._now() < at + SEARCHED_AGAIN):
            return ""
        found = await self._router.probe(order.provider, free)
        fitting = [one for one, report in found.items() if reporting.fits(order, report)]
        if len(fitting) != 1:
            self._searched[order.id] = free, self._now()
            return ""
        (its_id,) = fitting
        return "" if await self._is_claimed(order, its_id, found[its_id]) else its_id

    async def _is_claimed(self, order: Order, its_id: str, report: Report) -> bool:
        """Tell whether an id may as well be that of another order whose id is not known."""
        provider = order.provider
        reach = self._providers[provider].settle.probe_ids
        under_way = await self._store.undecided(State.SENDING, MOST_UNKNOWN, provider=provider)
        unknown = await self._store.undecided(State.UNKNOWN, MOST_UNKNOWN, provider=provider)
        if MOST_UNKNOWN in (len(under_way), len(unknown)):
            return True
        for other in (*under_way, *unknown, *await self._store.without_id(provider)):
            if other.id != order.id and reporting.fits(other, report):
                possible = await self._between(other, reach)
                if not possible or its_id in possible:
                    return True
        return False

    async def _between(self, order: Order, reach: int) -> list[str]:
        """Return the ids that the order can have: no more than ``reach``, else none."""
        near = await self._store.neighbours(order.provider, order.id, NEIGHBOURS)
        restores = await self._store.restores()
        # No call takes longer, so these were taken before, or sent after, it can have been taken.
        apart = int(2000 * self._providers[order.provider].timeout)
        numbered = [(int(one.upstream_id), one.attempt_at) for one in near if _numbered(one)]
        lower = [one for one in numbered if one[1] + apart <= order.attempt_at]
        upper = [one for one in numbered if one[1] >= order.attempt_at + apart]
        if not lower:
            return []
        (last, since), (end, until) = max(lower), min(upper, default=(0, self._now()))
        # What was ordered after a backup, and before the books came from it, had ids in between.
        if any(since < restored < until for restored in restores):
            return []
        first = last + 1
        end = end or first + reach
        return [str(one) for one in range(first, end)] if end - first <= reach else []


def _numbered(order: Order) -> bool:
    return order.upstream_id.isascii() and order.upstream_id.isdecimal()
