"""Whatever is sent to ``/api/v2``, the answer is JSON as the contract has it, and no money is lost.

Requests are drawn from a seed: valid ones, and the same with odd methods, paths, content types,
encodings, headers and parameters. They go to a whole gateway, one after another, so that orders,
refills and repeats of earlier requests are met as well. More of them, or others: ``fuzzing.py``.
"""

import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, NoReturn
from urllib.parse import quote_plus, urlencode

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from fuzzing import Wilds, chance, garbled, inputs, number, numbers, replay, word
from gateway.errors import ErrorText
from gateway.message import App, Message
from gateway.model import Action, RefillStatus, Status
from gateway.order_form import KNOWN
from gateway.order_types import OrderType, Size, table
from world import ROWS, YAML, Form, Panel, World, world

RUNS = 4
REQUESTS = inputs(usual=3_000, of=50 * RUNS)

pytestmark = pytest.mark.timeout(60 + REQUESTS // 20)

OFFERS = [
    ROWS[0] | {"service": at, "name": kind.name, "type": kind.name, "min": "1"}
    for at, kind in enumerate(table(), 1)
]
SERVICES = "".join(f"  {100 + at}: {{routes: [p/{at}]}}\n" for at in range(1, len(OFFERS) + 1))
PACE = 'key: "${KEY}", limits: {per_second: 10000}'
OWNER = YAML.partition("services:")[0].replace('key: "${KEY}"', PACE) + f"services:\n{SERVICES}"
USUAL: Form = {
    "link": "https://x.com/?a=1&b=ü",
    "quantity": "100",
    "runs": "2",
    "interval": "60",
    "comments": "Nice!\nWow & co\n+1 100%",
    "usernames": "a\nb",
    "hashtags": "#x\n#y",
    "hashtag": "#x",
    "username": "me",
    "media": "https://x.com/p/1",
    "answer_number": "2",
    "groups": "g1\ng2",
    "keywords": "k1\r\nk2",
    "country": "DE",
    "device": "5",
    "type_of_traffic": "1",
    "google_keyword": "k",
    "referring_url": "https://y.com/",
    "min": "10",
    "max": "20",
    "delay": "30",
    "posts": "5",
    "old_posts": "1",
    "expiry": "31/12/2030",
}
COUNTED = {
    *("quantity", "runs", "interval", "min", "max", "delay", "posts", "old_posts"),
    "answer_number",
}
BOUNDS = ("0", "1", "-1", "10000", "10001", "600", "601", "-100", "999999999999", "1000000000000")
ACTIONS = (*["add"] * 3, *Action)
WORDS = tuple(
    sorted(
        {*ACTIONS, *KNOWN, *USUAL.values(), "key", "action", "order", "orders", "refill", "refills"}
        | {"idempotency_key", "error", "101", "100", "1", "2", "orders[]", "comments[0]"}
    )
)
WILDS = Wilds(WORDS)
TEXTS = frozenset(ErrorText)
STATUSES = frozenset(Status)
REFILL_STATUSES = frozenset(RefillStatus)
FIVE = {"charge", "start_count", "status", "remains", "currency"}
_AMOUNT = re.compile(r"[0-9]+\.[0-9]{2,6}")
ROW = FIVE | {"runs", "posts", "orders", "expiry"}

# --- what is sent ---------------------------------------------------------------------------------


class Sent(msgspec.Struct):
    """One request, as a server hands it to an application.

    Attributes:
        caller: the address that it comes from.
        parts: the body in the pieces in which it arrives.
        whole: whether its end arrives; else the client goes away before.
        said: its parameters, where they are written plainly; else empty.

    """

    method: str
    path: str
    caller: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    parts: list[bytes]
    whole: bool
    said: Form

    @property
    def raw(self) -> bytes:
        """Everything in which a key may stand."""
        return b"\n".join((self.query, b"".join(self.parts), *(value for _, value in self.headers)))


METHODS = (
    *(*["POST"] * 100, *["GET"] * 20, "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "post", "", "Ü"),
)
PATHS = (
    *(*["/api/v2"] * 250, *["/api/v2/"] * 50, "/api/v2//", "//api/v2", "/API/v2", "/api/v2/x"),
    *("/api", "/", "", "/api/v2\x00", "/api/v2.php", "/api/v2?", "/api/v3", "/api/v²"),
)
FORM = b"application/x-www-form-urlencoded"
TYPES = (
    *(FORM, FORM + b"; charset=utf-16", FORM.upper(), b"application/json", b"text/plain", b""),
    *(b"application/json; charset=latin-1", b"APPLICATION/JSON;x", b"application/jsonx", b"\xff"),
    *(b"multipart/form-data", b"multipart/form-data; boundary=x", b"Multipart/Mixed;boundary=X"),
    *(b'multipart/form-data; boundary="', b"multipart/form-data; boundary=" + b"b" * 500),
    *(b"multipart/mixed; boundary=x", b"multipart/", b"multipart/form-data; boundary*=utf-8''x"),
    *(b"multipart/form-data; boundary*=bad'charset'%zz", b"multipart/form-data; boundary=\xff"),
    *(b"multipart/form-data; boundary*0=x; boundary*1=y", b"m" * 5000, b"; boundary=x", b"json"),
)
HOME = "203.0.113.9"
"""The only address that one of the customers may order from."""
CALLERS = ("192.0.2.1", "192.0.2.200", HOME, f"::ffff:{HOME}", "2001:db8::1", "127.0.0.1", "")
_IN_A_HEADER = bytes([9, *range(32, 127), *range(128, 256)])
"""Every byte that a server lets through in the value of a header."""


def _pairs(rng: Random) -> list[tuple[str, str]]:
    """Return the parameters of a request, without its key: good ones, then perhaps odd ones."""
    action = rng.choice(ACTIONS)
    pairs = [("action", action)]
    if action == "add":
        at = rng.randrange(len(OFFERS)) if rng.random() < 0.6 else 0
        kind = table()[at]
        optional = [name for name in kind.optional if rng.random() < 0.5]
        pairs.append(("service", str(101 + at)))
        pairs += [(name, USUAL[name]) for name in (*kind.required, *optional)]
        if rng.random() < 0.1:
            pairs.append(("idempotency_key", rng.choice(("one", "two", word(rng)))))
    elif action in {"status", "refill", "cancel", "refill_status"}:
        pairs.append(_asked(action, rng))
    draw = rng.random()
    if draw < 0.4:
        return pairs
    if draw < 0.7:  # one oddity, which nothing else hides
        at = rng.randrange(1, len(pairs)) if len(pairs) > 1 else 0
        return [*pairs[:at], *_odd(*pairs[at], rng), *pairs[at + 1 :]]
    odds = rng.choice((0.1, 0.2, 0.6))
    return [
        odd
        for name, value in pairs
        for odd in (_odd(name, value, rng) if rng.random() < odds else [(name, value)])
    ]


def _asked(action: str, rng: Random) -> tuple[str, str]:
    """Return the ids that a request asks for, most of them real ones."""
    name = "refill" if action == "refill_status" else "order"
    draw = rng.random()
    if draw < 0.4:
        return name, str(rng.randrange(1, 30))
    if draw < 0.98:
        many = (
            str(rng.randrange(1, 40)) if rng.random() < 0.8 else _no_id(rng)
            for _ in range(rng.choice((1, 2, 5, 20)))
        )
        return f"{name}s", rng.choice((",", ", ", ",,")).join(many)
    last = rng.choice((1000, 1001, 30_000, 100_000))
    return f"{name}s", ",".join(map(str, range(1, 1 + last)))


def _no_id(rng: Random) -> str:
    return rng.choice(("error", "status", "order")) if rng.random() < 0.2 else word(rng)


def _odd(name: str, value: str, rng: Random) -> list[tuple[str, str]]:
    """Return a parameter left out, twice, renamed or, most often, with another value."""
    other = number(rng) if rng.random() < 0.75 else word(rng)
    if name in COUNTED and rng.random() < 0.5:
        other = rng.choice(BOUNDS)
    odd: tuple[list[tuple[str, str]], ...] = (
        [],
        [(name, other), (name, value)],
        [(rng.choice(WORDS), value)],
        [(f"{name}[]", one) for one in (value, other)],
        [("runs", "-1"), ("quantity", "-1000")],
        [(name, value + rng.choice(" \t\0\0\0,;+&=%") + other)],
        [(name, other)],
    )
    return rng.choice((*odd, *odd[-1:] * 6))


def _request(rng: Random, keys: tuple[str, ...], tag: bytes) -> Sent:
    """Return a request with one of these keys, the first most often; ``tag`` is the list's."""
    pairs = _pairs(rng)
    headers = _headers(rng, tag)
    _sign(rng.choice((*keys[:1] * 10, *keys[:2] * 3, *keys)), pairs, headers, rng)
    method = rng.choice(METHODS)
    query, body = [], pairs
    if method != "POST" or rng.random() < 0.1:
        at = rng.randrange(len(pairs) + 1) if rng.random() < 0.2 else len(pairs)
        query, body = pairs[:at], pairs[at:]
    content, kind = _body(body, rng)
    written = urlencode(query).encode()
    plain = content == urlencode(body).encode()
    if rng.random() < 0.08:
        kind = rng.choice(TYPES)
        plain = False
    if rng.random() < 0.06:
        content = garbled(content, rng)
        plain = False
    if rng.random() < 0.01:
        written = garbled(written, rng)
        plain = False
    headers += [(b"content-type", kind)] if kind else []
    headers += _length(content, rng)
    return Sent(
        method,
        rng.choice(PATHS),
        rng.choice(CALLERS),
        written,
        headers,
        _parts(content, rng),
        whole=rng.random() < 0.97,
        said=_said(pairs) if plain else {},
    )


def _said(pairs: list[tuple[str, str]]) -> Form:
    """Return what parameters say; nothing where one is said twice or as a list."""
    said = {name: value.strip() for name, value in pairs}
    return said if len(said) == len(pairs) and not any("[" in name for name in said) else {}


def _sign(
    key: str, pairs: list[tuple[str, str]], headers: list[tuple[bytes, bytes]], rng: Random
) -> None:
    """Put a key where it may stand, or a wrong one there and the right one elsewhere."""
    place = rng.choice((*["key"] * 15, *["bearer", "x-api-key"] * 2, "none", "both"))
    if place in {"bearer", "both"}:
        scheme = rng.choice(("Bearer ", "bearer  ", "BEARER\t", "Basic ", ""))
        headers.append((b"authorization", f"{scheme}{key}".encode()))
    if place == "x-api-key":
        headers.append((b"x-api-key", key.encode()))
    if place in {"key", "both"}:
        pairs.insert(rng.randrange(len(pairs) + 1), ("key", key if place == "key" else word(rng)))


HEADERS = (b"x-request-id", b"authorization", b"x-api-key", b"x-forwarded-for", b"content-type")


def _headers(rng: Random, tag: bytes) -> list[tuple[bytes, bytes]]:
    odd = bytes(rng.choices(_IN_A_HEADER, k=rng.choice((1, 5, 40, 255, 256, 5000))))
    found = []
    if rng.random() < 0.1:
        found.append((b"idempotency-key", rng.choice((b"one", b"two", b"three", b"", odd))))
    if rng.random() < 0.2:
        tags = (b"*", tag, b'"x", W/' + tag, tag[:9], b'"', b"", odd)
        found.append((b"if-none-match", rng.choice(tags)))
    if rng.random() < 0.1:
        found.append((rng.choice(HEADERS), rng.choice((odd, b"192.0.2.7", b"127.0.0.1"))))
    return found


def _length(content: bytes, rng: Random) -> list[tuple[bytes, bytes]]:
    honest = b"%d" % len(content)
    odd = (b"0", b"-1", b"x", b"9" * 30, b"262144", b"262145", b"1, 2", b"\xb2", b"1" * 5000)
    said = rng.choice((*[honest] * 60, *[None] * 30, *odd))
    return [] if said is None else [(b"content-length", said)]


def _body(pairs: list[tuple[str, str]], rng: Random) -> tuple[bytes, bytes]:
    """Return a body that says these parameters, or something else, and its content type."""
    draw = rng.random()
    if draw < 0.5:
        return urlencode(pairs).encode(), FORM
    if draw < 0.65:
        return _multipart(pairs, rng)
    if draw < 0.94:
        return _object(pairs, rng), b"application/json"
    if draw < 0.95:
        return b"key=" + b"x" * rng.choice((262_140, 262_141, 10**6)), FORM
    nonsense = WILDS.invented(rng) if draw < 0.98 else rng.randbytes(rng.randrange(300))
    return nonsense, rng.choice(TYPES)


def _object(pairs: list[tuple[str, str]], rng: Random) -> bytes:
    tree: dict[str, Any] = dict(pairs)
    for name, value in pairs:
        if value.isascii() and value.isdigit() and rng.random() < 0.5:
            tree[name] = int(value)
        elif rng.random() < 0.2:
            tree[name] = re.split(r"[,\r\n]+", value)
    if rng.random() < 0.5:
        return WILDS.changed(tree, rng)
    return json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode()


def _multipart(pairs: list[tuple[str, str]], rng: Random) -> tuple[bytes, bytes]:
    lines: list[str] = []
    for name, value in pairs:
        extra = rng.choice(("", "", '; filename="a"', "; filename*=x'y'%zz", "\r\nContent-Type: x"))
        quoted = name if rng.random() < 0.1 else f'"{name}"'
        lines += ("--Xy", f"Content-Disposition: form-data; name={quoted}{extra}", "", value)
    lines += ("--Xy--", "") if rng.random() < 0.9 else ()
    return "\r\n".join(lines).encode(), b"multipart/form-data; boundary=Xy"


def _parts(content: bytes, rng: Random) -> list[bytes]:
    if rng.random() < 0.8:
        return [content]
    at = rng.randrange(len(content) + 1)
    return [content[:at], b"", content[at:]]


# --- what may come back -------------------------------------------------------------------------


class Got(msgspec.Struct):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


async def _ask(app: App, sent: Sent) -> Got | None:
    """Hand a request to an application; ``None`` when it does not answer."""
    arriving: list[Message] = [
        {"type": "http.request", "body": part, "more_body": True} for part in sent.parts
    ]
    arriving[-1]["more_body"] = not sent.whole
    messages: list[Message] = []

    async def receive() -> Message:
        return arriving.pop(0) if arriving else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": sent.method,
        "scheme": "http",
        "path": sent.path,
        "raw_path": quote_plus(sent.path, "/").encode(),
        "root_path": "",
        "query_string": sent.query,
        "headers": sent.headers,
        "client": (sent.caller, 40_000) if sent.caller else None,
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, send)
    if not messages:
        return None
    start, *rest = messages
    body = b"".join(message.get("body", b"") for message in rest)
    return Got(start["status"], dict(start["headers"]), body)


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _read(sent: Sent, got: Got) -> Any:
    """Return an answer's JSON, which is as the contract has it; ``None`` where there is none."""
    assert got.status in {200, 304, 413, 429, 503}
    if got.status != 304:
        assert b"%d" % len(got.body) == got.headers[b"content-length"] or sent.method == "HEAD"
        assert b"application/json; charset=utf-8" == got.headers[b"content-type"]
    if sent.method == "HEAD" or got.status == 304:
        assert b"" == got.body
        assert got.status == 200 or b"if-none-match" in dict(sent.headers)
        return None
    answer = json.loads(got.body.decode(), parse_constant=_no_number)
    assert got.status == 200 or _is_error(answer)
    assert b"upstream-secret" not in got.body
    return answer


def _is_error(answer: Any) -> bool:
    match answer:
        case {"error": str(text)} if len(answer) == 1:
            return text in TEXTS
    return False


def _kind(answer: Any) -> str:
    """Name what kind of answer this is; ``"?"`` for one that the contract does not have."""
    match answer:
        case {"error": str(text)}:
            kind, good = text, _is_error(answer)
        case {"order": int(order), **rest}:
            kind, good = "order", order > 0 and not rest
        case {"balance": str(balance), "currency": "USD", **rest}:
            kind, good = "balance", bool(_AMOUNT.fullmatch(balance)) and not rest
        case {"refill": str(refill), **rest}:
            kind, good = "refill", refill.isdigit() and not rest
        case {"charge": str()}:
            kind, good = "status", _is_row(answer)
        case {"status": str(status), **rest}:
            kind, good = "refill status", status in REFILL_STATUSES and not rest
        case dict():
            kind, good = "statuses", all(_is_error(row) or _is_row(row) for row in answer.values())
        case list():
            kinds = {_row_kind(row) for row in answer}
            kind, good = next(iter(kinds), "?"), len(kinds) == 1
        case _:
            kind, good = "?", False
    return kind if good and answer else "?"


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and FIVE <= row.keys() <= ROW
        and all(type(row[name]) is str for name in FIVE)
        and row["status"] in STATUSES
        and _AMOUNT.fullmatch(row["charge"]) is not None
        and row["start_count"].isdigit()
        and row["remains"].isdigit()
    )


def _row_kind(row: Any) -> str:
    match row:
        case {"order": int() | str(), "refill": refill} if len(row) == 2:
            return "refills" if type(refill) is int or _is_error(refill) else "?"
        case {"order": int() | str(), "cancel": cancel} if len(row) == 2:
            return "cancels" if cancel == 1 or _is_error(cancel) else "?"
        case {"refill": int() | str(), "status": status} if len(row) == 2:
            good = _is_error(status) or str(status) in REFILL_STATUSES
            return "refill statuses" if good else "?"
        case {"service": int(), "rate": str()} if len(row) == len(ROWS[0]) + 1:
            return "services"
    return "?"


# --- what may reach a provider ------------------------------------------------------------------

_DIGITS = re.compile(r"[0-9]{1,12}", re.ASCII)


def _charge(form: Form) -> int:
    """Return what an order costs that a panel was asked for; it is one that may be asked for."""
    kind = table()[int(form["service"]) - 1]
    assert {"action", "service", *kind.required} <= form.keys()
    assert form.keys() <= {"action", "service", *kind.required, *kind.optional}
    for name, value in form.items():
        assert value == value.strip() != ""
        assert "\0" not in value
        assert name not in COUNTED or _DIGITS.fullmatch(value), (name, value)
    link = form.get("link", "")
    assert len(link) <= 2048
    assert "".join(link.split()) == link
    assert link.isprintable() or not any(ord(one) < 32 or ord(one) == 127 for one in link)
    assert "expiry" not in form or re.fullmatch(r"\d\d?/\d\d?/\d{4}", form["expiry"], re.ASCII)
    size = _size(kind, form)
    assert 0 < size <= 10**12
    return 900_000 * size if kind.size is Size.ONE else 900 * size


def _size(kind: OrderType, form: Form) -> int:
    count = {name: int(value) for name, value in form.items() if name in COUNTED}
    assert 1 <= count.get("quantity", 1) <= 10_000
    match kind.size:
        case Size.ONE:
            return 1
        case Size.POSTS:
            assert 1 <= count["min"] <= count["max"] <= 10_000
            assert count["delay"] <= 600
            return (count["posts"] + count.get("old_posts", 0)) * count["max"]
        case Size.COMMENTS | Size.USERNAMES:
            entries = form["comments" if kind.size is Size.COMMENTS else "usernames"].split("\n")
            assert all(entry.strip() for entry in entries)
            assert 1 <= len(entries) <= 10_000
            return len(entries)
    assert count.get("runs", 2) > 1
    assert ("runs" in form) == ("interval" in form)
    return count["quantity"] * count.get("runs", 1)


# --- the test -----------------------------------------------------------------------------------


class Taker:
    """A panel that takes, refuses or loses what it is asked, and reckons what that will cost.

    Attributes:
        charged: what the orders cost that it may have, in millionths.
        taken: how many it gave an id.
        wrong: what it was asked and should not have been.

    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.charged = 0
        self.taken = 0
        self.wrong: list[tuple[Form, str]] = []
        self.panel = Panel(services=OFFERS, add=self._add, refill=self._refill, cancel=self._cancel)

    def _draw(self) -> Random:
        return chance(f"{self._name} panel", len(self.panel.calls))

    def _add(self, form: Form) -> Any:
        try:
            charge = _charge(form)
        except (AssertionError, ValueError, LookupError) as error:
            self.wrong.append((form, repr(error)))
            return {"error": "Incorrect request"}
        draw = self._draw().random()
        if draw < 0.1:
            return {"error": "Link is private"}
        if draw < 0.15:
            return httpx.ConnectError("down")
        self.charged += charge
        if draw < 0.2:
            return httpx.Response(502)
        self.taken += 1
        return {"order": FIRST + self.taken}

    def _rows(self, form: Form, what: str, done: Any, refused: str) -> list[dict[str, Any]]:
        ids = form.get("orders", form.get("order", "")).split(",")
        if not all(one.isdigit() and FIRST < int(one) <= FIRST + self.taken for one in ids):
            self.wrong.append((form, "an order that it never gave"))
        rng = self._draw()
        return [{"order": one, what: rng.choice((done, {"error": refused}))} for one in ids]

    def _refill(self, form: Form) -> Any:
        rows = self._rows(form, "refill", 7, "Refill is not available")
        return rows if "orders" in form else rows[0]

    def _cancel(self, form: Form) -> Any:
        return self._rows(form, "cancel", 1, "Cancel is not available")


BOUND = 1
"""Which of the keys works from ``HOME`` alone."""
FIRST = 5000
"""Below the first id that the panel gives."""
MET = {
    *("order", "balance", "status", "statuses", "refill", "refills", "cancels", "services"),
    *("Incorrect request", "Invalid API key", "Invalid service ID", "Service is unavailable"),
    *("Account suspended", "Bad link", "Invalid quantity", "Not enough funds", "Refill not found"),
    *("Incorrect runs", "Incorrect interval", "This idempotency key was used for another order"),
    *("Incorrect order ID", "refill statuses", "elsewhere", "no answer", "413", "304"),
}
"""What a run must have met, or it would prove little."""


async def _keys(one: World) -> dict[str, int]:
    """Return the keys that requests are made with, and whose they are: nobody's is the last."""
    rich = one.customer.id
    poor = await one.customer_with("0.1", "bob")
    second = one.customer.id
    store = one.gateway.store
    bound = msgspec.structs.replace(one.customer, addresses=(f"{HOME}/32",))
    await store.set_customer(one.customer, bound)
    suspended = await one.customer_with("1", "eve")
    await store.set_customer(one.customer, msgspec.structs.replace(one.customer, disabled=True))
    return {one.key: rich, poor: second, suspended: one.customer.id, "f00d" * 8: 0}


async def _available(one: World, customers: list[int]) -> int:
    """Return what all customers can spend together; nobody less than nothing."""
    balances = await one.gateway.store.balances(customers)
    each = [balance.available for some in balances.values() for balance in some]
    assert min(each) >= 0
    return sum(each)


async def _judge(one: World, sent: Sent, got: Got | None, keys: dict[str, int]) -> str:
    """Name what came back; whatever it may not be fails."""
    if got is None:
        assert not sent.whole
        return "no answer"
    if sent.path not in {"/api/v2", "/api/v2/"}:
        assert got.status == 404
        return "elsewhere"
    answer = _read(sent, got)
    if answer is None or got.status != 200:
        return str(got.status)
    kind = _kind(answer)
    assert kind != "?", answer
    assert kind in TEXTS or (sent.whole and sent.method in {"GET", "POST"})
    assert not [key for key in keys if key.encode() in got.body and key.encode() not in sent.raw]
    if kind == "order":
        _may_be_placed(sent)
    owners = {owner for key, owner in keys.items() if key.encode() in sent.raw}
    if HOME not in sent.caller:
        owners.discard(list(keys.values())[BOUND])
    assert await _owners(one, answer) <= owners
    return kind


def _may_be_placed(sent: Sent) -> None:
    """See that what was ordered is a number where it must be one, and no key is cut to length."""
    assert all(len(value) < 300 for name, value in sent.headers if name == b"idempotency-key")
    if sent.said:
        kind = table()[int(sent.said["service"]) - 101]
        for name in COUNTED & {*kind.required, *kind.optional} & sent.said.keys():
            value = sent.said[name]
            assert _DIGITS.fullmatch(value) or value in {"", "null", "undefined"}, (name, value)


async def _owners(one: World, answer: Any) -> set[int]:
    """Return whose orders an answer speaks of."""
    ids: list[int] = []
    if isinstance(answer, list):
        ids = [row["order"] for row in answer if "order" in row and not _refused(row)]
    elif isinstance(answer, dict) and isinstance(answer.get("order"), int):
        ids = [answer["order"]]
    elif isinstance(answer, dict):
        ids = [
            int(one) for one, row in answer.items() if isinstance(row, dict) and FIVE <= row.keys()
        ]
    return {order.customer for order in (await one.gateway.store.orders(ids)).values()}


def _refused(row: dict[str, Any]) -> bool:
    return any(_is_error(said) for said in row.values())


@pytest.mark.parametrize("run", range(RUNS))
async def test_whatever_is_sent_the_answer_is_as_the_contract_has_it(
    tmp_path: Path, run: int
) -> None:
    """Always JSON and never a failure; what reaches a provider may be asked, and costs its price.

    An answer speaks of orders of the customer whose key was sent, no balance falls below zero,
    and the books add up at the end.
    """
    name = f"endpoint {run}"
    taker = Taker(name)
    met: Counter[str] = Counter()
    with capture_logs() as lines:
        async with world(tmp_path, OWNER, money="2000", p=taker.panel) as one:
            keys = await _keys(one)
            customers = [owner for owner in keys.values() if owner]
            transport = one.client._transport
            assert isinstance(transport, httpx.ASGITransport)
            listed = await one.client.post("/api/v2", data={"key": one.key, "action": "services"})
            opening = await _available(one, customers)
            for count in numbers(REQUESTS):
                sent = _request(chance(name, count), tuple(keys), listed.headers["etag"].encode())
                calls = len(taker.panel.calls)
                got = None
                try:
                    got = await _ask(transport.app, sent)
                    kind = await _judge(one, sent, got, keys)
                    assert opening - taker.charged == await _available(one, customers)
                    assert calls == len(taker.panel.calls) or kind in ASKED, "a provider was asked"
                    assert [] == taker.wrong
                except Exception as error:
                    shown = f"{repr(sent)[:3000]}\n{repr(got)[:1000]}"
                    raise AssertionError(replay(name, count, shown)) from error
                met[kind] += 1

            assert [] == await one.audit()

    assert [] == [line for line in lines if line["log_level"] == "error"]
    assert REQUESTS < 1000 or set() == MET - met.keys(), met


REFUSED = {"Bad link", "Service is unavailable", "Refill is not available"}
ASKED = {"order", "refill", "refills", "cancels"} | REFUSED
"""Answers for which a provider may have been asked."""
