"""``/api/v2``: parameters in, JSON out; one table of seven actions.

In front of everything else: customers' programs poll a lot, and a framework's routing costs more
than the answer. What is known is answered at once, by ``ask``; what has to wait is awaited, and
only then do log lines need to know for whom. Every answer is HTTP 200 with JSON, errors too, since
most clients read nothing else.
"""

import itertools
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from gateway import money, parameters
from gateway.aftersales import AfterSales
from gateway.auth import Auth
from gateway.catalog import Shop
from gateway.errors import CustomerError, ErrorText, StoreUnavailable
from gateway.limits import Limits, welcome
from gateway.listing import Body, Listing, Part, part
from gateway.logs import Seldom
from gateway.message import Answer, App, Head, Header, Message, Receive, Scope, Send
from gateway.model import Action, Customer
from gateway.orders import Orders
from gateway.statuses import unnamed
from gateway.store import Store

log = structlog.get_logger()

PATHS = frozenset({"/api/v2", "/api/v2/"})
METHODS = frozenset({"GET", "POST"})
"""Only these act; a HEAD or an OPTIONS that somebody's browser sends must not order anything."""
LARGEST = 256 * 1024
MOST_IDS = 1000
NOT_MODIFIED = 304
LONGEST_IDEMPOTENCY_KEY = 255
LONGEST_ID = 12
"""Digits of an id; no database has given out a longer one."""

_JSON = (b"content-type", b"application/json; charset=utf-8")
_JUST_JSON = (_JSON,)
_LISTED = ((b"cache-control", b"private, no-cache"), (b"vary", b"accept-encoding"))
_encode = msgspec.json.encode


class Asked(msgspec.Struct, frozen=True):
    """One request of a known customer."""

    customer: Customer
    params: Mapping[str, str]
    head: Head


Act = Callable[[Asked], Answer | Awaitable[Answer]]


def error(text: str, status: int = 200) -> Answer:
    """Return an error as clients know it: one key, HTTP 200."""
    return _json(_encode({"error": text}), status)


def _json(body: bytes, status: int = 200, headers: tuple[Header, ...] = ()) -> Answer:
    return Answer(body, status, (_JSON, *headers) if headers else _JUST_JSON)


def too_many(seconds: float) -> Answer:
    """Return what is answered to a request that comes too early by so much."""
    after = str(math.ceil(seconds)).encode()
    return _json(_encode({"error": ErrorText.TOO_MANY_REQUESTS}), 429, ((b"retry-after", after),))


INCORRECT = error(ErrorText.INCORRECT_REQUEST)
TOO_LARGE = error(ErrorText.INCORRECT_REQUEST, 413)
GONE = _json(_encode({"error": ErrorText.UNAVAILABLE}), 503, ((b"retry-after", b"5"),))


class Endpoint:
    """Answers whole requests, and is an ASGI application; what is not for it goes to ``other``."""

    def __init__(
        self,
        auth: Auth,
        shop: Shop,
        listing: Listing,
        orders: Orders,
        aftersales: AfterSales,
        store: Store,
        other: App,
        *,
        limits: Limits | None = None,
    ) -> None:
        self._auth = auth
        self._shop = shop
        self._listing = listing
        self._orders = orders
        self._aftersales = aftersales
        self._store = store
        self._other = other
        self._limits = limits or Limits()
        self._outage = Seldom()
        self._process = secrets.token_hex(3)
        self._count = itertools.count(1)
        self._actions: dict[str, Act] = {
            Action.SERVICES: self._services,
            Action.ADD: self._add,
            Action.STATUS: self._status,
            Action.REFILL: self._refill,
            Action.REFILL_STATUS: self._refill_status,
            Action.CANCEL: self._cancel,
            Action.BALANCE: self._balance,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to ``/api/v2``, and pass on any other."""
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await self._other(scope, receive, send)
            return
        query = scope.get("query_string", b"")
        head = Head(scope["method"], scope["path"], query, scope["headers"])
        try:
            body = await _body(head, receive)
        except ConnectionResetError:
            return  # half a request is not acted on, and nobody waits for the answer
        client = str((scope.get("client") or ("",))[0])
        large = body is None and head.method in METHODS
        answer = TOO_LARGE if large else self.ask(head, body or b"", client)
        if not isinstance(answer, Answer):
            answer = await answer
        length = (b"content-length", b"%d" % len(answer.body))
        start: Message = {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [*answer.headers, *(() if answer.status == NOT_MODIFIED else (length,))],
        }
        await send(start)
        body = b"" if head.method == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    def ask(self, head: Head, body: bytes, client: str) -> Answer | Awaitable[Answer]:
        """Answer a request; what is awaited is to be, once, and raises nothing.

        ``client``: the address that it comes from.
        """
        if head.method not in METHODS or len(body) > LARGEST:
            return TOO_LARGE if head.method in METHODS else INCORRECT
        try:
            params = parameters.read(head.query, head.text(b"content-type"), body)
            act = self._actions.get(params.get("action", ""))
            if act is None:
                return INCORRECT
            address = self._limits.caller(client, head.fields)
            if seconds := self._limits.address_waits(address):
                return too_many(seconds)
            key = params.get("key") or _header_key(head)
            customer = self._auth.known(key)
            if customer is None:
                return self._later(head, None, self._introduced(act, key, address, params, head))
            answer = self._act(act, Asked(customer, params, head), address)
        except Exception as trouble:  # noqa: BLE001  # it is looked at
            with structlog.contextvars.bound_contextvars(request_id=self._request_id(head)):
                return self._failed(trouble)
        return answer if isinstance(answer, Answer) else self._later(head, customer, answer)

    def _act(self, act: Act, asked: Asked, address: str) -> Answer | Awaitable[Answer]:
        """Do what a customer asks for, if he may from here and now."""
        customer = asked.customer
        if customer.addresses and not welcome(customer, address):
            return self._turned_away(customer, address)
        if seconds := self._limits.customer_waits(customer):
            return too_many(seconds)
        return act(asked)

    async def _turned_away(self, customer: Customer, address: str) -> Answer:
        log.warning("a key was used from elsewhere", customer=customer.id, address=address)
        return error(ErrorText.INVALID_KEY)

    async def _introduced(
        self, act: Act, key: str, address: str, params: Mapping[str, str], head: Head
    ) -> Answer:
        customer = await self._auth.customer(key)
        structlog.contextvars.bind_contextvars(customer=customer.id)
        answer = self._act(act, Asked(customer, params, head), address)
        return answer if isinstance(answer, Answer) else await answer

    async def _later(
        self, head: Head, customer: Customer | None, answer: Awaitable[Answer]
    ) -> Answer:
        """Wait for an answer; what is logged meanwhile says of which request it is."""
        whose = {"customer": customer.id} if customer else {}
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=self._request_id(head), **whose)
        try:
            return await answer
        except Exception as trouble:  # noqa: BLE001  # it is looked at
            return self._failed(trouble)

    def _failed(self, trouble: Exception) -> Answer:
        """Return what a customer is told of an exception."""
        if isinstance(trouble, CustomerError):
            return error(trouble.text)
        if isinstance(trouble, StoreUnavailable):
            self._outage.log(log.error, "the database is not available", reason=str(trouble))
        else:
            # Nobody knows what has become of it, and what is answered with 200 is believed.
            log.error("a request failed", exc_info=trouble)
        return GONE

    def _request_id(self, head: Head) -> str:
        return head.text(b"x-request-id")[:64] or f"{self._process}-{next(self._count)}"

    # --- the seven actions ------------------------------------------------------------------

    def _services(self, asked: Asked) -> Answer | Awaitable[Answer]:
        wanted = part(asked.params)
        known = None if wanted else self._listing.known(asked.customer.tier)
        return _listed(asked.head, known) if known else self._part(asked, wanted)

    async def _part(self, asked: Asked, wanted: Part | None) -> Answer:
        if wanted and wanted.since is not None and wanted.since < asked.customer.tier_at:
            # What he has was at the rates of another price group.
            wanted = msgspec.structs.replace(wanted, since=None)
        return _listed(asked.head, await self._listing.listed(asked.customer.tier, wanted))

    async def _add(self, asked: Asked) -> Answer:
        key = asked.head.text(b"idempotency-key").strip()
        key = key or asked.params.get("idempotency_key", "")
        if len(key) > LONGEST_IDEMPOTENCY_KEY:
            raise CustomerError(ErrorText.INCORRECT_REQUEST)
        order = await self._orders.place(asked.customer, asked.params, key)
        return _json(b'{"order":%d}' % order)

    def _status(self, asked: Asked) -> Answer | Awaitable[Answer]:
        names = _names(asked.params, "order", "orders")
        known = (
            self._aftersales.statuses.known(asked.customer, names)
            if len(names) <= MOST_IDS
            else None
        )
        if known is None or len(set(names)) < len(names):
            return self._statuses(asked)
        many = "orders" in asked.params or len(names) > 1
        return _json(b"{%b}" % b",".join(known) if many else unnamed(known[0]))

    async def _statuses(self, asked: Asked) -> Answer:
        ids, many = _ids(asked.params, "order", "orders")
        found = await self._aftersales.statuses.read(asked.customer, _numbers(ids))
        rows = [found.get(number, _INCORRECT_ORDER) for number in ids.values()]
        if not many:
            return _json(rows[0])
        named = zip(map(_encode, ids), rows, strict=True)
        return _json(b"{%b}" % b",".join([b"%b:%b" % one for one in named]))

    async def _refill(self, asked: Asked) -> Answer:
        ids, many = _ids(asked.params, "order", "orders")
        found = await self._aftersales.refill(asked.customer, _numbers(ids))
        if not many:
            (number,) = ids.values()
            outcome = found.get(number, ErrorText.INCORRECT_ORDER)
            if isinstance(outcome, str):
                return error(outcome)
            return _json(_encode({"refill": str(outcome)}))
        rows = []
        for name, number in ids.items():
            outcome = found.get(number, ErrorText.INCORRECT_ORDER)
            refill = {"error": outcome} if isinstance(outcome, str) else outcome
            rows.append({"order": number or name, "refill": refill})
        return _json(_encode(rows))

    async def _refill_status(self, asked: Asked) -> Answer:
        ids, many = _ids(asked.params, "refill", "refills")
        found = await self._aftersales.refill_statuses(asked.customer, _numbers(ids))
        if not many:
            (number,) = ids.values()
            status = found.get(number)
            if status is None:
                return error(ErrorText.REFILL_NOT_FOUND)
            return _json(_encode({"status": status}))
        unknown = {"error": ErrorText.REFILL_NOT_FOUND}
        rows = [
            {"refill": number or name, "status": found.get(number, unknown)}
            for name, number in ids.items()
        ]
        return _json(_encode(rows))

    async def _cancel(self, asked: Asked) -> Answer:
        ids, _ = _ids(asked.params, "order", "orders")
        found = await self._aftersales.cancel(asked.customer, _numbers(ids))
        rows = []
        for name, number in ids.items():
            outcome = found.get(number, ErrorText.INCORRECT_ORDER)
            cancel = 1 if outcome is None else {"error": outcome}
            rows.append({"order": number or name, "cancel": cancel})
        return _json(_encode(rows))

    def _balance(self, asked: Asked) -> Answer | Awaitable[Answer]:
        found = self._store.available(asked.customer.id, self._shop.currency)
        return self._told(found) if isinstance(found, int) else self._balance_of(found)

    async def _balance_of(self, found: Awaitable[int]) -> Answer:
        return self._told(await found)

    def _told(self, available: int) -> Answer:
        text = money.text(available)
        return _json(_encode({"balance": text, "currency": self._shop.currency}))


_INCORRECT_ORDER = _encode({"error": ErrorText.INCORRECT_ORDER})


async def _body(head: Head, receive: Receive) -> bytes | None:
    """Return the whole body; ``None`` when it is too large.

    Raises ``ConnectionResetError`` when the client went away before its end.
    """
    if head.length is not None and head.length > LARGEST:
        return None
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _header_key(head: Head) -> str:
    """Return the key of a client that sends it as a header."""
    bearer = head.text(b"authorization").strip()
    if bearer[:7].lower() == "bearer ":
        return bearer[7:].strip()
    return head.text(b"x-api-key").strip()


def _listed(head: Head, body: Body) -> Answer:
    coded, coding, tag = body.coded(head.text(b"accept-encoding"))
    headers = (*_LISTED, (b"etag", tag))
    if body.known(head.text(b"if-none-match")):
        return Answer(b"", NOT_MODIFIED, headers)
    return _json(coded, 200, (*headers, (b"content-encoding", coding)) if coding else headers)


def _ids(params: Mapping[str, str], one: str, many: str) -> tuple[dict[str, int], bool]:
    """Return the ids that are asked for, once each, and whether a list is to be answered.

    Each has its number, or 0, which is nobody's, when it is none. Some clients send several ids
    under the singular name.
    """
    names = _names(params, one, many)
    ids = {name: _number(name) for sent in names if (name := sent.strip())}
    if not ids or len(ids) > MOST_IDS:
        raise CustomerError(ErrorText.INCORRECT_REQUEST)
    return ids, many in params or len(ids) > 1


def _names(params: Mapping[str, str], one: str, many: str) -> list[str]:
    return (params.get(many) or params.get(one, "")).split(",")


def _number(text: str) -> int:
    """Return an id as a number; 0 when it is none, or one that nothing has."""
    return int(text) if len(text) <= LONGEST_ID and text.isascii() and text.isdigit() else 0


def _numbers(ids: Mapping[str, int]) -> list[int]:
    """Return the ids that may be somebody's, once each: ``7`` and ``007`` are the same."""
    numbers = dict.fromkeys(ids.values())
    numbers.pop(0, None)
    return list(numbers)
