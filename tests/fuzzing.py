"""Chance that can be repeated, and what it makes: bytes, words and JSON that nobody should send.

Everything is drawn from a ``Random`` that is passed in and was made from a seed and a number, so
that one input can be made again without those before it. Two environment variables are read:

``GATEWAY_FUZZ``
    how many inputs the readers of providers' answers get, together; the endpoint gets a fiftieth
    of it. What the suite does by itself takes about twenty seconds.
``GATEWAY_FUZZ_SEED``
    another seed than 1; ``SEED/NUMBER`` makes that one input alone, as a failure prints it.
"""

import os
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

SEED, _, _NUMBER = os.environ.get("GATEWAY_FUZZ_SEED", "1").partition("/")
ONLY = int(_NUMBER) if _NUMBER else None
"""The one input to be made; ``None``: all of them."""


def inputs(usual: int, *, of: int) -> int:
    """Return how many inputs a test makes that gets one part ``of`` so many of all."""
    wanted = os.environ.get("GATEWAY_FUZZ")
    return usual if wanted is None else -(-int(wanted) // of)


def numbers(count: int) -> Iterator[int]:
    """Yield the number of each input to be made."""
    return iter(range(count) if ONLY is None else (ONLY,))


def chance(name: str, number: int) -> Random:
    """Return the chance of one input."""
    return Random(f"{SEED}/{name}/{number}")


def replay(name: str, number: int, shown: str) -> str:
    """Return what a failure prints: how to make the same input again, and what it is.

    Where the inputs before it matter, as to the endpoint, the same seed makes all of them again.
    """
    return f"{name}: GATEWAY_FUZZ_SEED={SEED}/{number} makes it again\n{shown}"


# --- bytes --------------------------------------------------------------------------------------

NOTICE = b"<br />\n<b>Notice</b>: Undefined index: [api] in {x.php} on line <b>3</b><br />\n"
_BETWEEN = (
    *(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe2\x80\xa8"),
    *(b"\x00", b"\xef\xbb\xbf", NOTICE, b"\n", b"\r", b"\t", b"\x1b", b"\x01", b"\\", b'"'),
)


def garbled(body: bytes, rng: Random) -> bytes:
    """Return bytes with some flipped, cut, doubled, moved or slipped in between."""
    for _ in range(1 + rng.randrange(3)):
        at = rng.randrange(len(body) + 1)
        cut = min(len(body) - at, 1 + int(rng.expovariate(0.1)))
        body = rng.choice(_DAMAGES)(body[:at], body[at : at + cut], body[at + cut :], rng)
    return body


def _slipped(before: bytes, here: bytes, after: bytes, rng: Random) -> bytes:
    return before + rng.choice(_BETWEEN) + here + after


_DAMAGES: tuple[Callable[[bytes, bytes, bytes, Random], bytes], ...] = (
    lambda before, _here, _after, _: before,
    lambda before, _here, after, _: before + after,
    lambda before, here, after, _: before + here + here + after,
    lambda before, here, after, _: here + after + before,
    lambda before, here, after, rng: before + rng.randbytes(len(here)) + after,
    lambda before, here, after, _: before + here.swapcase() + after,
    lambda before, here, after, rng: before + _flipped(here[:1], rng) + here[1:] + after,
    *[_slipped] * 3,
)


def _flipped(byte: bytes, rng: Random) -> bytes:
    return bytes(one ^ (1 << rng.randrange(8)) for one in byte)


# --- words --------------------------------------------------------------------------------------

NUMBERS = (
    *("0", "1", "-1", "-0", "+1", "01", "1.0", "1.5", "1e3", "1E+2", "0x10", "1_000", "1,000"),
    *("100", "1000", "50", "10000", "10001", "2147483647", "2147483648", "4294967296"),
    *("999999999999", "1000000000000", "999999999999999", "9223372036854775807"),
    *("9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" * 40),
    *("9" * 400, "1e999", "-1e999", "1e-999", "1E+999999999", "NaN", "Infinity", "-inf", "0.1"),
    *("26.879999999999999", "0.000000000000000000001", "9223372036854.775807", "$0.9", "1,20"),
    *(
        "٣",
        "１２",
        "١٠٠",
        "5०",
        "²",
        "Ⅷ",
        "1\u200b",
        "\u00a01",
        " 1 ",
        "1\n",
        "1 000",
        "1;2",
        "1|2",
        "--1",
    ),
)
"""Numbers, and what somebody or other might take for one."""

NASTY = (
    *("", " ", "\n", "\t", "null", "None", "undefined", "true", "false", "[]", "{}", "[object]"),
    *("nan", "error", "Error", "success", "ok", "0", "-", ".", ",", "/", "'", '"', "\\", "%00"),
    *("%", "%2", "%zz", "&", "=", ";", "<b>", "' OR 1=1 --", "${KEY}", "{{7*7}}", "../../x"),
    *("\x00", "a\x00b", "\x00\x00", "\x7f", "\x1b[31m", "\r\nX: y", "\u202e", "\ufeff1", "ﬁ"),
    *("😀", "a" * 64, "a" * 65, "x" * 600, "é" * 255, "İ", "\u2028", "ß", "Ω" * 100, "\U0010ffff"),
)
"""Texts that mean something to some program between here and there."""


def number(rng: Random) -> str:
    """Return something like a number."""
    if rng.random() < 0.5:
        return rng.choice(NUMBERS)
    return str(rng.randrange(-3, 12) * 10 ** rng.randrange(20))


def word(rng: Random) -> str:
    """Return a text, often a nasty one."""
    draw = rng.random()
    if draw < 0.4:
        return rng.choice(NASTY)
    if draw < 0.6:
        return number(rng)
    if draw < 0.7:
        return rng.choice(NASTY) + rng.choice(NASTY)
    return "".join(chr(rng.choice(_PLANES) + rng.randrange(128)) for _ in range(rng.randrange(12)))


_PLANES = (0x00, 0x00, 0x00, 0x80, 0x600, 0x2000, 0xFF00, 0x1F600)  # never a surrogate's

# --- JSON ---------------------------------------------------------------------------------------

VALUES = (
    *("null", "true", "false", "0", "1", "-1", "-0", "-0.0", "1e999", "-1e999", "1e-999", "1e15"),
    *("1E+999999999", "1E-999999999", "0e999999", "9" * 25, "-" + "9" * 400, "0.1", "1.5", "1e3"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551616"),
    *("999999999999999", "1000000000000000", "9223372036854.775807", "9223372036854.775808"),
    *("26.879999999999999", "1.0000000000000000000000001", "0." + "0" * 50 + "1", "2147483648"),
    *(
        '""',
        '" "',
        '"\\u0000"',
        '"a\\u0000b"',
        '"\\ud83d\\ude00"',
        '"1e999"',
        '"NaN"',
        '"٣"',
        '"1,20"',
    ),
    *(
        "[]",
        "{}",
        "[[]]",
        "[null]",
        "[{}]",
        '{"":""}',
        '{"error":""}',
        '{"error":null}',
        '{"a":{}}',
    ),
    *('{"error":"Incorrect order ID"}', '{"error":{"message":"x"}}', '{"error":[0]}', "[1,[2]]"),
    *("[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, '{"error":' * 99 + "1" + "}" * 99),
    *('"' + "x" * 600 + '"', '"' + "\\u00e9" * 300 + '"', '"' + "1" * 65 + '"'),
)
"""JSON that may stand where another value should."""

TORN = (
    *("NaN", "Infinity", "-Infinity", "nan", "undefined", "Success", "01", "1.", ".5", "+1", "0x1"),
    *("1E+99999999999999999999", "9" * 5000, "[" * 3000, '{"order":' * 3000, "1 2", "1,", ""),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\x"', '"\x00"', '"\n"', "'a'"),
)
"""What stands there and is no JSON, or none that can be read."""


class Wilds:
    """Writes JSON as text, and takes liberties.

    Args:
        words: the names and the texts of the protocol, for whatever is made up.

    """

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words

    def changed(self, value: Any, rng: Random) -> bytes:
        """Return a JSON value as bytes, with a change here and there."""
        odds = rng.choice((0.02, 0.05, 0.15, 0.4))
        parts: list[str] = []
        self._write(value, rng, odds, parts)
        return "".join(parts).encode(errors="surrogatepass")

    def invented(self, rng: Random) -> bytes:
        """Return a JSON value of nobody's, as bytes."""
        return self.changed(self.tree(rng, 4), rng)

    def tree(self, rng: Random, depth: int) -> Any:
        """Return a value that is nested up to this deep."""
        draw = rng.random()
        if not depth or draw < 0.3:
            return self._leaf(rng)
        if draw < 0.5:
            return [self.tree(rng, depth - 1) for _ in range(rng.randrange(4))]
        return {self.name(rng): self.tree(rng, depth - 1) for _ in range(rng.randrange(1, 6))}

    def name(self, rng: Random) -> str:
        """Return a name or a text, most often one of the protocol's."""
        return rng.choice(self._words) if rng.random() < 0.9 else word(rng)

    def _leaf(self, rng: Random) -> Any:
        draw = rng.random()
        if draw < 0.4:
            return self.name(rng)
        if draw < 0.6:
            return rng.randrange(4)
        return rng.choice((None, True, False, rng.randrange(-(2**70), 2**70), number(rng)))

    def _write(self, value: Any, rng: Random, odds: float, parts: list[str]) -> None:
        draw = rng.random()
        if draw < odds:
            parts.append(self._instead(value, rng))
        elif isinstance(value, dict):
            self._write_map(value, rng, odds, parts)
        elif isinstance(value, list):
            parts.append("[")
            for at, one in enumerate(_shuffled(value, rng, odds)):
                parts.append("," if at else "")
                self._write(one, rng, odds, parts)
            parts.append("]")
        else:
            parts.append(_scalar(value))

    def _write_map(self, value: dict[str, Any], rng: Random, odds: float, parts: list[str]) -> None:
        parts.append("{")
        for at, (key, one) in enumerate(_shuffled(list(value.items()), rng, odds)):
            name = self.name(rng) if rng.random() < odds / 2 else key
            parts.append(f"{',' if at else ''}{_quoted(name)}:")
            self._write(one, rng, odds, parts)
        parts.append("}")

    def _instead(self, value: Any, rng: Random) -> str:
        """Return what stands in a value's place: another kind of thing, or the same in disguise."""
        match rng.randrange(5):
            case 0:
                return _quoted(str(value)[:200])
            case 1:
                return _quoted(number(rng))
            case 2:
                return _quoted(self.name(rng))
            case _:
                return rng.choice(TORN if rng.random() < 0.1 else VALUES)


def _shuffled(entries: list[Any], rng: Random, odds: float) -> list[Any]:
    """Return entries with one left out, said twice or moved, now and then."""
    if entries and rng.random() < odds:
        entries = list(entries)
        match rng.randrange(3):
            case 0:
                entries.pop(rng.randrange(len(entries)))
            case 1:
                entries.append(rng.choice(entries))
            case _:
                rng.shuffle(entries)
    return entries


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


_ESCAPES = str.maketrans(
    {'"': '\\"', "\\": "\\\\"} | {chr(code): f"\\u{code:04x}" for code in range(32)}
)


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'
