"""``/api/v2``: parameters in, JSON out; one table of seven actions.

An ASGI application of its own, in front of everything else: customers' programs poll a lot, and
a framework's routing costs more than the answer. Every answer is HTTP 200 with JSON, errors too,
since most clients read nothing else.
"""

import itertools
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec
import structlog

from gateway import money, parameters
from gateway.auth import Auth
from gateway.catalog import Shop
from gateway.errors import CustomerError, ErrorText, StoreUnavailable
from gateway.follow import Follow
from gateway.limits import Limits, welcome
from gateway.listing import Listing, part
from gateway.model import Action, Customer
from gateway.orders import Orders
from gateway.store import Store

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

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
_LISTED = ((b"cache-control", b"private, no-cache"), (b"vary", b"accept-encoding"))
_encode = msgspec.json.encode


class Answer(msgspec.Struct, frozen=True):
    """What goes back; the body is JSON."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Asked(msgspec.Struct, frozen=True):
    """One request of a known customer."""

    customer: Customer
    params: Mapping[str, str]
    headers: Mapping[bytes, bytes]


def error(text: str, status: int = 200) -> Answer:
    """Return an error as clients know it: one key, HTTP 200."""
    return Answer(_encode({"error": text}), status)


class _TooEarly(CustomerError):
    """A limit is reached; ``seconds``: until when."""

    def __init__(self, seconds: float) -> None:
        super().__init__(ErrorText.TOO_MANY_REQUESTS)
        self.seconds = seconds


def too_many(seconds: float) -> Answer:
    """Return what is answered to a request that comes too early by so much."""
    after = str(math.ceil(seconds)).encode()
    return Answer(_encode({"error": ErrorText.TOO_MANY_REQUESTS}), 429, ((b"retry-after", after),))


TOO_LARGE = error(ErrorText.INCORRECT_REQUEST, 413)
GONE = Answer(_encode({"error": ErrorText.UNAVAILABLE}), 503, ((b"retry-after", b"5"),))


class Endpoint:
    """The ASGI application; what is not for it goes to ``other``."""

    def __init__(
        self,
        auth: Auth,
        shop: Shop,
        listing: Listing,
        orders: Orders,
        follow: Follow,
        store: Store,
        other: App,
        *,
        limits: Limits | None = None,
    ) -> None:
        self._auth = auth
        self._shop = shop
        self._listing = listing
        self._orders = orders
        self._follow = follow
        self._store = store
        self._other = other
        self._limits = limits or Limits()
        self._process = secrets.token_hex(3)
        self._count = itertools.count(1)
        self._actions: dict[str, Callable[[Asked], Awaitable[Answer]]] = {
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
        headers = dict(scope["headers"])
        try:
            body = await _body(headers, receive)
        except ConnectionResetError:
            return  # half a request is not acted on, and nobody waits for the answer
        if scope["method"] not in METHODS:
            answer = error(ErrorText.INCORRECT_REQUEST)
        else:
            answer = TOO_LARGE if body is None else await self._answer(scope, headers, body)
        start: Message = {
            "type": "http.response.start",
            "status": answer.status,
            "headers": answer.headers
            if answer.status == NOT_MODIFIED
            else [_JSON, (b"content-length", b"%d" % len(answer.body)), *answer.headers],
        }
        await send(start)
        head = scope["method"] == "HEAD"
        await send({"type": "http.response.body", "body": b"" if head else answer.body})

    async def _answer(self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")[:64]
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            request_id=request_id or f"{self._process}-{next(self._count)}"
        )
        try:
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            params = parameters.read(scope.get("query_string", b""), content_type, body)
            act = self._actions.get(params.get("action", ""))
            if act is None:
                raise CustomerError(ErrorText.INCORRECT_REQUEST)  # noqa: TRY301
            customer = await self._admit(scope, headers, params)
            structlog.contextvars.bind_contextvars(customer=customer.id)
            return await act(Asked(customer, params, headers))
        except _TooEarly as refusal:
            return too_many(refusal.seconds)
        except CustomerError as refusal:
            return error(refusal.text)
        except StoreUnavailable as trouble:
            log.error("the database is not available", reason=str(trouble))  # noqa: TRY400
            return GONE
        except Exception:
            # Nobody knows what has become of it, and what is answered with 200 is believed.
            log.exception("a request failed")
            return GONE

    async def _admit(
        self, scope: Scope, headers: Mapping[bytes, bytes], params: Mapping[str, str]
    ) -> Customer:
        """Return whose request this is, if it may be made from here and now."""
        address = self._limits.caller(_peer(scope), headers)
        if seconds := self._limits.address_waits(address):
            raise _TooEarly(seconds)
        customer = await self._auth.customer(params.get("key") or _header_key(headers))
        if not welcome(customer, address):
            log.warning("a key was used from elsewhere", customer=customer.id, address=address)
            raise CustomerError(ErrorText.INVALID_KEY)
        if seconds := self._limits.customer_waits(customer):
            raise _TooEarly(seconds)
        return customer

    # --- the seven actions ------------------------------------------------------------------

    async def _services(self, asked: Asked) -> Answer:
        body = await self._listing.listed(asked.customer.tier, part(asked.params))
        accepted = asked.headers.get(b"accept-encoding", b"").decode("latin-1")
        coded, coding, tag = body.coded(accepted)
        headers = (*_LISTED, (b"etag", tag))
        if body.known(asked.headers.get(b"if-none-match", b"").decode("latin-1")):
            return Answer(b"", NOT_MODIFIED, headers)
        return Answer(coded, 200, (*headers, (b"content-encoding", coding)) if coding else headers)

    async def _add(self, asked: Asked) -> Answer:
        key = asked.headers.get(b"idempotency-key", b"").decode("latin-1").strip()
        key = key or asked.params.get("idempotency_key", "")
        if len(key) > LONGEST_IDEMPOTENCY_KEY:
            raise CustomerError(ErrorText.INCORRECT_REQUEST)
        order = await self._orders.place(asked.customer, asked.params, key)
        return Answer(b'{"order":%d}' % order)

    async def _status(self, asked: Asked) -> Answer:
        ids, many = _ids(asked.params, "order", "orders")
        found = await self._follow.statuses(asked.customer, _numbers(ids))
        rows = [found.get(number, _INCORRECT_ORDER) for number in ids.values()]
        if not many:
            return Answer(rows[0])
        named = zip(map(_encode, ids), rows, strict=True)
        return Answer(b"{%b}" % b",".join([b"%b:%b" % one for one in named]))

    async def _refill(self, asked: Asked) -> Answer:
        ids, many = _ids(asked.params, "order", "orders")
        found = await self._follow.refill(asked.customer, _numbers(ids))
        if not many:
            (number,) = ids.values()
            outcome = found.get(number, ErrorText.INCORRECT_ORDER)
            if isinstance(outcome, str):
                return error(outcome)
            return Answer(_encode({"refill": str(outcome)}))
        rows = []
        for name, number in ids.items():
            outcome = found.get(number, ErrorText.INCORRECT_ORDER)
            refill = {"error": outcome} if isinstance(outcome, str) else outcome
            rows.append({"order": number or name, "refill": refill})
        return Answer(_encode(rows))

    async def _refill_status(self, asked: Asked) -> Answer:
        ids, many = _ids(asked.params, "refill", "refills")
        found = await self._follow.refill_statuses(asked.customer, _numbers(ids))
        if not many:
            (number,) = ids.values()
            status = found.get(number)
            if status is None:
                return error(ErrorText.REFILL_NOT_FOUND)
            return Answer(_encode({"status": status}))
        unknown = {"error": ErrorText.REFILL_NOT_FOUND}
        rows = [
            {"refill": number or name, "status": found.get(number, unknown)}
            for name, number in ids.items()
        ]
        return Answer(_encode(rows))

    async def _cancel(self, asked: Asked) -> Answer:
        ids, _ = _ids(asked.params, "order", "orders")
        found = await self._follow.cancel(asked.customer, _numbers(ids))
        rows = []
        for name, number in ids.items():
            outcome = found.get(number, ErrorText.INCORRECT_ORDER)
            cancel = 1 if outcome is None else {"error": outcome}
            rows.append({"order": number or name, "cancel": cancel})
        return Answer(_encode(rows))

    async def _balance(self, asked: Asked) -> Answer:
        currency = self._shop.currency
        accounts = (await self._store.balances([asked.customer.id]))[asked.customer.id]
        available = sum(one.available for one in accounts if one.currency == currency)
        return Answer(_encode({"balance": money.text(available), "currency": currency}))


_INCORRECT_ORDER = _encode({"error": ErrorText.INCORRECT_ORDER})


async def _body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
    """Return the whole body; ``None`` when it is too large.

    Raises ``ConnectionResetError`` when the client went away before its end.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:18]) > LARGEST:
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


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _header_key(headers: Mapping[bytes, bytes]) -> str:
    """Return the key of a client that sends it as a header."""
    bearer = headers.get(b"authorization", b"").decode("latin-1").strip()
    if bearer[:7].lower() == "bearer ":
        return bearer[7:].strip()
    return headers.get(b"x-api-key", b"").decode("latin-1").strip()


def _ids(params: Mapping[str, str], one: str, many: str) -> tuple[dict[str, int], bool]:
    """Return the ids that are asked for, once each, and whether a list is to be answered.

    Each has its number, or 0, which is nobody's, when it is none. Some clients send several ids
    under the singular name.
    """
    text = params.get(many) or params.get(one, "")
    ids = {name: _number(name) for part in text.split(",") if (name := part.strip())}
    if not ids or len(ids) > MOST_IDS:
        raise CustomerError(ErrorText.INCORRECT_REQUEST)
    return ids, many in params or len(ids) > 1


def _number(text: str) -> int:
    """Return an id as a number; 0 when it is none, or one that nothing has."""
    return int(text) if len(text) <= LONGEST_ID and text.isascii() and text.isdigit() else 0


def _numbers(ids: Mapping[str, int]) -> list[int]:
    """Return the ids that may be somebody's, once each: ``7`` and ``007`` are the same."""
    numbers = dict.fromkeys(ids.values())
    numbers.pop(0, None)
    return list(numbers)
