"""The things this gateway speaks of, as values: no behaviour that needs a wire, a clock or a disk.

Times are whole milliseconds since 1970 and end in ``_at``; amounts without a ``Money`` around
them are whole millionths of the currency that stands beside them. None of all this can be part of
a cycle: the collector is spared that of which there is much.
"""

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum

import msgspec

from gateway.errors import ErrorText, Fault, Rejected


class Action(StrEnum):
    """The seven actions of API v2."""

    SERVICES = "services"
    ADD = "add"
    STATUS = "status"
    REFILL = "refill"
    REFILL_STATUS = "refill_status"
    CANCEL = "cancel"
    BALANCE = "balance"


class Status(StrEnum):
    """How far an order is, in exactly the spellings that customers' programs compare."""

    PENDING = "Pending"
    PROCESSING = "Processing"
    IN_PROGRESS = "In progress"
    COMPLETED = "Completed"
    PARTIAL = "Partial"
    CANCELED = "Canceled"
    ACTIVE = "Active"  # this one and the next two are said of subscriptions only
    PAUSED = "Paused"
    EXPIRED = "Expired"


SETTLED = frozenset({Status.COMPLETED, Status.PARTIAL, Status.CANCELED, Status.EXPIRED})
"""Nothing more is expected of an order with one of these, though late changes do come."""


class RefillStatus(StrEnum):
    """How far a refill is."""

    PENDING = "Pending"
    IN_PROGRESS = "In progress"
    COMPLETED = "Completed"
    REJECTED = "Rejected"


# --- what is said to a provider and what it answers ------------------------------------------


class Call(msgspec.Struct, frozen=True):
    r"""One request to a provider, before any dialect.

    Attributes:
        action: which of the seven.
        ids: the provider's own order ids (refill ids for ``refill_status``); one or many.
        service: for ``add``, the provider's own service id.
        params: for ``add``, the order's parameters under API v2's names; lists are joined by
            ``\n``.
        size: for ``add``, how many units the order counts.

    """

    action: Action
    ids: tuple[str, ...] = ()
    service: str = ""
    params: Mapping[str, str] = {}
    size: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """A refusal as a value, for one id among many; see ``errors.Rejected`` for the fields."""

    fault: Fault
    text: ErrorText
    words: str

    def error(self) -> Rejected:
        """Return the same refusal as an exception."""
        return Rejected(self.fault, self.text, self.words)


class Offer(msgspec.Struct, frozen=True, gc=False):
    """One row of a provider's service list.

    There may be a million of them, and none can be part of a cycle: the collector is spared them.

    Attributes:
        id: the provider's own id, as text.
        type: as the provider spells it.
        rate: per 1000, in the provider's currency, exact.
        refill, cancel, dripfeed: ``None`` where the provider does not say.

    """

    id: str
    name: str
    type: str
    category: str
    rate: Decimal
    min: int
    max: int
    refill: bool | None = None
    cancel: bool | None = None
    dripfeed: bool | None = None
    description: str = ""


Known = Mapping[str, tuple[Offer, int | None]]
"""All that a provider has ever offered, by its ids, with the time since when each is gone."""


class Decision(StrEnum):
    """What the owner says of a change that was held back."""

    NONE = ""
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Held(msgspec.Struct, frozen=True):
    """A change of a provider's service, or a whole list, that waits for the owner's word.

    Attributes:
        offer: the service's id there; empty for a list.
        reason: what is odd about it.
        paused: the service is not sold by this route meanwhile; else it is as it was.
        offered: how the provider has it now; ``None`` for a list.
        services: how many a list had.
        at: since when.

    """

    provider: str
    offer: str
    reason: str
    paused: bool = False
    offered: Offer | None = None
    services: int = 0
    at: int = 0
    decision: Decision = Decision.NONE

    def __str__(self) -> str:
        """Return what it is called: ``provider/service``, or the provider alone for a list."""
        return f"{self.provider}/{self.offer}" if self.offer else self.provider


class OfferChange(msgspec.Struct, frozen=True, gc=False):
    """One thing that has changed about a provider's service.

    Attributes:
        offer: the service's id there; empty for the provider's first list.
        kind: ``first``, ``new``, ``gone``, ``back``, ``paused``, ``resumed``, or the field of
            ``Offer`` that differs.
        before, after: the field's values as text; of ``new``, ``gone`` and ``back`` the rate, of
            ``first`` how many services.

    """

    provider: str
    offer: str
    at: int
    kind: str
    before: str = ""
    after: str = ""


class Report(msgspec.Struct, frozen=True, gc=False):
    """What a provider says of one order; ``None`` is "it did not say".

    Attributes:
        status: folded to one of our words; ``None`` for a word that nobody knows.
        word: the status as the provider wrote it.
        charge: what the provider charged, in millionths of ``currency``.
        currency: as the provider wrote it; empty when it did not.
        runs: runs of a drip-feed done so far.
        posts: posts of a subscription delivered so far.
        orders: ids of the orders that a subscription or drip-feed made, at the provider.
        quantity: how much was ordered, where the provider repeats it.

    """

    status: Status | None
    word: str
    charge: int | None = None
    currency: str = ""
    start_count: int | None = None
    remains: int | None = None
    runs: int | None = None
    posts: int | None = None
    orders: tuple[str, ...] = ()
    expiry: str = ""
    quantity: int | None = None


# --- what is kept ---------------------------------------------------------------------------


class State(StrEnum):
    """Where an order stands between the customer and the providers."""

    QUEUED = "queued"  # held, provably with no provider: waits for a route, or a free place there
    SENDING = "sending"  # held, an attempt is under way: from here on a provider may have it
    UNKNOWN = "unknown"  # held, a provider may have taken it
    PLACED = "placed"  # a provider has it; its money follows its status
    FAILED = "failed"  # refused by all, released


class Cancel(StrEnum):
    """How far a customer's wish to cancel is."""

    NONE = ""
    WANTED = "wanted"  # not yet heard by the provider; asked again in the background
    ASKED = "asked"  # taken by the provider; the outcome arrives as a status


class Order(msgspec.Struct, frozen=True, gc=False):
    """An order, all that is known of it. Money is a function of this, see ``ledger``.

    Attributes:
        version: counts the changes; names the transfers and the event of each.
        type: the order type's name in ``order_types``.
        size: what the charge and the limits count.
        charge: what was held for it, in millionths of ``currency``.
        provider, route: where it is or was sent: the provider, and its service id.
        upstream_id: the provider's order id; empty while there is none.
        attempt: the number of the attempt under way, or of the last.
        attempt_at: when that attempt was marked; not a byte of it is written earlier. Before the
            first, when whoever placed it began to wait for a place.
        capped: it counts against its customer's daily cap, as soon as he has one.
        reported_at: when the provider was asked for what is known of it.
        queued_at: since when it waits for a route.
        sender: a random mark of whoever makes that attempt, or places the order, so that he
            knows it for his own.
        cost: what it should cost in all, in millionths of ``cost_currency``.
        billed: what the provider last said it charged.
        exchange: one unit of ``cost_currency`` in ``currency`` when it was sent.
        error: what the customer was told when every route had refused it.
        settled_at: when it first reached a status of ``SETTLED``.
        poll_at: when its status is to be asked for next; ``None``: never again.

    """

    customer: int
    service: int
    type: str
    params: dict[str, str]
    size: int
    charge: int
    currency: str
    id: int = 0
    version: int = 0
    state: State = State.SENDING
    provider: str = ""
    route: str = ""
    upstream_id: str = ""
    attempt: int = 1
    attempt_at: int = 0
    sender: str = ""
    queued_at: int = 0
    reported_at: int = 0
    capped: bool = False
    cost: int = 0
    cost_currency: str = ""
    billed: int | None = None
    exchange: Decimal = Decimal(1)
    status: Status = Status.PENDING
    start_count: int | None = None
    remains: int | None = None
    runs: int | None = None
    posts: int | None = None
    orders: tuple[str, ...] = ()
    expiry: str = ""
    cancel: Cancel = Cancel.NONE
    error: str = ""
    created_at: int = 0
    settled_at: int | None = None
    poll_at: int | None = None

    @property
    def word(self) -> str:
        """How the owner's lists call it: the customers' word, or ``unknown`` or ``failed``."""
        if self.state is State.UNKNOWN or (
            self.state is State.FAILED and self.status is not Status.CANCELED
        ):
            return self.state
        return self.status


class Event(msgspec.Struct, frozen=True, gc=False):
    """One change of an order, for its history.

    Attributes:
        kind: ``accepted``, ``refused``, ``unknown``, ``unreachable``, ``status``, ``settled``, …
        detail: what the owner will want to know; never a key.

    """

    kind: str
    detail: Mapping[str, str | int | None] = {}
    at: int = 0
    order: int = 0
    version: int = 0


CORRECTED = "corrected"
"""An event: an order gets another id than a wrong one; what was said before was of another."""


class Refill(msgspec.Struct, frozen=True):
    """A refill that a customer asked for.

    Attributes:
        id: 0 until the store gives it one.
        upstream_id: the provider's refill id; empty where its dialect has none, and while the
            provider has not answered.
        poll_at: when to ask for its status next; ``None``: there is nothing more to ask.

    """

    id: int
    order: int
    customer: int
    provider: str
    upstream_id: str = ""
    status: RefillStatus = RefillStatus.PENDING
    created_at: int = 0
    poll_at: int | None = None


class Customer(msgspec.Struct, frozen=True):
    """Somebody who holds one of our keys; the key itself is kept nowhere.

    Attributes:
        tier_before, tier_at: the price group that he was in until then; what he has read at its
            rates he may order at them for a while.
        daily_cap: what his orders of a day (UTC) may cost, in millionths; ``None``: no limit.
        addresses: the networks that his key works from; empty: from anywhere.
        per_second: requests that he may make; ``None``: as many as anybody.

    """

    id: int
    name: str
    tier: str = ""
    disabled: bool = False
    created_at: int = 0
    daily_cap: int | None = None
    addresses: tuple[str, ...] = ()
    per_second: int | None = None
    tier_before: str = ""
    tier_at: int = 0


class Code(StrEnum):
    """Why money moved."""

    TOP_UP = "top_up"
    WITHDRAW = "withdraw"
    HOLD = "hold"
    RELEASE = "release"
    CAPTURE = "capture"
    RESTORE = "restore"
    REFUND = "refund"
    CHARGE = "charge"
    OWE = "owe"
    COLLECT = "collect"
    COST = "cost"
    REBATE = "rebate"
    DEPOSIT = "deposit"


class Kind(StrEnum):
    """What an account is for. Each customer has the first five, each provider the last three."""

    FUNDS = "funds"  # what the customer paid in, as a negative balance
    AVAILABLE = "available"  # what he can spend; never below zero
    HELD = "held"  # promised to orders that are not decided; never below zero
    SALES = "sales"  # what his orders cost him; never below zero
    OWED = "owed"  # delivered after a refund was spent: what he owes, as a negative balance
    PAID = "paid"  # what we paid in at the provider, as a negative balance
    PURSE = "purse"  # what is left there by our books; below zero where nobody booked a deposit
    SPENT = "spent"  # what our orders cost us there; never below zero


MOVES: Mapping[Code, tuple[Kind, Kind]] = {
    Code.TOP_UP: (Kind.FUNDS, Kind.AVAILABLE),
    Code.WITHDRAW: (Kind.AVAILABLE, Kind.FUNDS),
    Code.HOLD: (Kind.AVAILABLE, Kind.HELD),
    Code.RELEASE: (Kind.HELD, Kind.AVAILABLE),
    Code.CAPTURE: (Kind.HELD, Kind.SALES),
    Code.RESTORE: (Kind.SALES, Kind.HELD),  # fewer posts of a subscription than was said before
    Code.REFUND: (Kind.SALES, Kind.AVAILABLE),
    Code.CHARGE: (Kind.AVAILABLE, Kind.SALES),  # charged again after a refund …
    Code.OWE: (Kind.OWED, Kind.SALES),  # … and what the balance no longer covers of it
    Code.COLLECT: (Kind.AVAILABLE, Kind.OWED),
    Code.COST: (Kind.PURSE, Kind.SPENT),
    Code.REBATE: (Kind.SPENT, Kind.PURSE),
    Code.DEPOSIT: (Kind.PAID, Kind.PURSE),
}
"""Every movement of money that exists: from which account to which, both of one owner."""


class Transfer(msgspec.Struct, frozen=True, gc=False):
    """One movement of money; which accounts it touches follows from its code.

    Attributes:
        key: makes it happen once; the same key with another amount raises ``TransferConflict``.
        owner: the customer's id as text, or the provider's name.
        amount: positive, in millionths of ``currency``.
        order: the order it belongs to; ``None`` for top-ups and the like.

    """

    key: str
    code: Code
    owner: str
    amount: int
    currency: str
    order: int | None = None
    at: int = 0

    def __post_init__(self) -> None:
        if self.amount <= 0:
            msg = f"transfer {self.key}: {self.amount} is not a positive amount"
            raise ValueError(msg)
