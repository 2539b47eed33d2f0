"""What can go wrong between a panel and its callers: a table, and switches for it.

A fault is looked for before the panel acts and applied to what it then answers.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

HTML = b"<html><head><title>%s</title></head><body><center>nginx</center></body></html>"
NOTICE = b"<br />\n<b>Notice</b>: Undefined index: link in <b>api.php</b> on line 12<br />\n"


@dataclass(frozen=True)
class Served:
    """What goes out, after ``wait`` seconds (for ever, if infinite).

    ``None`` for a body is a connection that closes without a word; ``half`` closes it in the
    middle of the body.
    """

    body: bytes | None
    status: int = 200
    half: bool = False
    wait: float = 0.0


@dataclass(frozen=True)
class Fault:
    """One kind of trouble.

    Attributes:
        change: from what the panel answered to what its caller gets; ``None`` closes the line.
        acts: whether the panel does what it was asked, whatever its caller hears.
        wait: seconds before anything goes out, unless a switch says otherwise.

    """

    change: Callable[[bytes], bytes | None] = lambda body: body
    acts: bool = True
    status: int = 200
    half: bool = False
    wait: float = 0.0

    def serve(self, body: bytes, wait: float | None) -> Served:
        """Return what goes out instead of ``body``."""
        return Served(
            self.change(body), self.status, self.half, self.wait if wait is None else wait
        )


def _gone(_: bytes) -> None:
    """Close the line without a word."""


def _says(body: bytes) -> Callable[[bytes], bytes]:
    return lambda _: body


def _refuses(words: str) -> Fault:
    return Fault(_says(json.dumps({"error": words}).encode()), acts=False)


def _short(body: bytes) -> bytes:
    """Keep a quarter of a list."""
    answer = json.loads(body)
    return (
        json.dumps(answer[: len(answer) // 4 or 1]).encode() if isinstance(answer, list) else body
    )


def _wrong_types(body: bytes) -> bytes:
    return json.dumps(_other_types(json.loads(body))).encode()


def _other_types(value: object) -> object:
    """Return numbers as strings, digits as numbers, truth as 0 or 1, and no start count."""
    match value:
        case dict():
            return {
                name: None if name == "start_count" else _other_types(one)
                for name, one in value.items()
            }
        case list():
            return [_other_types(one) for one in value]
        case bool():
            return int(value)
        case int() | float():
            return str(value)
        case str() if value.removeprefix("-").replace(".", "", 1).isdecimal():
            return float(value) if "." in value else int(value)
    return value


FAULTS: Mapping[str, Fault] = {
    "hang": Fault(_gone, wait=math.inf),
    "slow": Fault(wait=6),
    "drop-before": Fault(_gone, acts=False),
    "drop-after": Fault(_gone),
    "half": Fault(half=True),
    "500-before": Fault(_says(HTML % b"500 Internal Server Error"), acts=False, status=500),
    "502-after": Fault(_says(HTML % b"502 Bad Gateway"), status=502),
    "html": Fault(_says(HTML % b"Under maintenance")),
    "empty": Fault(_says(b"")),
    "not-json": Fault(_says(b"{order: 17")),
    "null": Fault(_says(b"null")),
    "no-order": Fault(_says(b'{"status":"success"}')),
    "bom": Fault(lambda body: b"\xef\xbb\xbf" + body),
    "notice": Fault(lambda body: NOTICE + body),
    "wrong-types": Fault(_wrong_types),
    "as-printed": Fault(),  # the dialect knows how
    "empty-list": Fault(_says(b"[]"), acts=False),
    "short-list": Fault(_short),
    "refuse": _refuses("Service is unavailable"),
    "refuse-funds": _refuses("Not enough funds"),
    "refuse-link": _refuses("Bad link"),
    "refuse-active": _refuses(
        "You have active order with this link. Please wait until order being completed."
    ),
    "refuse-odd": _refuses("Supplier 17 said: kaboom (ref 99120)"),
}


@dataclass
class Switch:
    """A fault that is on for an action (``*``: for any), for so many calls."""

    action: str
    fault: str
    times: int = 1
    seconds: float | None = None


@dataclass
class Switches:
    """The switches of one panel; the oldest that fits is used first."""

    on: list[Switch] = field(default_factory=list)

    def meet(self, form: Mapping[str, str]) -> Switch | None:
        """Return the fault that this call meets, and use it up once."""
        action = form.get("action", "")
        for switch in self.on:
            if switch.action in (action, "*"):
                switch.times -= 1
                if not switch.times:
                    self.on.remove(switch)
                return switch
        if action != "add":
            return None
        target = form.get("link") or form.get("url") or form.get("username", "")
        named = [name for name in FAULTS if f"fault={name}" in target]
        # ``refuse`` is the beginning of ``refuse-funds``.
        return Switch(action, max(named, key=len)) if named else None
