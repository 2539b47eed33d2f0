"""From an HTTP request to API v2's parameters, in every way in which clients send them.

A form, multipart, JSON or a query string; the body wins over the query, and of a repeated
parameter the last one counts, as PHP has it. An empty value, ``undefined`` and ``null`` are
absent. The content type is a hint: clients send JSON as forms and forms as nothing at all.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import msgspec
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from gateway import order_form
from gateway.errors import CustomerError, ErrorText

ABSENT = frozenset({"", "undefined", "null"})
MOST = 1000
"""Parameters in one request; more are nobody's order."""
NAMED = order_form.KNOWN | {
    *("key", "action", "idempotency_key"),
    *("order", "orders", "refill", "refills"),
}
"""Parameters that mean something; of any other it does not matter what it holds."""
IDS = frozenset({"order", "orders", "refill", "refills", "ids"})
"""Those that hold ids, with commas between them."""
MOST_DIGITS = 100
_BOM = b"\xef\xbb\xbf"
_SPACE = " \t\r\n"
_json = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


def read(query: bytes, content_type: str, body: bytes) -> dict[str, str]:
    """Return the parameters that are there; ``CustomerError`` when they cannot be read."""
    params: dict[str, str] = {}
    body = body.removeprefix(_BOM)
    for sent in _form(query) if query else {}, _body(content_type, body) if body else {}:
        for name, padded in sent.items():
            value = padded.strip(_SPACE)
            if value not in ABSENT:
                if "\0" not in value and "\0" not in name:
                    params[name] = value
                elif name in NAMED:
                    raise CustomerError(ErrorText.INCORRECT_REQUEST)
    return params


def _body(content_type: str, body: bytes) -> dict[str, str]:
    kind = content_type[:16].lower()  # the rest keeps its case: a boundary has one
    if kind.startswith("multipart/"):
        return _multipart(content_type, body)
    if body.lstrip()[:1] == b"{":
        return _object(body)
    if kind == "application/json":
        raise CustomerError(ErrorText.INCORRECT_REQUEST)
    return _form(body)


def _form(text: bytes) -> dict[str, str]:
    if text.count(b"&") > MOST:
        raise CustomerError(ErrorText.INCORRECT_REQUEST)
    pairs = []
    for part in _text_of(text).split("&"):
        if part:
            name, _, value = part.partition("=")
            # Most parts are as they look.
            if "%" in part or "+" in part:
                name, value = _unescaped(name), _unescaped(value)
            pairs.append((name, value))
    # Only with one of these can there be a bracket in a name.
    return _gathered(pairs) if b"[" in text or b"%5" in text else dict(pairs)


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return what counts; ``orders[]=1&orders[]=2``, as PHP has lists, becomes ``orders=1,2``."""
    found: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for sent, value in pairs:
        name, bracket, _ = sent.partition("[")
        if bracket and sent.endswith("]"):
            lists.setdefault(name, []).append(value)
            found[name] = _joined(name, lists[name])
        else:
            found[sent] = value
    return found


def _unescaped(text: str) -> str:
    # The commas of a long list at once; no other escape can begin in one, or end.
    return _text_of(unquote_to_bytes(text.replace("+", " ").replace("%2C", ",")))


def _text_of(sent: bytes) -> str:
    try:
        return sent.decode()
    except UnicodeDecodeError:
        raise CustomerError(ErrorText.INCORRECT_REQUEST) from None


def _object(body: bytes) -> dict[str, str]:
    try:
        found = _json.decode(body)
    except (ValueError, ArithmeticError, RecursionError):  # msgspec's own are ValueErrors
        raise CustomerError(ErrorText.INCORRECT_REQUEST) from None
    read = {}
    for sent, value in found.items():
        name = sent.removesuffix("[]")  # as forms have lists
        try:
            read[name] = _text(name, value)
        except CustomerError:
            if name in NAMED:
                raise
    return read


def _text(name: str, value: Any) -> str:  # noqa: ANN401  # whatever JSON holds
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():  # no number: an order called true is not order 1
            return "true" if value else "false"
        case int():
            return str(value)
        case Decimal():
            return _digits(value)
        case list() if all(isinstance(one, str | int) for one in value):
            return _joined(name, [_text(name, one) for one in value])
    raise CustomerError(ErrorText.INCORRECT_REQUEST)


def _digits(value: Decimal) -> str:
    """Write a JSON number in digits: 100.0 is 100, and what would be too many stays as it came."""
    if abs(value.adjusted()) > MOST_DIGITS:
        return str(value)
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _joined(name: str, values: Iterable[str]) -> str:
    """Join a list as API v2 writes it: ids by commas, everything else line by line."""
    return ("," if name in IDS else "\n").join(values)


def _multipart(content_type: str, body: bytes) -> dict[str, str]:
    _, options = parse_options_header(content_type)
    reader = _Parts()
    try:
        parser = MultipartParser(options.get(b"boundary", b""), cast("Any", reader.callbacks()))
        parser.write(body)
        parser.finalize()
        pairs = [
            (name.decode(), value.decode()) for name, value in reader.parts if name is not None
        ]
    except (MultipartParseError, UnicodeDecodeError, ValueError):
        raise CustomerError(ErrorText.INCORRECT_REQUEST) from None
    if not reader.ended or len(pairs) > MOST:  # half an order is none
        raise CustomerError(ErrorText.INCORRECT_REQUEST)
    return _gathered(pairs)


class _Parts:
    """Collects the parts of a multipart body as (name, value)."""

    def __init__(self) -> None:
        self.parts: list[tuple[bytes | None, bytes]] = []
        self.ended = False
        self._field = b""
        self._content = b""
        self._name: bytes | None = None
        self._value: list[bytes] = []

    def callbacks(self) -> Mapping[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, a, b: self._header(field=data[a:b]),
            "on_header_value": lambda data, a, b: self._header(content=data[a:b]),
            "on_header_end": self._header_end,
            "on_part_data": lambda data, a, b: self._value.append(data[a:b]),
            "on_part_end": lambda: self.parts.append((self._name, b"".join(self._value))),
            "on_end": self._end,
        }

    def _end(self) -> None:
        self.ended = True

    def _begin(self) -> None:
        self._name, self._value = None, []

    def _header(self, *, field: bytes = b"", content: bytes = b"") -> None:
        self._field += field
        self._content += content

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, options = parse_options_header(self._content)
            self._name = options.get(b"name")
        self._field = self._content = b""
