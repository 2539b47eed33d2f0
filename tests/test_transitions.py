"""What may happen to an order, from every state, and what must change nothing."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import build
from build import AT, FOLLOWING
from gateway import ledger, reporting, transitions
from gateway.errors import ErrorText
from gateway.model import SETTLED, Cancel, Event, Order, Report, State, Status, Transfer
from gateway.order_types import SUBSCRIPTIONS
from gateway.store import Change, Transition
from gateway.transitions import HOUR, MINUTE
from gateway.view import view

SENT = AT + MINUTE
NOW = AT + HOUR
LAST = 3
"""The attempt under way in every example."""


def example(state: State, **fields: object) -> Order:
    """Return an order in a state, on its third attempt."""
    usual: dict[str, object] = {
        "id": 7,
        "version": 5,
        "state": state,
        "provider": "alpha",
        "route": "1",
        "attempt": LAST,
        "attempt_at": SENT,
        "sender": "mine",
        "created_at": AT,
        "cost": 400_000,
        "cost_currency": "INR",
        "upstream_id": "9" if state is State.PLACED else "",
    }
    return msgspec.structs.replace(build.draft(1), **(usual | fields))


def become(order: Order, change: Transition) -> Change:
    """Return a change that must happen: one version further, told in an event, at this time."""
    found = change(order)
    assert found is not None
    assert found.event is not None
    assert (order.id, order.version + 1) == (found.order.id, found.order.version)
    assert (order.id, order.version + 1, NOW) == (
        found.event.order,
        found.event.version,
        found.event.at,
    )
    assert {NOW} >= {one.at for one in found.transfers}
    return found


def told(report: Report) -> Transition:
    """Return the transition of a report."""
    return reporting.reported(report, NOW, FOLLOWING)


ACCEPTED = transitions.accepted("9", LAST, NOW, FOLLOWING)
REFUSED = transitions.refused("refused", "no", LAST, NOW, then=ErrorText.BAD_LINK)
NEXT = transitions.refused("refused", "no", LAST, NOW, then=build.choice("beta"))
WAIT = transitions.refused("unreachable", "no", LAST, NOW, then=None)
UNKNOWN = transitions.unknown("timeout", LAST, NOW)
SETTLED_PLACED = transitions.settled("9", NOW, FOLLOWING)
SETTLED_NOT = transitions.settled(None, NOW, FOLLOWING)
DENIED = transitions.settled(None, NOW, FOLLOWING, why="no such order", denied=True)
GIVEN_UP = transitions.given_up("no route", ErrorText.UNAVAILABLE, NOW, late=True)
RETRIED = transitions.retried(NOW)
SENDING = transitions.sending(build.choice("beta"), NOW)
REPORTED = told(build.report(Status.COMPLETED))
CANCEL = transitions.cancel_wanted(NOW)

STEPS = {
    "accepted": (
        ACCEPTED,
        {
            State.QUEUED: State.PLACED,  # somebody thought that nobody had it
            State.SENDING: State.PLACED,
            State.UNKNOWN: State.PLACED,
        },
    ),
    "refused": (REFUSED, {State.SENDING: State.FAILED, State.UNKNOWN: State.FAILED}),
    "next": (NEXT, {State.SENDING: State.SENDING, State.UNKNOWN: State.SENDING}),
    "wait": (WAIT, {State.SENDING: State.QUEUED, State.UNKNOWN: State.QUEUED}),
    "unknown": (UNKNOWN, {State.SENDING: State.UNKNOWN}),
    "settled as placed": (SETTLED_PLACED, {State.UNKNOWN: State.PLACED}),
    "settled as not placed": (SETTLED_NOT, {State.UNKNOWN: State.FAILED}),
    "denied": (DENIED, {State.UNKNOWN: State.FAILED, State.PLACED: State.FAILED}),
    "told": (
        transitions.told(NOW),
        {State.QUEUED: State.QUEUED, State.SENDING: State.SENDING},
    ),
    "given up": (GIVEN_UP, {State.QUEUED: State.FAILED}),
    "retried": (RETRIED, {State.FAILED: State.QUEUED}),
    "sending": (SENDING, {State.QUEUED: State.SENDING}),
    "reported": (REPORTED, {State.PLACED: State.PLACED}),
    "cancel": (
        CANCEL,
        {
            State.QUEUED: State.FAILED,
            State.SENDING: State.SENDING,
            State.UNKNOWN: State.UNKNOWN,
            State.PLACED: State.PLACED,
        },
    ),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_leads_from_its_states_alone(name: str, state: State) -> None:
    """From every other state it changes nothing."""
    change, leads = STEPS[name]
    order = example(state)

    if state in leads:
        assert leads[state] is become(order, change).order.state
    elif name == "accepted" and state is not State.PLACED:
        assert only_noted(order, change)
    else:
        assert change(order) is None


def only_noted(order: Order, change: Transition) -> bool:
    """Tell whether a late answer is remembered and moves nothing.

    A failed order keeps the id, so that nothing else can take it for its own.
    """
    became = become(order, change)
    noted = became.event is not None and became.event.kind == transitions.TOO_LATE
    kept = "9" if order.state is State.FAILED else order.upstream_id
    same = msgspec.structs.replace(order, version=order.version + 1, upstream_id=kept)
    return noted and same == became.order and became.transfers == ()


@pytest.mark.parametrize("name", STEPS)
def test_only_an_order_that_failed_counts_no_more_against_a_cap(name: str) -> None:
    """Its customer may spend it again, and hears one of the texts that he knows."""
    change, leads = STEPS[name]
    for state in leads:
        after = become(example(state, capped=True), change)
        failed = after.order.state is State.FAILED

        assert after.order.capped is not failed
        assert failed is (after.order.error in set(ErrorText))
        assert not after.frees


@pytest.mark.parametrize(
    "change",
    [
        transitions.refused("refused", "no", LAST - 1, NOW, then=ErrorText.BAD_LINK),
        transitions.unknown("timeout", LAST - 1, NOW),
    ],
    ids=["refused", "unknown"],
)
def test_what_comes_late_of_an_earlier_attempt_changes_nothing(change: Transition) -> None:
    """The order is elsewhere by then."""
    assert change(example(State.SENDING)) is None


def test_an_id_that_comes_too_late_is_remembered_for_the_owner() -> None:
    """A provider has an order that was given up; no money follows, but somebody must see it."""
    change = transitions.accepted("9", LAST - 1, NOW, FOLLOWING)

    assert only_noted(example(State.SENDING), change)
    assert change(example(State.PLACED, upstream_id="9")) is None


def test_an_id_that_comes_too_late_does_not_take_the_place_of_another() -> None:
    """The first one is looked for still; the history has both."""
    after = become(example(State.FAILED, upstream_id="8"), ACCEPTED)

    assert ("8", State.FAILED, ()) == (after.order.upstream_id, after.order.state, after.transfers)


ATTEMPT = {"attempt": LAST, "provider": "alpha", "service": "1", "began_at": SENT}
"""What the history says of an attempt."""
NAMELESS = example(State.PLACED, upstream_id="")
"""A provider has it, but nobody knows under which id."""
WANTED = example(State.PLACED, cancel=Cancel.WANTED)


@pytest.mark.parametrize(
    ("order", "change", "kind", "detail"),
    [
        (example(State.QUEUED), SENDING, "sending", {"provider": "beta", "service": "1"}),
        (example(State.QUEUED), GIVEN_UP, "given up", {"words": "no route"}),
        (example(State.SENDING), ACCEPTED, "accepted", {**ATTEMPT, "upstream_id": "9"}),
        (
            example(State.FAILED),
            ACCEPTED,
            "accepted too late",
            {"attempt": LAST, "upstream_id": "9"},
        ),
        (example(State.SENDING), REFUSED, "refused", {**ATTEMPT, "words": "no"}),
        (example(State.SENDING), NEXT, "refused", {**ATTEMPT, "words": "no"}),
        (example(State.SENDING), WAIT, "unreachable", {**ATTEMPT, "words": "no"}),
        (example(State.SENDING), UNKNOWN, "unknown", {**ATTEMPT, "words": "timeout"}),
        (
            example(State.UNKNOWN),
            SETTLED_PLACED,
            "settled as placed",
            {"by": "owner", **ATTEMPT, "upstream_id": "9", "cost": 400_000},
        ),
        (
            example(State.UNKNOWN),
            transitions.settled(None, NOW, FOLLOWING, "evidence", "nothing is missing"),
            "settled as not placed",
            {"by": "evidence", **ATTEMPT, "words": "nothing is missing"},
        ),
        (
            NAMELESS,
            SETTLED_PLACED,
            "identified",
            {"by": "owner", **ATTEMPT, "upstream_id": "9", "cost": 400_000},
        ),
        (
            example(State.PLACED),
            DENIED,
            "settled as not placed",
            {"by": "owner", **ATTEMPT, "words": "no such order"},
        ),
        (example(State.FAILED), RETRIED, "retried", {"by": "owner"}),
        (example(State.QUEUED), CANCEL, "cancel wanted", {}),
        (example(State.PLACED), CANCEL, "cancel wanted", {}),
        (WANTED, transitions.cancel_answered(None, NOW), "cancel taken", {}),
        (WANTED, transitions.cancel_answered("no", NOW), "cancel refused", {"words": "no"}),
        (
            example(State.PLACED),
            told(Report(Status.PENDING, "new", 5, "INR", start_count=4, remains=3, runs=2)),
            "status",
            {"status": "new", "charge": 5, "start_count": 4, "remains": 3, "runs": 2},
        ),
        (
            example(State.PLACED),
            told(Report(Status.PENDING, "new", posts=0)),
            "status",
            {"status": "new", "posts": 0},
        ),
    ],
)
def test_the_history_tells_the_owner_what_happened(
    order: Order, change: Transition, kind: str, detail: dict[str, object]
) -> None:
    """Which attempt it was, where, since when, and in whose words; nothing that was not said."""
    event = become(order, change).event
    assert event is not None

    assert (kind, detail) == (event.kind, event.detail)


# --- placed and sent -----------------------------------------------------------------------------


def test_an_order_opens_with_its_first_attempt() -> None:
    """It remembers everything of the route that it takes."""
    change = transitions.opened(build.draft(1), build.choice(), NOW)(7)

    assert (7, 1, State.SENDING, 1, NOW, NOW) == (
        change.order.id,
        change.order.version,
        change.order.state,
        change.order.attempt,
        change.order.attempt_at,
        change.order.created_at,
    )
    assert ("alpha", "1", 400_000, "INR", Decimal("0.0119")) == (
        change.order.provider,
        change.order.route,
        change.order.cost,
        change.order.cost_currency,
        change.order.exchange,
    )
    assert ["order/7/1/hold"] == [one.key for one in change.transfers]


def test_an_order_without_a_route_waits() -> None:
    """Nothing was tried yet, and its money is held."""
    change = transitions.opened(build.draft(1), None, NOW)(7)

    assert (State.QUEUED, 0, "", NOW) == (
        change.order.state,
        change.order.attempt,
        change.order.provider,
        change.order.queued_at,
    )
    assert ["order/7/1/hold"] == [one.key for one in change.transfers]


@pytest.mark.parametrize("route", [build.choice(), None], ids=["a route", "no route"])
def test_a_hold_is_taken_when_the_order_is_placed(route: transitions.Choice | None) -> None:
    """Of all that it costs, and at that time."""
    (hold,) = transitions.opened(build.draft(1), route, NOW)(7).transfers

    assert ("hold", 1_000_000, NOW) == (hold.code, hold.amount, hold.at)


@pytest.mark.parametrize("route", [build.choice(), None], ids=["a route", "no route"])
def test_a_new_order_is_its_senders_or_nobodys(route: transitions.Choice | None) -> None:
    """Whoever placed it knows his own mark on it; without one anybody may send it."""
    marked = transitions.opened(build.draft(1), route, NOW, "me")(7).order
    free = transitions.opened(build.draft(1), route, NOW)(7).order

    assert ("me", "") == (marked.sender, free.sender)


def test_an_attempt_is_made_by_whoever_has_marked_it() -> None:
    """And the next one by him, too: the order never was anybody else's meanwhile."""
    taken = transitions.sending(build.choice("beta"), NOW, "me")

    assert "me" == become(example(State.QUEUED), taken).order.sender
    assert "" == become(example(State.QUEUED), SENDING).order.sender
    assert "mine" == become(example(State.SENDING), NEXT).order.sender


@pytest.mark.parametrize(("before", "since"), [(AT, AT), (0, NOW)])
def test_an_order_waits_since_it_was_first_queued(before: int, since: int) -> None:
    """A refusal in between does not make its time begin again."""
    assert since == become(example(State.SENDING, queued_at=before), WAIT).order.queued_at


@pytest.mark.parametrize(
    ("late", "status", "word"),
    [(True, Status.CANCELED, "Canceled"), (False, Status.PENDING, "failed")],
)
def test_an_order_that_no_route_took_is_released(late: bool, status: Status, word: str) -> None:
    """Whoever has its id reads that it is canceled; anybody else hears why, and may ask again."""
    queued = example(State.QUEUED)
    unheard = None if late else queued.version
    given_up = transitions.given_up("no", ErrorText.BAD_LINK, NOW, late=late, unheard=unheard)
    change = become(queued, given_up)

    assert (status, word, "Bad link", not late) == (
        change.order.status,
        change.order.word,
        change.order.error,
        change.frees,
    )
    assert ["release"] == [one.code for one in change.transfers]


@pytest.mark.parametrize("change", [NEXT, SENDING], ids=["next", "sending"])
def test_another_attempt_has_another_number_and_moves_no_money(change: Transition) -> None:
    """The hold stays where it is."""
    order = example(State.QUEUED if change is SENDING else State.SENDING)
    after = become(order, change)

    assert (LAST + 1, "beta", NOW) == (
        after.order.attempt,
        after.order.provider,
        after.order.attempt_at,
    )
    assert () == after.transfers


def test_an_accepted_order_is_asked_for_after_a_while() -> None:
    """Under its provider's id."""
    after = become(example(State.SENDING), ACCEPTED).order

    assert ("9", NOW + FOLLOWING.every) == (after.upstream_id, after.poll_at)


def test_an_order_settled_without_an_id_is_never_asked_for() -> None:
    """There is nothing to ask for."""
    after = become(example(State.UNKNOWN), transitions.settled("", NOW, FOLLOWING)).order

    assert (State.PLACED, "", None) == (after.state, after.upstream_id, after.poll_at)
    assert transitions.awaits_id(after)


@pytest.mark.parametrize("named", [ACCEPTED, SETTLED_PLACED], ids=["by itself", "by the owner"])
def test_an_order_settled_without_an_id_may_get_it_later(named: Transition) -> None:
    """It was paid already; from now on it is asked for."""
    change = become(NAMELESS, named)

    assert ("9", NOW + FOLLOWING.every, ()) == (
        change.order.upstream_id,
        change.order.poll_at,
        change.transfers,
    )
    assert not transitions.awaits_id(change.order)


@pytest.mark.parametrize("upstream_id", [None, ""])
def test_an_order_settled_as_placed_is_not_settled_again_without_an_id(
    upstream_id: str | None,
) -> None:
    """There is nothing new in that."""
    assert transitions.settled(upstream_id, NOW, FOLLOWING)(NAMELESS) is None


@pytest.mark.parametrize("order", [NAMELESS, example(State.PLACED, poll_at=NOW)])
def test_an_order_that_its_provider_denies_ends_and_its_money_is_moved_back(order: Order) -> None:
    """It keeps the id that it had, and is never asked for again."""
    change = become(order, DENIED)
    after = change.order

    assert (State.FAILED, order.upstream_id, None) == (
        after.state,
        after.upstream_id,
        after.poll_at,
    )
    assert [("refund", 1_000_000), ("rebate", 400_000)] == [
        (one.code, one.amount) for one in change.transfers
    ]


def test_a_subscription_that_its_provider_denies_holds_nothing_any_more() -> None:
    """What its posts cost is refunded, and the rest released."""
    params = {"max": "100"}
    order = example(State.PLACED, type=SUBSCRIPTIONS, params=params, posts=4, size=1000)
    change = become(order, DENIED)

    assert [("release", 600_000), ("refund", 400_000), ("rebate", 160_000)] == [
        (one.code, one.amount) for one in change.transfers
    ]


@pytest.mark.parametrize("status", sorted(SETTLED))
def test_an_order_that_is_over_is_not_denied(status: Status) -> None:
    """Panels forget old orders, which were delivered all the same."""
    assert DENIED(example(State.PLACED, status=status)) is None


@pytest.mark.parametrize(
    ("state", "change"),
    [(State.UNKNOWN, SETTLED_NOT), (State.QUEUED, CANCEL)],
    ids=["settled as not placed", "canceled"],
)
def test_an_order_that_ends_unrefused_was_unavailable(state: State, change: Transition) -> None:
    """That is what a repeat of it is told, too."""
    assert "Service is unavailable" == become(example(state), change).order.error


@pytest.mark.parametrize("state", [State.QUEUED, State.SENDING, State.UNKNOWN])
def test_what_was_never_sent_is_released_whatever_others_think_of_it(state: State) -> None:
    mine, other = (transitions.never_sent("no", one, NOW) for one in ("mine", "other"))

    assert State.FAILED is become(example(state), mine).order.state
    assert other(example(state)) is None


def test_a_refusal_says_what_the_customer_is_told_and_what_the_owner_may_read() -> None:
    """The provider's words stay in the history."""
    change = become(example(State.SENDING), REFUSED)
    assert change.event is not None

    assert ErrorText.BAD_LINK == change.order.error
    assert ("refused", "no", LAST) == (
        change.event.kind,
        change.event.detail["words"],
        change.event.detail["attempt"],
    )
    assert not change.frees


def heard(version: int) -> Transition:
    """Return a refusal that whoever ordered hears, if the order has this version still."""
    return transitions.refused("refused", "no", LAST, NOW, then=ErrorText.BAD_LINK, unheard=version)


def test_a_refusal_frees_the_claim_when_the_customer_hears_it() -> None:
    """And only when nobody else can have been given the order's id meanwhile."""
    sent = example(State.SENDING)
    after = [become(sent, one).order for one in (UNKNOWN, transitions.told(NOW))]

    assert become(sent, heard(sent.version)).frees
    assert [False, False] == [become(one, heard(sent.version)).frees for one in after]


@pytest.mark.parametrize("told", [False, True])
def test_what_was_never_sent_frees_its_claim_unless_a_repeat_has_its_id(told: bool) -> None:
    fresh = transitions.opened(build.draft(1), None, AT, "mine")(7).order
    if told:
        fresh = become(fresh, transitions.told(NOW)).order

    assert (not told) is become(fresh, transitions.never_sent("no", "mine", NOW)).frees


def test_a_retried_order_begins_anew() -> None:
    """What it was told, and a cancel that it had, are forgotten."""
    failed = example(State.FAILED, error="Bad link", status=Status.CANCELED, cancel=Cancel.ASKED)
    change = become(failed, RETRIED)
    after = change.order

    assert ("", Status.PENDING, Cancel.NONE) == (after.error, after.status, after.cancel)
    assert NOW == after.queued_at
    assert [("hold", 1_000_000)] == [(one.code, one.amount) for one in change.transfers]


def test_an_order_that_a_provider_took_after_all_is_not_retried() -> None:
    """It would be there twice."""
    assert RETRIED(example(State.FAILED, upstream_id="9")) is None


# --- a wrong id ----------------------------------------------------------------------------------


def lived(draft: Order, *steps: Transition) -> tuple[Order, list[Event], list[Transfer]]:
    """Return an order that was opened and went through these steps, with its history."""
    opened = transitions.opened(draft, build.choice(cost=400_000), NOW)(7)
    order, events, transfers = opened.order, [], [*opened.transfers]
    for step in steps:
        change = become(order, step)
        order = change.order
        events += [change.event] if change.event else []
        transfers += change.transfers
    return order, events, transfers


def untold(events: Sequence[Event]) -> list[Event]:
    """Return events as they were written before they told what an order was to cost."""
    return [
        msgspec.structs.replace(
            one, detail={name: said for name, said in one.detail.items() if name != "cost"}
        )
        for one in events
    ]


HANGS = transitions.unknown("hangs", None, NOW)
DEAR = told(build.report(charge=5_000_000))


@pytest.mark.parametrize("before", [False, True], ids=["told", "untold"])
@pytest.mark.parametrize("cost", [0, 99_000])
def test_an_order_that_gets_another_id_is_to_cost_what_its_last_route_does(
    cost: int, before: bool
) -> None:
    """Which the one before a retry did not, and what is free has never been booked."""
    order, events, transfers = lived(
        build.draft(1),
        HANGS,
        transitions.settled("", NOW, FOLLOWING),
        DENIED,
        RETRIED,
        transitions.sending(build.choice(cost=cost), NOW, "me"),
        HANGS,
        transitions.settled("8", NOW, FOLLOWING),
        DEAR,
    )
    events = untold(events) if before else events
    after = become(order, transitions.corrected("8", "9", events, transfers, NOW)).order

    assert (5_000_000, cost) == (order.cost, after.cost)


@pytest.mark.parametrize("given", [("8",), ("", "8")], ids=["settled", "identified"])
def test_a_subscription_that_gets_another_id_costs_what_it_was_to_cost(
    given: tuple[str, ...],
) -> None:
    """No booking tells that of it; and the other id may be as wrong."""
    draft = build.draft(1, kind=SUBSCRIPTIONS)
    placed = [transitions.settled(one, NOW, FOLLOWING) for one in given]
    order, events, transfers = lived(draft, HANGS, *placed, DEAR)
    change = become(order, transitions.corrected("8", "9", events, transfers, NOW))
    assert change.event
    dearer = reporting.reported(build.report(charge=6_000_000), NOW, FOLLOWING, NOW)
    again = become(change.order, dearer).order
    events = [*events, change.event]
    after = become(again, transitions.corrected("9", "", events, transfers, NOW)).order

    assert [400_000] * 4 == [one.cost for one in (order, change.order, again, after)]
    assert [5_000_000, None, 6_000_000, None] == [
        one.billed for one in (order, change.order, again, after)
    ]


# --- cancels -------------------------------------------------------------------------------------


def test_an_order_that_was_never_sent_is_canceled_at_once() -> None:
    """Its money is back, and nobody needs to be asked."""
    change = become(example(State.QUEUED), CANCEL)

    assert (Status.CANCELED, "Canceled", Cancel.ASKED) == (
        change.order.status,
        change.order.word,
        change.order.cancel,
    )
    assert ["release"] == [one.code for one in change.transfers]


@pytest.mark.parametrize("refused", [NEXT, WAIT], ids=["next", "wait"])
def test_a_refused_order_whose_cancel_is_wanted_goes_nowhere_else(refused: Transition) -> None:
    """No other provider is asked for what would be canceled there."""
    change = become(example(State.SENDING, cancel=Cancel.WANTED), refused)

    assert (State.FAILED, "Canceled") == (change.order.state, change.order.word)
    assert ["release"] == [one.code for one in change.transfers]


def test_a_refusal_for_good_is_one_though_a_cancel_is_wanted() -> None:
    """Whoever hears it hears why, and may order again."""
    sent = example(State.SENDING, cancel=Cancel.WANTED)
    change = become(sent, heard(sent.version))

    assert ("Bad link", True) == (change.order.error, change.frees)


@pytest.mark.parametrize("status", Status)
def test_a_settled_order_is_not_canceled(status: Status) -> None:
    """There is nothing left to cancel; every other order remembers the wish."""
    order = example(State.PLACED, status=status)
    settled = status in {Status.COMPLETED, Status.PARTIAL, Status.CANCELED, Status.EXPIRED}

    assert transitions.cancelable(order) is not settled
    assert (CANCEL(order) is None) is settled


@pytest.mark.parametrize("state", [State.SENDING, State.UNKNOWN, State.PLACED])
def test_a_wish_to_cancel_is_remembered(state: State) -> None:
    """Until its provider has answered; before that it moves no money."""
    change = become(example(state), CANCEL)

    assert (Cancel.WANTED, state, ()) == (change.order.cancel, change.order.state, change.transfers)


@pytest.mark.parametrize("cancel", [Cancel.WANTED, Cancel.ASKED])
def test_a_cancel_is_wanted_once(cancel: Cancel) -> None:
    """The wish is known already."""
    assert CANCEL(example(State.PLACED, cancel=cancel)) is None


@pytest.mark.parametrize(("words", "then"), [(None, Cancel.ASKED), ("too late", Cancel.NONE)])
def test_a_cancel_is_answered_once(words: str | None, then: Cancel) -> None:
    """Taken, it waits for a status; refused, it may be wanted again."""
    answered = transitions.cancel_answered(words, NOW)
    after = become(example(State.PLACED, cancel=Cancel.WANTED), answered)

    assert then is after.order.cancel
    assert () == after.transfers  # only a status moves money
    assert answered(after.order) is None


# --- reports -------------------------------------------------------------------------------------


def test_a_report_is_taken_over_as_far_as_it_says_something() -> None:
    """What is left out stays as it was."""
    before = example(State.PLACED, start_count=5, remains=900, billed=3, expiry="1/1/2030")
    said = Report(Status.IN_PROGRESS, "inprogress", remains=400, orders=("1", "2"))
    change = become(before, told(said))
    assert change.event is not None

    assert (Status.IN_PROGRESS, 5, 400, 3, ("1", "2"), "1/1/2030") == (
        change.order.status,
        change.order.start_count,
        change.order.remains,
        change.order.billed,
        change.order.orders,
        change.order.expiry,
    )
    assert ("status", {"status": "inprogress", "remains": 400}) == (
        change.event.kind,
        change.event.detail,
    )


def test_whatever_a_report_says_is_remembered_until_another_says_otherwise() -> None:
    """A later one that leaves it out takes nothing back."""
    said = Report(
        Status.ACTIVE,
        "active",
        start_count=7,
        remains=400,
        runs=3,
        posts=2,
        orders=("1", "2"),
        expiry="1/1/2030",
    )
    heard = become(SUBSCRIPTION, told(said)).order
    later = become(heard, told(Report(Status.PAUSED, "paused"))).order

    for after in (heard, later):
        assert (7, 400, 3, 2, ("1", "2"), "1/1/2030") == (
            after.start_count,
            after.remains,
            after.runs,
            after.posts,
            after.orders,
            after.expiry,
        )


def test_what_a_subscription_has_come_to_so_far_is_not_what_it_is_to_cost() -> None:
    """Its posts are charged one by one; of their charge a canceled one keeps all of it."""
    post = SUBSCRIPTION.cost // 5
    order = SUBSCRIPTION
    for status, posts in ((Status.ACTIVE, 1), (Status.ACTIVE, 2), (Status.CANCELED, 2)):
        said = build.report(status, posts=posts, charge=posts * post)
        order = become(order, told(said)).order

    assert (SUBSCRIPTION.cost, 2 * post) == (order.cost, ledger.cost(order))


@pytest.mark.parametrize(
    ("status", "posts", "left"),
    [
        (Status.ACTIVE, None, 1000),
        (Status.ACTIVE, 2, 600),
        (Status.CANCELED, 2, 600),
        (Status.COMPLETED, 5, 0),
        (Status.EXPIRED, 9, 0),
    ],
)
def test_of_a_subscription_remains_what_its_posts_have_left(
    status: Status, posts: int | None, left: int
) -> None:
    """Whoever gives his own customer back what remains, gives back no post that was delivered."""
    row = view(msgspec.structs.replace(SUBSCRIPTION, status=status, posts=posts, remains=0))

    assert str(left) == row["remains"]


def test_a_word_that_nobody_knows_changes_nothing() -> None:
    """Not even what stands beside it."""
    assert told(build.report(None, "Refunding", charge=1, remains=5))(example(State.PLACED)) is None


SUBSCRIPTION = example(
    State.PLACED, type=SUBSCRIPTIONS, params={"username": "a", "max": "200", "posts": "5"}
)
DRIP_FEED = example(
    State.PLACED, params={"link": "a", "quantity": "200", "runs": "5", "interval": "1"}
)


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.PAUSED, Status.EXPIRED])
def test_a_word_for_subscriptions_says_something_of_them_alone(status: Status) -> None:
    """Of another order it means whatever the provider means by it."""
    said = build.report(status, charge=1, remains=5)

    assert reporting.understood(example(State.PLACED), said) is None
    assert told(said)(example(State.PLACED)) is None
    assert status is become(SUBSCRIPTION, told(said)).order.status


@pytest.mark.parametrize(
    ("order", "remains", "runs", "clear"),
    [
        (example(State.PLACED), None, None, False),
        (example(State.PLACED), None, 2, False),
        (example(State.PLACED), 0, None, True),
        (example(State.PLACED), 400, None, True),
        (example(State.PLACED, remains=400), None, None, False),  # said of another status
        (example(State.PLACED, status=Status.PARTIAL, remains=400), None, None, True),
        (DRIP_FEED, None, None, False),
        (DRIP_FEED, None, 2, True),
        (SUBSCRIPTION, None, None, True),  # charged by the post
    ],
)
def test_a_partial_delivery_of_nobody_knows_how_much_is_not_believed(
    order: Order, remains: int | None, runs: int | None, clear: bool
) -> None:
    """There is no share to give back, until the provider says more."""
    said = build.report(Status.PARTIAL, remains=remains, runs=runs, charge=7)

    assert (Status.PARTIAL if clear else None) is reporting.understood(order, said)
    assert clear is (told(said)(order) is not None)


@pytest.mark.parametrize(("asked_at", "late"), [(AT - 1, True), (AT, False), (AT + 1, False)])
def test_an_answer_that_was_overtaken_changes_nothing(asked_at: int, late: bool) -> None:
    """What is known was asked for later; what was asked for at the same time may add to it."""
    order = example(State.PLACED, reported_at=AT)
    said = reporting.reported(build.report(Status.COMPLETED), NOW, FOLLOWING, asked_at)
    after = said(order)

    assert late is (after is None)
    assert after is None or asked_at == after.order.reported_at


@pytest.mark.parametrize("status", Status)
def test_a_status_that_ends_an_order_makes_the_next_look_rare(status: Status) -> None:
    """After any other, the order is asked for again as soon as before."""
    order = msgspec.structs.replace(
        SUBSCRIPTION, status=Status.PROCESSING, start_count=1, poll_at=5
    )
    said = Report(status, str(status), start_count=2)
    after = become(order, told(said)).order
    ends = status in {Status.COMPLETED, Status.PARTIAL, Status.CANCELED, Status.EXPIRED}

    assert (NOW if ends else None) == after.settled_at
    usual = FOLLOWING.next(order, NOW)

    assert (NOW + 10 * FOLLOWING.every if ends else usual) == after.poll_at


@pytest.mark.parametrize(
    ("status", "charge", "currency", "billed", "cost"),
    [
        (Status.IN_PROGRESS, 500_000, "", 500_000, 500_000),
        (Status.COMPLETED, 500_000, "INR", 500_000, 500_000),
        (Status.COMPLETED, 500_000, "USD", None, 400_000),
        (Status.COMPLETED, None, "INR", None, 400_000),
        (Status.COMPLETED, 1, "", 1, 1),
        (Status.COMPLETED, 0, "", 0, 400_000),  # many say nothing yet by that
        (Status.COMPLETED, -1, "", None, 400_000),
        (Status.PARTIAL, 500_000, "", 500_000, 400_000),  # perhaps a share already
        (Status.CANCELED, 500_000, "", 500_000, 400_000),
    ],
)
def test_a_charge_is_taken_over_for_what_it_can_mean(
    status: Status, charge: int | None, currency: str, billed: int | None, cost: int
) -> None:
    """In the provider's own currency, not below nothing, and the whole only where it is one."""
    said = Report(status, "word", charge, currency, remains=0)
    after = become(example(State.PLACED), told(said)).order

    assert (billed, cost) == (after.billed, after.cost)


@pytest.mark.parametrize(
    ("order", "status", "said", "remains"),
    [
        (example(State.PLACED), Status.IN_PROGRESS, -5, 0),
        (example(State.PLACED), Status.IN_PROGRESS, 1001, 1000),
        (example(State.PLACED), Status.COMPLETED, None, 0),
        (example(State.PLACED), Status.COMPLETED, 3, 3),
        (example(State.PLACED), Status.CANCELED, None, None),
        (example(State.PLACED, remains=7), Status.PROCESSING, None, 7),
    ],
)
def test_what_remains_lies_between_nothing_and_all(
    order: Order, status: Status, said: int | None, remains: int | None
) -> None:
    """Where nobody says it, a completed order has nothing left, and any other stays as it was."""
    assert remains == become(order, told(build.report(status, remains=said))).order.remains


def test_a_charge_of_the_whole_is_what_a_later_share_is_taken_of() -> None:
    """A partial report's own charge may be the share already, and is not the whole."""
    whole = become(
        example(State.PLACED), told(build.report(Status.IN_PROGRESS, charge=500_000))
    ).order
    part = become(whole, told(build.report(Status.PARTIAL, charge=300_000, remains=400))).order

    assert (500_000, 500_000) == (whole.cost, whole.billed)
    assert (500_000, 300_000) == (part.cost, part.billed)


def test_a_status_that_settles_is_remembered_with_its_first_time() -> None:
    """Late changes do not make the order young again."""
    first = become(example(State.PLACED), told(build.report(Status.COMPLETED))).order
    later = reporting.reported(build.report(Status.PARTIAL, remains=3), NOW + HOUR, FOLLOWING)
    change = later(first)
    assert change is not None

    assert (NOW, NOW) == (first.settled_at, change.order.settled_at)
    assert NOW + 10 * FOLLOWING.every == first.poll_at


@pytest.mark.parametrize(
    ("runs", "remains", "left"),
    [(0, None, 1000), (2, None, 600), (5, None, 0), (2, 17, 17), (None, None, None)],
)
def test_runs_done_say_what_remains_of_a_drip_feed(
    runs: int | None, remains: int | None, left: int | None
) -> None:
    """Unless the provider says it itself."""
    said = build.report(Status.IN_PROGRESS, runs=runs, remains=remains)

    assert left == become(DRIP_FEED, told(said)).order.remains


@pytest.mark.parametrize("params", [{"quantity": "1000"}, {"runs": "5"}, {}])
def test_runs_of_an_order_that_is_no_drip_feed_say_nothing(params: dict[str, str]) -> None:
    """There is no number of them, or no quantity for each."""
    said = build.report(Status.IN_PROGRESS, runs=2)

    assert become(example(State.PLACED, params=params), told(said)).order.remains is None


@given(
    st.builds(
        Report,
        status=st.none() | st.sampled_from(Status),
        word=st.text(),
        charge=st.none() | st.integers(),
        currency=st.sampled_from(["", "INR", "USD", "inr"]),
        start_count=st.none() | st.integers(),
        remains=st.none() | st.integers(),
        runs=st.none() | st.integers(),
        posts=st.none() | st.integers(),
    ),
    st.sampled_from(State),
)
@settings(deadline=None, database=None)
def test_the_same_report_twice_changes_nothing_the_second_time(
    report: Report, state: State
) -> None:
    """Whatever it says."""
    once = told(report)(example(state))

    assert once is None or told(report)(once.order) is None


# --- when to ask ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "wait"),
    [
        (0, 30_000),
        (10 * MINUTE, 30_000),
        (HOUR, 180_000),
        (10 * HOUR, 1_800_000),
        (1000 * HOUR, 1_800_000),
    ],
)
def test_the_older_an_order_the_rarer_it_is_asked_for(age: int, wait: int) -> None:
    """At most every half hour, at least as often as the owner says."""
    order = example(State.PLACED)

    assert AT + age + wait == FOLLOWING.next(order, AT + age)


@pytest.mark.parametrize(
    ("since", "wait"),
    [
        (0, 300_000),
        (HOUR, 3_600_000),
        (48 * HOUR, 86_400_000),
        (30 * 24 * HOUR, 86_400_000),
        (30 * 24 * HOUR + 1, None),
    ],
)
def test_a_settled_order_is_looked_at_until_nobody_expects_a_change(
    since: int, wait: int | None
) -> None:
    """For ``follow_for``, ever more rarely."""
    order = example(State.PLACED, settled_at=AT)
    now = AT + since

    assert (None if wait is None else now + wait) == FOLLOWING.next(order, now)


@given(st.integers(0, 10**11), st.none() | st.integers(0, 10**11))
def test_the_next_look_is_later(age: int, settled: int | None) -> None:
    """Nobody is asked twice in the same moment."""
    order = example(State.PLACED, settled_at=None if settled is None else AT + settled)
    after = FOLLOWING.next(order, AT + age)

    assert after is None or after >= AT + age + FOLLOWING.every


@pytest.mark.parametrize(("attempt", "keeps"), [(3, "9"), (2, "")])
def test_an_id_that_comes_too_late_is_kept_with_the_attempt_that_it_is_of(
    attempt: int, keeps: str
) -> None:
    """Beside another attempt's provider it would name an order of somebody else's."""
    order = example(State.FAILED, attempt=3, provider="beta", upstream_id="")
    after = become(order, transitions.accepted("9", attempt, NOW, FOLLOWING))

    assert (State.FAILED, "beta", keeps) == (
        after.order.state,
        after.order.provider,
        after.order.upstream_id,
    )
    assert after.event is not None
    assert {"attempt": attempt, "upstream_id": "9"} == after.event.detail
