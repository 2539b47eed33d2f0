"""Customers' programs under trouble: they order, lose answers, repeat, look and cancel.

Every order that a customer wants is a ``Wish`` with a link of its own, so that it can be told from
all others in the gateway's books and at the panels. A wish remembers all that its program was
told. Programs speak HTTP/1.1 over plain sockets, a connection each request, to whichever gateway
of several answers.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import urlencode

REFUSALS = frozenset({"Service is unavailable", "Not enough funds", "Bad link"})
"""What these customers may be told when an order is refused; all else is a surprise."""
FIELDS = {"charge", "start_count", "status", "remains", "currency"}
WORDS = ("", "", "", "/partial", "/cancel", "/late-cancel", "?fault=refuse-link")
"""What becomes of an order at the sandbox, by its link."""


class Lost(Exception):
    """No answer came; ``sent``: the request may have reached somebody."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("sent" if sent else "never sent")
        self.sent = sent


async def ask(
    port: int, path: str, form: Mapping[str, object], *, patience: float, **headers: str
) -> Any:
    """Post a form and return the JSON that is answered; raises ``Lost`` when none is."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        raise Lost(sent=False) from None
    body = urlencode(form)
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: gateway",
        "Connection: close",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    try:
        writer.write("\r\n".join([*lines, "", body]).encode())
        said = await asyncio.wait_for(reader.read(), patience)
    except (OSError, TimeoutError):
        raise Lost(sent=True) from None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head, _, answer = said.partition(b"\r\n\r\n")
    try:
        status = int(head.split(b" ", 2)[1])
        value = json.loads(answer)
    except (IndexError, ValueError):
        raise Lost(sent=True) from None
    if status == HTTPStatus.SERVICE_UNAVAILABLE:  # starting, or no database: not an answer yet
        raise Lost(sent=True)
    return value


@dataclass
class Customer:
    """A customer, and his key."""

    name: str
    key: str


@dataclass
class Wish:
    """An order that a customer wants once, and what his program was told about it.

    Attributes:
        key: the idempotency key; empty: without one, and then sent only once.
        lost: requests that may have arrived and were not answered.
        asking: the port of the gateway that is being asked at this moment, or 0.

    """

    customer: Customer
    link: str
    service: int
    quantity: int
    key: str
    ids: list[int] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    lost: int = 0
    asking: int = 0

    @property
    def form(self) -> dict[str, object]:
        """What is posted for it."""
        return {
            "key": self.customer.key,
            "action": "add",
            "service": self.service,
            "link": self.link,
            "quantity": self.quantity,
        }


@dataclass
class Traffic:
    """A bounded number of programs, which go on until they are told to stop.

    Attributes:
        prefix: what the link of every order begins with.
        ports: where gateways are, or will be again.
        services: what is ordered.
        pause: seconds that a program waits between two things, at most.
        patience: seconds that it waits for an answer.
        surprises: what no gateway may ever answer, in words.

    """

    prefix: str
    customers: Sequence[Customer]
    ports: Sequence[int]
    services: Sequence[int]
    seed: int
    pause: float = 0.15
    patience: float = 8.0
    wishes: list[Wish] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    ordering: bool = True
    PROGRAMS: ClassVar[int] = 4
    """Programs of each customer."""

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    @property
    def acknowledged(self) -> list[Wish]:
        """The wishes whose order's id was given to a program."""
        return [one for one in self.wishes if one.ids]

    @property
    def lost(self) -> int:
        """How many orders were sent and not answered, repeats counted."""
        return sum(one.lost for one in self.wishes)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Let customers order inside of the context.

        At its end, whoever has a key and no answer goes on asking until there is one, so a
        gateway must be there by then.
        """
        programs = [
            asyncio.create_task(self._program(customer))
            for customer in self.customers
            for _ in range(self.PROGRAMS)
        ]
        try:
            yield
            self.ordering = False
            await asyncio.gather(*programs)
        finally:
            for one in programs:
                one.cancel()
            await asyncio.gather(*programs, return_exceptions=True)

    async def _program(self, customer: Customer) -> None:
        while self.ordering:
            act = self._chance.choices((self._order, self._look, self._cancel), (6, 3, 1))[0]
            await act(customer)
            await asyncio.sleep(self._chance.uniform(0, self.pause))

    # --- orders -----------------------------------------------------------------------------

    async def _order(self, customer: Customer) -> None:
        number = len(self.wishes)
        wish = Wish(
            customer,
            f"{self.prefix}{number}{self._chance.choice(WORDS)}",
            self._chance.choice(self.services),
            self._chance.randrange(100, 400, 10),
            f"key-{number}" if self._chance.random() < 0.6 else "",
        )
        self.wishes.append(wish)
        twice = bool(wish.key) and self._chance.random() < 0.2
        while True:
            reached = await asyncio.gather(*(self._say(wish) for _ in range(1 + twice)))
            answered = wish.ids or wish.refusals
            if answered or not (wish.key or (self.ordering and not any(reached))):
                break
            await asyncio.sleep(0.05)
        if wish.ids and wish.key and self._chance.random() < 0.2:
            await self._say(wish)

    async def _say(self, wish: Wish) -> bool:
        """Send a wish to one of the gateways; tells whether it may have arrived."""
        key = {"Idempotency_Key": wish.key} if wish.key else {}
        wish.asking = port = self._chance.choice(self.ports)
        try:
            answer = await ask(port, "/api/v2", wish.form, patience=self.patience, **key)
        except Lost as lost:
            wish.lost += lost.sent
            return lost.sent
        finally:
            wish.asking = 0
        match answer:
            case {"order": int(order)}:
                wish.ids.append(order)
            case {"error": str(words)} if words in REFUSALS:
                wish.refusals.append(words)
            case _:
                self.surprises.append(f"an order was answered with {answer}")
        return True

    # --- what comes after -------------------------------------------------------------------

    def _orders_of(self, customer: Customer, most: int) -> list[int]:
        mine = [one.ids[0] for one in self.acknowledged if one.customer is customer]
        return self._chance.sample(mine, min(most, len(mine)))

    async def _after(self, customer: Customer, action: str, orders: Sequence[int]) -> Any:
        form = {"key": customer.key, "action": action, "orders": ",".join(map(str, orders))}
        port = self._chance.choice(self.ports)
        with contextlib.suppress(Lost):
            return await ask(port, "/api/v2", form, patience=self.patience)

    async def _look(self, customer: Customer) -> None:
        """Read the status of some orders; each that was acknowledged is there at once, for ever."""
        if orders := self._orders_of(customer, 20):
            rows = await self._after(customer, "status", orders)
            for order in orders if rows is not None else ():
                if set(rows.get(str(order), ())) != FIELDS:
                    self.surprises.append(f"the status of order {order} was answered with {rows}")

    async def _cancel(self, customer: Customer) -> None:
        if orders := self._orders_of(customer, 1):
            match await self._after(customer, "cancel", orders):
                case None | [{"cancel": 1}]:
                    pass
                case [{"cancel": {"error": "Cancel is not available" | "Service is unavailable"}}]:
                    pass
                case rows:
                    self.surprises.append(f"a cancel of {orders[0]} was answered with {rows}")
