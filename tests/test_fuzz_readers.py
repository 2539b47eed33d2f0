"""Whatever a provider answers, its reader says what it means or raises one of the three failures.

The inputs are the documented examples with changes, JSON made of the protocol's own words, and
bytes. They are drawn from a seed, so the suite always reads the same ones; a million of them::

    GATEWAY_FUZZ=1000000 ./run test tests/test_fuzz_readers.py

Another seed, or the one input that a failure names: ``tests/fuzzing.py``.
"""

import asyncio
import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from fuzzing import NASTY, Wilds, chance, garbled, inputs, number, numbers, replay, word
from gateway.adapters import ADAPTERS, ApiV2, words
from gateway.errors import CallFailed, ErrorText, Fault, Indeterminate, Rejected, Unsupported
from gateway.model import Action, Call, Offer, RefillStatus, Refusal, Report, State, Status
from gateway.money import Money, text
from gateway.order_form import KNOWN
from gateway.upstream import HEAD, Answer, Upstream
from wire import Peer, serve
from world import ROWS, Form, Panel, World, world

READS = inputs(usual=40_000, of=len(ADAPTERS))
WRITES = READS // 10
EXCHANGES = min(READS // 20, 10_000)

pytestmark = pytest.mark.timeout(60 + READS // 500)

ACTS = {Action.ADD, Action.REFILL, Action.CANCEL}
NEVER_TOLD = {ErrorText.INVALID_KEY, ErrorText.NOT_ENOUGH_FUNDS, ErrorText.SUSPENDED}
MOST = 2**63 - 1
BOM = b"\xef\xbb\xbf"
FIXTURES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "fixtures").glob("*.json"))
    if path.stem in ADAPTERS
}


def _texts(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_texts, value.values()))
    if isinstance(value, list):
        return set().union(*map(_texts, value))
    return {value} if isinstance(value, str) else set()


def _json(body: str) -> Any:
    """Return the JSON of an example; ``...`` for one that is none."""
    try:
        return json.loads(body)
    except ValueError:
        return ...


EXAMPLES = [
    (name, Action(row["action"]), tuple(row.get("ids", ())), row["body"].encode(), tree)
    for name, fixture in FIXTURES.items()
    for row in fixture["reads"]
    for tree in [_json(row["body"])]
]
WORDS = tuple(
    sorted(
        set().union(*(_texts(tree) for *_, tree in EXAMPLES))
        | words.STATUSES.keys()
        | words.REFILL_STATUSES.keys()
        | {phrase.strip() for *_, row in words.REFUSALS for phrase in row.split("|")}
        | {"order_id", "canceled", "cancelled", "data", "services", "msg", "success", "code"}
        | set(NASTY)
    )
)
WILDS = Wilds(WORDS)
# Every way in which a server may begin; most of what is read is said with a 200.
STATUSES = (*[200] * 20, 0, 100, 201, 204, 301, 400, 401, 403, 404, 422, 429, 500, 502, 503, 999)


class Input(msgspec.Struct, frozen=True):
    """One answer of a provider, and what it was asked."""

    call: Call
    status: int
    body: bytes

    @property
    def shown(self) -> str:
        cut = f" … {len(self.body)} bytes" if len(self.body) > 2000 else ""
        ids = ",".join(self.call.ids)
        return f"{self.call.action} {ids} HTTP {self.status}\n{self.body[:2000]!r}{cut}"


@cache
def _examples(name: str) -> list[Any]:
    """Return the examples of an adapter's own actions, its own page's more often than others'."""
    known = [one for one in EXAMPLES if one[1] in ADAPTERS[name].actions]
    return known + 5 * [one for one in known if one[0] == name]


def _answer(name: str, rng: Random) -> Input:
    """Return an answer that the adapter of this name has to read."""
    _, action, ids, body, tree = rng.choice(_examples(name))
    if rng.random() < 0.05 and ids:
        ids = rng.choice((("1",), ("1", "10", "100"), ("error",), ("status", "order"), ids[:1]))
    draw = rng.random()
    if draw < 0.1:
        body = WILDS.changed({"error": WILDS.name(rng)}, rng)
    elif draw < 0.65 and tree is not ...:
        body = WILDS.changed(tree, rng)
    elif draw < 0.8:
        body = WILDS.invented(rng)
    elif draw < 0.85:
        body = rng.randbytes(rng.randrange(200))
    if rng.random() < 0.25:
        body = garbled(body, rng)
    service = "1" if action is Action.ADD else ""
    return Input(Call(action, ids=ids, service=service), rng.choice(STATUSES), body)


# --- what a reader may return ---------------------------------------------------------------------


def _clean(text: object, longest: int, *, empty: bool = False) -> bool:
    """Tell whether a text can be stored and shown: not too long, no NUL, no half characters."""
    return (
        isinstance(text, str)
        and (empty or bool(text))
        and len(text) <= longest
        and "\x00" not in text
        and text.encode().decode() == text
    )


def _id(text: object) -> bool:
    return _clean(text, 64) and text == "".join(str(text).split()) and "," not in str(text)


def _whole(value: object, least: int = -MOST) -> bool:
    return type(value) is int and least <= value <= MOST


def _flag(value: object) -> bool:
    return value is None or type(value) is bool


def _refusal(said: Any) -> bool:
    return (
        isinstance(said.fault, Fault)
        and isinstance(said.text, ErrorText)
        and said.text not in NEVER_TOLD
        and _clean(said.words, 500)
    )


def _offer(offer: Any) -> bool:
    return (
        type(offer) is Offer
        and _id(offer.id)
        and all(_clean(text, 10**9) for text in (offer.name, offer.type))
        and all(_clean(text, 10**9, empty=True) for text in (offer.category, offer.description))
        and type(offer.rate) is Decimal
        and offer.rate.is_finite()
        and 0 <= offer.rate < 10**15
        and (Fraction(offer.rate) * 10**15).denominator == 1
        and _whole(offer.min, 0)
        and _whole(offer.max, 0)
        and all(map(_flag, (offer.refill, offer.cancel, offer.dripfeed)))
    )


def _services(found: Any) -> bool:
    offers, wrong = found
    return (
        all(map(_offer, offers))
        and len({offer.id for offer in offers}) == len(offers)
        and all(_clean(line, 300) for line in wrong)
    )


def _report(said: Any) -> bool:
    return isinstance(said, Report) and (
        type(said.status) in {Status, type(None)}
        and _clean(said.word, 64)
        and all(_clean(text, 64, empty=True) for text in (said.currency, said.expiry))
        and (said.charge is None or _whole(said.charge, 0))
        and all(one is None or _whole(one) for one in (said.start_count, said.remains))
        and all(one is None or _whole(one, 0) for one in (said.runs, said.posts, said.quantity))
        and all(map(_id, said.orders))
    )


def _balance(found: Any) -> bool:
    return isinstance(found, Money) and (
        _whole(found.micros) and found.currency.isalnum() and 3 <= len(found.currency) <= 10
    )


OF_ONE: Mapping[Action, Callable[[Any], bool]] = {
    Action.STATUS: _report,
    Action.REFILL: lambda said: said == "" or _id(said),
    Action.REFILL_STATUS: lambda said: isinstance(said, RefillStatus),
    Action.CANCEL: lambda said: said is True,
}
"""What may be said of one id, beside a refusal."""


def _sane(call: Call, found: Any) -> bool:
    match call.action:
        case Action.SERVICES:
            return _services(found)
        case Action.ADD:
            return _id(found)
        case Action.BALANCE:
            return _balance(found)
    return found.keys() <= set(call.ids) and all(
        _refusal(said) if isinstance(said, Refusal) else OF_ONE[call.action](said)
        for said in found.values()
    )


def _read(adapter: ApiV2, one: Input) -> Any:
    """Return what an answer means, or the failure that it is."""
    try:
        answer = adapter.open(one.call, one.status, one.body)
        return getattr(adapter, f"read_{one.call.action}")(one.call, answer)
    except CallFailed as failure:
        return failure


def _wrong(one: Input, found: Any) -> str:
    """Return what is wrong with how an answer was understood; empty when nothing is."""
    said = None
    if one.status >= 500 and one.call.action in ACTS and not isinstance(found, Indeterminate):
        said = "an HTTP status of 5xx leaves open whether it acted"
    elif isinstance(found, Indeterminate):
        said = "" if len(str(found)) <= 300 else "the reason is not cut to length"
    elif isinstance(found, Rejected):
        said = "" if _refusal(found) else "not a refusal"
    elif not _sane(one.call, found):
        said = "not what the reader declares"
    if not said and one.call.action is Action.ADD:
        said = _misread(one, found)
    return said or ""


def _misread(one: Input, found: Any) -> str:
    """Look at an answer to an ``add`` with another reader of JSON: an id or an error is in it.

    Either moves money, the one for good and the other back.
    """
    if isinstance(found, Indeterminate):
        return ""
    try:
        answer = json.loads(one.body.removeprefix(BOM), strict=False, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError):
        return "another reader finds no JSON in it"
    error = isinstance(answer, dict) and answer.get("error")
    if isinstance(error, str):  # one that says nothing is none
        error = error.replace("\0", "").strip()
    if isinstance(found, Rejected):
        return "" if error else "refused, and there is no error"
    if error:
        return "placed, in spite of an error"
    places = [answer, answer["data"]] if isinstance(answer.get("data"), dict) else [answer]
    ids = [place.get(name) for place in places for name in ("order", "order_id")]
    return "" if found in [str(one).strip() for one in ids] else "placed under an id of nobody's"


# --- the tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_answer_is_understood_or_one_of_the_three_failures(name: str) -> None:
    """Nothing else is raised, and what is returned can be stored, shown and reckoned with."""
    adapter = ADAPTERS[name]()
    met: Counter[str] = Counter()
    for count in numbers(READS):
        one = _answer(name, chance(name, count))
        try:
            found = _read(adapter, one)
            wrong = _wrong(one, found)
        except Exception as error:
            raise AssertionError(replay(name, count, one.shown)) from error
        assert "" == wrong, replay(name, count, f"{one.shown}\n{found!r}")
        met[f"{one.call.action} {type(found).__name__}"] += 1

    # Inputs that are all refused at the door would prove little: each reader got its share.
    kinds = {
        f"{action} {kind}" for action in adapter.actions for kind in ("Rejected", _KIND[action])
    }
    assert READS < 1000 or set() == {kind for kind in kinds if met[kind] < READS // 1000}, met


_KIND = {
    **dict.fromkeys(Action, "dict"),
    Action.SERVICES: "tuple",
    Action.ADD: "str",
    Action.BALANCE: "Money",
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_call_becomes_a_form_of_its_own_words_or_is_unsupported(name: str) -> None:
    """A form says the action and what the call says; the key stands in none."""
    adapter = ADAPTERS[name]()
    for count in numbers(WRITES):
        call = _call(chance(f"{name} writes", count))
        try:
            form = adapter.write(call)
        except Unsupported:
            continue
        except Exception as error:
            raise AssertionError(replay(f"{name} writes", count, repr(call))) from error
        said = {call.action, call.service, *call.params.values(), str(call.size)}
        said |= {",".join(call.ids), *map(str, adapter.delays)}
        shown = replay(f"{name} writes", count, f"{call!r}\n{form!r}")
        assert call.action == form["action"], shown
        assert all(type(value) is str or isinstance(value, Action) for value in form.values()), (
            shown
        )
        assert set(form.values()) <= said, shown


def _call(rng: Random) -> Call:
    ids = tuple(word(rng) for _ in range(rng.choice((0, 1, 1, 2, 3, 100, 101))))
    names = sorted(KNOWN - {"service"})
    params = {
        rng.choice(names): number(rng) if rng.random() < 0.5 else word(rng)
        for _ in range(rng.randrange(5))
    }
    service = rng.choice(("1", "1", word(rng)))
    return Call(rng.choice(list(Action)), ids, service, params, rng.choice((0, 1, 100, 10**12)))


# --- the wire -------------------------------------------------------------------------------------

_HEADS = (
    *(b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 204 No Content"),
    *(b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 100 Continue", b"HTTP/1.1 103 Early Hints"),
    *(b"HTTP/1.1 101 Switching Protocols", b"HTTP/2 200", b"HTTP/1.1 999 x", b"HTTP/1.1 0 x"),
    *(b"HTTP/1.1 99999 x", b"ICY 200 OK", b"PRI * HTTP/2.0", b"", b"HTTP/1.1 302 Found"),
)
_HEADERS = (
    *(b"Content-Length: -1", b"Content-Length: 99", b"Content-Length: 0", b"Content-Length: 1, 1"),
    *(b"Content-Length: 18446744073709551617", b"Content-Length: +5", b"Content-Length:"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: x"),
    *(b"Content-Encoding: gzip", b"Content-Encoding: deflate", b"Content-Encoding: gzip, gzip"),
    *(b"Content-Encoding: br", b"Connection: close", b"Connection: upgrade", b"Upgrade: h2c"),
    *(b"X: " + b"y" * 3000, b"\xff: \xfe", b"A b: c", b": x", b"no colon", b" folded", b"X:\x00"),
    *(b"Location: http://127.0.0.1:1/", b"Content-Type: text/html; charset=x"),
    *(b"X: " + b"y" * HEAD, b"Trailer: X"),
)
_CHUNKS = (b"0", b"fffffffffffffffff", b"-1", b"0x2", b"1;a=b", b"", b"g", b"7fffffffffffffff")


def _http(number: int) -> tuple[bytes, bool]:
    """Return the bytes that answer a request, and whether the connection stays open after them."""
    rng = chance("wire", number)
    body = b'{"order":"%s"}' % _mark(number)
    if rng.random() < 0.4:  # well said, and then perhaps something that nobody asked for
        good = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        return good + rng.choice((b"", b"", b"\r\n", good, garbled(good, rng))), True
    body += rng.choice((b"", b"", b" " * 5000, body * 100))
    packed = rng.choice((bytes, gzip.compress, zlib.compress, lambda _: rng.randbytes(50)))
    body = packed(body) if rng.random() < 0.3 else body
    headers = rng.choices(_HEADERS, k=rng.randrange(3))
    draw = rng.random()
    if draw < 0.5:
        headers.append(b"Content-Length: %d" % (len(body) + rng.choice((0, 0, 0, 1, -1))))
    elif draw < 0.8:
        size = b"%x" % len(body) if rng.random() < 0.7 else rng.choice(_CHUNKS)
        headers.append(b"Transfer-Encoding: chunked")
        end = rng.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n", b"", rng.choice(_CHUNKS)))
        body = size + b"\r\n" + body + b"\r\n" + end
    line = rng.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))
    head = _HEADS[0] if rng.random() < 0.6 else rng.choice(_HEADS)
    whole = line.join((head, *headers, b"", b"")) + body
    if rng.random() < 0.3:
        whole = rng.choice((b"HTTP/1.1 100 Continue\r\n\r\n", whole, b"\r\n")) + whole
    return garbled(whole, rng) if rng.random() < 0.4 else whole, False


def _mark(number: int) -> bytes:
    """Return what one answer says and no other, however its bits are turned."""
    return hashlib.sha256(b"%d" % number).hexdigest()[:16].encode()


async def test_what_comes_over_the_wire_is_an_answer_or_not_known() -> None:
    """Whatever a server writes after it was asked, nothing proves that it did not act.

    No answer is taken for another's either, and nothing breaks behind the scenes.
    """
    broken: list[Mapping[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
    met: Counter[str] = Counter()

    async def talk(peer: Peer) -> None:
        stays = True
        while stays and (form := await peer.read()):
            count = int(form.removeprefix(b"n=").partition(b"&")[0])
            whole, stays = _http(count)
            at = count % (len(whole) + 1)
            await peer.write(whole[:at], whole[at:])
            if count % 7 == 0:
                peer.reset()

    async with serve(talk) as server:
        upstream = Upstream()
        for count in numbers(EXCHANGES):
            shown = replay("wire", count, repr(_http(count)))
            found: object
            try:
                found = await upstream.post(server.url, {"n": str(count)}, key="k", timeout=1)
            except Exception as failure:  # noqa: BLE001 - that is the question
                found = failure
            assert isinstance(found, Answer | Indeterminate), f"{shown}\n{found!r}"
            if isinstance(found, Answer):
                others = [n for n in range(count - 5, count) if _mark(n) in found.body]
                assert [] == others, f"{shown}\n{found!r}"
            met[type(found).__name__] += 1
        reused = EXCHANGES - server.accepted
        await upstream.aclose()

    assert [] == broken
    shares = (met["Answer"], met["Indeterminate"], reused)
    assert EXCHANGES < 1000 or min(shares) > EXCHANGES // 20, (met, reused)


# --- what follows from it -------------------------------------------------------------------------

LOOKS = min(READS // 200, 1_000)
OWNER = """
currency: USD
providers:
  p: {adapter: api_v2, url: "http://panel/p", key: "${KEY}", limits: {per_second: 10000}}
services:
  101: {routes: [p/1]}
  102: {routes: [p/2]}
orders: {follow_for: 3650d}
"""
OFFERS = [ROWS[0], ROWS[0] | {"service": 2, "type": "Subscriptions"}]
BOUGHT: tuple[dict[str, object], ...] = (
    {"quantity": 1000},
    {"quantity": 10_000, "runs": 3, "interval": 5},
    {"service": 102, "username": "me", "min": 50, "max": 100, "delay": 0, "posts": 5},
)
ENDED = {"status": "Completed", "charge": "0.90", "remains": "0", "posts": "5"}
EXTREME = ("999999999999999", "-999999999999999", "9223372036854.775807", "9000000000000", "0", "")


def _reports(ids: str, rng: Random) -> bytes:
    """Return what a panel may say of orders: mostly their statuses, and beyond all belief."""

    def some(*usual: str) -> str:
        return rng.choice((*usual, rng.choice(EXTREME), number(rng)))

    rows = {
        one: {
            "status": rng.choice(("Completed", "Partial", "Canceled", "In progress", "Active")),
            "charge": some("0.90", "0.45"),
            "start_count": some(),
            "remains": some("0", "500"),
            "currency": "USD",
            **{name: some("2") for name in ("runs", "posts", "quantity") if rng.random() < 0.7},
        }
        for one in ids.split(",")
    }
    return WILDS.changed(rows if len(rows) > 1 else rows.popitem()[1], rng)


class Talker:
    """A panel that says whatever chance has it say of its orders, and what it said."""

    def __init__(self) -> None:
        self.panel = Panel(services=OFFERS, status=self._status)
        self.look = 0
        self.said: list[bytes] = []

    def _status(self, form: Form) -> httpx.Response:
        rng = chance(f"reports {len(self.said)}", self.look)
        self.said.append(_reports(form.get("orders") or form["order"], rng))
        return httpx.Response(200, content=self.said[-1])


async def _buy(one: World, number: int) -> int:
    """Place an order, which its panel takes: it is asked, and answers in plain words."""
    await one.gateway.router.balance("p")  # else it would be known for answering nonsense
    await one.gateway.sync.fetch("p")  # of an older catalog nothing is sold
    added = await one.add(link=f"https://x.com/{number}", **BOUGHT[number % len(BOUGHT)])
    assert ["order"] == list(added), added
    order: int = added["order"]
    assert State.PLACED is (await one.order(order)).state
    return order


async def test_whatever_is_said_of_orders_the_last_word_counts(tmp_path: Path) -> None:
    """No report is too odd to be followed by another, and the books are right after each.

    Meanwhile new orders can be placed, and when the panel has come to its senses, every order
    ends as it would have without all that.
    """
    talker = Talker()
    with capture_logs() as lines:
        async with world(tmp_path, OWNER, money="1000000", p=talker.panel) as one:
            orders = [await _buy(one, at) for at in range(3)]
            for talker.look in numbers(LOOKS):
                talker.said.clear()
                try:
                    assert len(orders) == await one.look()
                    assert [] == await one.audit()
                    assert [] == [line for line in lines if line["event"] in STUCK]
                    if talker.look % 20 == 0:
                        orders.append(await _buy(one, len(orders)))
                except Exception as error:
                    shown = repr(talker.said)[:3000]
                    raise AssertionError(replay("reports", talker.look, shown)) from error

            talker.panel.answers["status"] = lambda form: dict.fromkeys(
                form["orders"].split(","), ENDED
            )
            await one.look()
            ended = [await one.api("status", order=order) for order in orders]
            spent = sum([(await one.order(order)).charge for order in orders])

            assert ["Completed"] * len(orders) == [row["status"] for row in ended]
            assert text(10**12 - spent) == await one.balance()
            assert [] == await one.audit()


STUCK = {"an order stays as it is", "an answer cannot be true"}
"""What is logged when a report or an answer has no place in the books."""
