"""What can go wrong between a panel and its callers, switched on by a link or by a request.

A fault is looked for before the panel acts and applied to what it then answers. ``Served`` says
how much of an answer goes out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
NOTICE = b"<br />\n<b>Notice</b>: Undefined index: link in <b>/var/www/api.php</b> on line 12<br />\n"


@dataclass(frozen=True)
class Served:
    """What goes out: ``None`` for a body is a connection that closes without a word.

    ``cut`` closes it after so many bytes; ``wait`` seconds pass before, for ever if infinite.
    """

    body: bytes | None
    status: int = 200
    cut: int | None = None
    wait: float = 0.0


ACTS_NOT = frozenset({"refuse", "drop-before", "500-before", "empty-list", "busy"})
"""With these the panel does not act; with all others it has, whatever its caller hears."""

WORDS = {
    "refuse": "Service is unavailable",
    "refuse-funds": "Not enough funds",
    "refuse-link": "Bad link",
    "refuse-active": (
        "You have active order with this link. Please wait until order being completed."
    ),
    "refuse-odd": "Supplier 17 said: kaboom (ref 99120)",
}
KINDS = frozenset(
    {
        "hang",
        "slow",
        "drop-before",
        "drop-after",
        "half",
        "502-after",
        "500-before",
        "html",
        "empty",
        "not-json",
        "bom",
        "notice",
        "wrong-types",
        "no-order",
        "null",
        "empty-list",
        "short-list",
        "as-printed",
        *WORDS,
    }
)


@dataclass
class Switch:
    """A fault that is on for an action, so many times."""

    action: str
    fault: str
    times: int
    seconds: float = 6.0


@dataclass
class Faults:
    """The switches of one panel."""

    switches: list[Switch] = field(default_factory=list)

    def on(self, form: Mapping[str, str]) -> Switch | None:
        """Return the fault that this call meets, and use it up once."""
        action = form.get("action", "")
        for switch in self.switches:
            if switch.action in (action, "*") and switch.times > 0:
                switch.times -= 1
                return switch
        target = form.get("link") or form.get("url") or form.get("username", "")
        if action == "add":
            for fault in sorted(KINDS, key=len, reverse=True):
                if f"fault={fault}" in target:
                    return Switch(action, fault, 0)
        return None


def serve(switch: Switch, body: bytes) -> Served:
    """Return what a caller gets instead of ``body``, which the panel has answered."""
    match switch.fault:
        case "hang":
            return Served(None, wait=float("inf"))
        case "slow":
            return Served(body, wait=switch.seconds)
        case "drop-before" | "drop-after":
            return Served(None)
        case "half":
            return Served(body, cut=len(body) // 2)
        case "502-after":
            return Served(HTML, 502)
        case "500-before":
            return Served(HTML.replace(b"502 Bad Gateway", b"500"), 500)
    return Served(_spoiled(switch.fault, body))


def _spoiled(fault: str, body: bytes) -> bytes:
    plain = {
        "html": HTML,
        "empty": b"",
        "not-json": b"{order: 17",
        "no-order": b'{"status":"success"}',
        "null": b"null",
        "empty-list": b"[]",
    }
    if fault in plain:
        return plain[fault]
    if fault == "bom":
        return b"\xef\xbb\xbf" + body
    return NOTICE + body if fault == "notice" else body
