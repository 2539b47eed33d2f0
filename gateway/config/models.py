"""What the owner's file may say: every key, its type and its default.

Durations are seconds, percentages exact fractions, amounts exact decimals in units of a currency.
"""

from collections.abc import Mapping
from decimal import Decimal
from sys import intern
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from gateway.config.document import shown
from gateway.config.values import (
    DAY,
    Amount,
    Batched,
    Blame,
    Count,
    Counted,
    Currency,
    Day,
    Duplicates,
    Few,
    Flag,
    Grace,
    Id,
    Instead,
    Interval,
    Many,
    Markup,
    Name,
    NameTemplate,
    Network,
    Parameter,
    Patience,
    Percent,
    Quarantine,
    Rate,
    Reach,
    Routing,
    Secret,
    SettleMode,
    Span,
    Template,
    Text,
    Times,
    Unavailable,
    UnknownRefusals,
    Url,
    Verb,
    keyed,
    listed,
    scalar,
)
from gateway.order_types import OrderType
from gateway.pricing import Exchange, Place, Price

LIST = BeforeValidator(listed)
BLOCK = BeforeValidator(keyed)


STRICT = ConfigDict(
    extra="forbid", hide_input_in_errors=True, validate_by_name=True, validate_by_alias=True
)
"""No key that we don't know, and no message that repeats what a variable holds."""


class Block(BaseModel):
    """A block of the file: immutable, and strict.

    Of services and their routes there may be ten thousand, so these are the same in the form of
    dataclasses with slots, which take a quarter of a model's memory.
    """

    model_config = ConfigDict(**STRICT, frozen=True)


class ExchangeRates(Block):
    """One unit of each currency, in the gateway's own: fixed ones by their codes, and a source.

    Attributes:
        from_: a web address or a file with ``{"INR": 0.0119}``; a fixed rate comes before its.
        every: how often it is asked, in seconds.
        max_age: how old a rate of it may be and still be reckoned with, in seconds.
        max_move: how far one may move at once, as a fraction; beyond it the last one stays.
        date: of when the fixed rates are.

    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Rate]  # ty: ignore[incompatible-mutable-override]  # as pydantic has it

    from_: Text | None = Field(default=None, alias="from")
    every: Interval = 86_400.0
    max_age: Span = 604_800.0
    max_move: Percent = Decimal("0.1")
    date: Day | None = None

    @property
    def fixed(self) -> dict[str, Decimal]:
        """The rates that stand in the file."""
        return self.__pydantic_extra__


class Every(Block):
    """How often the background asks, in seconds."""

    catalog: Interval = 600.0
    status: Interval = 30.0
    balance: Interval = 300.0


class Limits(Block):
    """How much a provider is asked at once, and in a second; ``None``: as fast as it answers."""

    concurrency: Few = 8
    per_second: Few | None = 10


class Dialect(Block):
    """How a panel differs from the common dialect.

    Attributes:
        rename: our field's name -> theirs.
        batch: how many ids a call may carry; 1 means the singular parameter.
        without: the actions that it does not have.
        refusals: a phrase of its error texts -> whose matter it is.

    """

    rename: Annotated[dict[Text, Text], BLOCK] = {}
    batch: Annotated[dict[Batched, Few], BLOCK] = {}
    without: Annotated[list[Verb], LIST] = []
    refusals: Annotated[dict[Text, Blame], BLOCK] = {}


class Settle(Block):
    """How orders are settled of which nobody knows whether the provider took them.

    Attributes:
        mode: ``suggest`` what the evidence says, or act on it.
        after: seconds by which the provider's balance surely shows what it has taken.
        probe_ids: how many ids are looked through for an order that was placed under an unknown
            one; 0: none.

    """

    mode: SettleMode = "suggest"
    after: Span = 600.0
    probe_ids: Reach = 0


class Tier(Block):
    """What a price group of customers pays."""

    markup: Markup


class ServiceTier(Block):
    """What a price group pays for one service: a markup, or a fixed rate."""

    markup: Markup | None = None
    rate: Rate | None = None


def place(
    markup: dict[Decimal, Decimal] | None,
    tiers: Mapping[str, Tier | ServiceTier],
    rate: Decimal | None = None,
) -> Place:
    """Return what a block of the file says of prices."""
    groups = {name: Price(tier.markup, getattr(tier, "rate", None)) for name, tier in tiers.items()}
    return Place(Price(markup, rate), groups)


class Provider(Block):
    """A panel that we buy from.

    Attributes:
        currency: what it charges in; its adapter's own when the file doesn't say.
        timeout: seconds for one call.
        low_balance: warn under this, in the provider's currency.
        max_unsettled: what its orders may cost that are not settled, in its currency; beyond it
            takes no new ones.
        price_jump, quarantine: instead of the file's own, see ``Contents``.

    """

    adapter: Text
    url: Url
    key: Secret
    currency: Currency = ""
    timeout: Patience = 15.0
    limits: Annotated[Limits, BLOCK] = Limits()
    low_balance: Amount | None = None
    max_unsettled: Amount | None = None
    settle: Annotated[Settle, BLOCK] = Settle()
    markup: Markup | None = None
    tiers: Annotated[dict[Name, Tier], BLOCK] = {}
    price_jump: Times | None = None
    quarantine: Quarantine | None = None
    dialect: Annotated[Dialect, BLOCK] = Dialect()

    @property
    def place(self) -> Place:
        """What is said here of prices."""
        return place(self.markup, self.tiers)


@dataclass(config=STRICT, frozen=True, slots=True)
class Route:
    """A provider's service that can fulfil one of ours; ``provider/service`` in the file."""

    provider: Name
    service: Text

    def __str__(self) -> str:
        """Return it as the file has it."""
        return f"{self.provider}/{self.service}"


def route(text: str) -> Route:
    """Read ``panel/1``; ``ValueError`` says what would be right."""
    provider, slash, service = text.partition("/")
    if not (provider and slash and service) or text.split() != [text] or "/" in service:
        msg = f"{shown(text)} is not a route; write provider/service, such as panel/1"
        raise ValueError(msg)
    return Route(provider=intern(provider), service=service)  # one text for all its services


class Parameters(Block):
    """What an order type that is not in our table takes, as the owner says."""

    required: Annotated[list[Parameter], LIST]
    optional: Annotated[list[Parameter], LIST] = []
    size: Counted

    def order_type(self, name: str) -> OrderType:
        """Return the row that is missing in the table for a type of this name."""
        return OrderType(name, tuple(self.required), self.size, tuple(self.optional))


_NO_TIERS: dict[str, ServiceTier] = {}
"""The one for all services that say nothing of price groups; nobody changes it."""


@dataclass(config=STRICT, frozen=True, slots=True)
class Service:
    """What we sell; ``None`` is "as the provider has it".

    Attributes:
        allow_loss: it is sold whatever it costs us.
        max_loss: the fraction of its charge by which an order may cost us more.

    """

    routes: Annotated[list[Annotated[Route, scalar(route)]], LIST]
    name: Text | None = None
    category: Text | None = None
    description: Text | None = None
    min: Count | None = None
    max: Count | None = None
    refill: Flag | None = None
    cancel: Flag | None = None
    dripfeed: Flag | None = None
    markup: Markup | None = None
    tiers: Annotated[dict[Name, ServiceTier], BLOCK] = Field(default_factory=lambda: _NO_TIERS)
    rate: Rate | None = None
    routing: Routing = "preferred"
    allow_loss: Flag = False
    max_loss: Percent = Decimal(0)
    parameters: Parameters | None = None

    @property
    def place(self) -> Place:
        """What is said here of prices."""
        return place(self.markup, self.tiers, self.rate)


class Rewrite(Block):
    """How an import's names and categories are written.

    Attributes:
        replace: texts in both, and what stands there instead, in turn.
        name, category: the whole, ``{name}`` and ``{category}`` being the provider's, replaced.

    """

    replace: Annotated[dict[Text, Instead], BLOCK] = {}
    name: NameTemplate = "{name}"
    category: Template = "{category}"


class Import(Block):
    """A rule that takes over a provider's catalog; patterns are the shell's, case and all.

    Attributes:
        categories, names: patterns, of which each of both fits one; of none any is fine.
        except_: patterns of names, categories or the provider's ids that are left out.
        ids_from: the first id that the rule gives; see ``imports``.

    """

    provider: Name
    categories: Annotated[list[Text], LIST] = []
    names: Annotated[list[Text], LIST] = []
    except_: Annotated[list[Text], LIST] = Field(default=[], alias="except")
    ids_from: Id
    rewrite: Annotated[Rewrite, BLOCK] = Rewrite()
    markup: Markup | None = None
    tiers: Annotated[dict[Name, Tier], BLOCK] = {}

    @property
    def place(self) -> Place:
        """What is said here of prices."""
        return place(self.markup, self.tiers)


class Orders(Block):
    """How orders are taken and followed.

    Attributes:
        answer_within: ``add`` answers by then, in seconds.
        queue_for: how long an order may wait for a route, in seconds; then it is canceled.
        unknown_refusals: whether a refusal that nobody can classify lets the next route be tried.
        duplicate_window: how long an identical order counts as a duplicate, in seconds.
        follow_for: how long a settled order is still asked for, in seconds.
        subscription_posts: posts that are held for when a subscription names no number.
        rate_grace: how long after a rate has risen orders are still charged the one before, in
            seconds.
        max_catalog_age: how old a provider's catalog may be to be sold from, in seconds; a day,
            or three times the time between two of them, when the file doesn't say.

    """

    answer_within: Patience = 4.0
    unavailable: Unavailable = "refuse"
    queue_for: Span = 86_400.0
    unknown_refusals: UnknownRefusals = "stop"
    duplicates: Duplicates = "allow"
    duplicate_window: Span = 60.0
    first_id: Id = 1
    follow_for: Span = 2_592_000.0
    subscription_posts: Few = 30
    rate_grace: Grace = 60.0
    max_catalog_age: Span | None = None


class RequestLimits(Block):
    """How many requests customers may make in a second; ten seconds' worth at once.

    Attributes:
        trusted_proxies: whose ``X-Forwarded-For`` is believed.

    """

    per_key: Many = 1000
    per_address: Many = 2000
    trusted_proxies: Annotated[list[Network], LIST] = ["127.0.0.0/8", "::1/128"]


class Contents(Block):
    """The file itself.

    Attributes:
        currency: what customers are charged in.
        markup: where nothing more specific says otherwise; see ``pricing``.
        round: a multiple of this is what every rate is, unless it is a fixed one.
        price_jump: how many times as much, or as little, a provider's rate may become before
            somebody has to look at it.
        quarantine: what becomes of a provider's service while a change of it waits for that: it
            is kept as it was, or paused; where the file does not say, see ``firewall.paused``.

    """

    currency: Currency
    exchange_rates: Annotated[ExchangeRates, BLOCK] = ExchangeRates()
    markup: Markup = {Decimal(0): Decimal(0)}
    round: Rate | None = None
    price_jump: Times = Decimal(3)
    quarantine: Quarantine | None = None
    every: Annotated[Every, BLOCK] = Every()
    providers: Annotated[dict[Name, Provider], BLOCK] = {}
    services: Annotated[dict[Id, Service], BLOCK] = {}
    imports: Annotated[list[Import], LIST] = []
    tiers: Annotated[dict[Name, Tier], BLOCK] = {}
    orders: Annotated[Orders, BLOCK] = Orders()
    limits: Annotated[RequestLimits, BLOCK] = RequestLimits()

    @property
    def place(self) -> Place:
        """What is said here of prices."""
        return place(self.markup, self.tiers)


class Config(Contents):
    """The owner's file, taken up.

    Attributes:
        text: what was read.
        digest: SHA-256 of it.
        warnings: what is legal but not in force, in the form of a mistake.
        fetched: the exchange rates of the source, as they were last good.

    """

    text: str = ""
    digest: str = ""
    warnings: list[str] = []
    fetched: dict[str, Decimal] = {}

    @property
    def max_catalog_age(self) -> float:
        """How old a provider's catalog may be to be sold from, in seconds."""
        said = self.orders.max_catalog_age
        return max(DAY, 3 * self.every.catalog) if said is None else said

    @property
    def exchange(self) -> Exchange:
        """Every currency of which a rate is known, in the gateway's own."""
        return Exchange(self.currency, {**self.fetched, **self.exchange_rates.fixed})
