"""How each of the five takes calls and words answers, from its own documentation.

``Dialect`` is what smmai.net documents, and smm1st.com as far as it says; the others say where
they differ. Where a page is silent, the answer is what panels of the kind are known to give, and
``README.md`` lists it.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal

import msgspec

from gateway.sandbox.catalog import SUBSCRIPTIONS, Row
from gateway.sandbox.courses import State
from gateway.sandbox.panel import DELAYS, Order, Panel, Refused, plain

Form = Mapping[str, str]
MOST = 100
"""Ids that one call may carry, where a panel takes several."""
_ENCODER = msgspec.json.Encoder(decimal_format="number")


class Dialect:
    """smmai.net, smm1st.com.

    Attributes:
        link: how the parameter with the target is called.
        lacks: actions that the panel does not have.
        delays: minutes that a subscription may ask for.
        misprints: by action, what stands in valid JSON, as a pattern, and what the documentation
            prints instead.
        words: how each status is spelled.

    """

    link = "link"
    lacks: frozenset[str] = frozenset()
    delays: frozenset[int] = DELAYS
    misprints: Mapping[str, Mapping[str, str]] = {}
    words: Mapping[str, str] = {
        "pending": "Pending",
        "processing": "Processing",
        "in progress": "In progress",
        "completed": "Completed",
        "partial": "Partial",
        "canceled": "Canceled",
        "active": "Active",
        "paused": "Paused",
        "expired": "Expired",
        "odd": "Quality check",
    }

    def __init__(self, panel: Panel, currency: str) -> None:
        self.panel = panel
        self.currency = currency
        actions: dict[str, Callable[[Form], object]] = {
            "services": self.services,
            "add": self.add,
            "status": self.status,
            "refill": self.refill,
            "refill_status": self.refill_status,
            "cancel": self.cancel,
            "balance": self.balance,
        }
        self._actions = {name: act for name, act in actions.items() if name not in self.lacks}

    def answer(self, form: Form) -> bytes:
        """Return the JSON that the panel answers to a call with a right key."""
        action = self._actions.get(form.get("action", ""))
        if action is None:
            return encode({"error": "Incorrect request"})
        return encode(_or_error(action, form))

    def services(self, _: Form) -> list[dict[str, object]]:
        """Return the whole list."""
        return [self.row(row) for row in self.panel.rows.values()]

    def row(self, row: Row) -> dict[str, object]:
        """Return a service as the list shows it."""
        return {
            "service": row.id,
            "name": row.name,
            "type": row.type,
            "category": row.category,
            "rate": str(row.rate),
            "min": str(row.min),
            "max": str(row.max),
            "refill": row.refill,
            "cancel": row.cancel,
        }

    def add(self, form: Form) -> object:
        """Take an order; the id is a number."""
        params = {name: text for name, text in form.items() if name not in ("key", "action")}
        if self.link != "link":
            params.pop("link", None)  # it knows no such parameter
            if self.link in params:
                params["link"] = params.pop(self.link)
        return {"order": self.panel.add(params).id}

    def status(self, form: Form) -> object:
        """Answer for one order, or for many by their ids."""
        if "orders" not in form:
            return self.status_row(_one(form, "order"))
        return {text: self.status_of_many(text) for text in _many(form, "orders")}

    def status_row(self, text: str) -> dict[str, object]:
        """Return an order's status: five fields, as strings."""
        order = self.panel.order(text)
        state = order.state(self.panel.clock())
        row: dict[str, object] = {
            "charge": plain(self.panel.charge(order)),
            "start_count": "0" if state.word == "pending" else str(order.start_count),
            "status": self.words[state.word],
            "remains": str(_remains(order, state)),
            "currency": self.currency,
        }
        if order.row.type == SUBSCRIPTIONS:
            row["posts"] = state.done
        elif order.runs > 1:
            row["runs"] = min(state.done * order.runs // order.size, order.runs)
        return row

    def status_of_many(self, text: str) -> object:
        """Return an order's status, or an error, as a row of many."""
        return _or_error(self.status_row, text)

    def refill(self, form: Form) -> object:
        """Take refills: the id of one is a string, those of many are numbers."""
        if "orders" not in form:
            return {"refill": str(self.panel.refill(_one(form, "order")).id)}
        return self.refills(form)

    def refills(self, form: Form) -> object:
        """Take many refills, each with its own outcome."""
        return [
            {"order": _id(text), "refill": _or_error(lambda one: self.panel.refill(one).id, text)}
            for text in _many(form, "orders")
        ]

    def refill_status(self, form: Form) -> object:
        """Answer for one refill, or for a list of many."""
        if "refills" not in form:
            return {"status": self.panel.refill_word(_one(form, "refill"))}
        return [
            {"refill": _id(text), "status": _or_error(self.panel.refill_word, text)}
            for text in _many(form, "refills")
        ]

    def cancel(self, form: Form) -> object:
        """Take cancels, each with its own outcome: 1 or an error."""
        return [
            {"order": _id(text), "cancel": _or_error(self._canceled, text)}
            for text in _many(form, "orders")
        ]

    def _canceled(self, text: str) -> int:
        self.panel.cancel(text)
        return 1

    def balance(self, _: Form) -> object:
        """Return what is left on the account, as a string."""
        return {"balance": plain(self.panel.balance()), "currency": self.currency}

    def as_printed(self, form: Form) -> bytes:
        """Return the answer as the documentation prints it, which is not always valid JSON."""
        text = msgspec.json.format(self.answer(form), indent=2).decode()
        for valid, printed in self.misprints.get(form.get("action", ""), {}).items():
            text = re.sub(valid, printed, text)
        return text.encode()


class SmmPanelIn(Dialect):
    """smm-panel.in: rupees, ``Cancelled``, cancels as objects, refill statuses as one-key maps."""

    words: Mapping[str, str] = {**Dialect.words, "canceled": "Cancelled"}

    def status_row(self, text: str) -> dict[str, object]:
        """Say Refunded of an order that it gave up by itself; Cancelled was asked for."""
        row = super().status_row(text)
        if row["status"] == "Cancelled" and self.panel.order(text).canceled_at is None:
            row["status"] = "Refunded"
        return row

    def refill(self, form: Form) -> object:
        """Take refills: all ids are numbers."""
        if "orders" not in form:
            return {"refill": self.panel.refill(_one(form, "order")).id}
        return self.refills(form)

    def refill_status(self, form: Form) -> object:
        """Answer for one refill, or for many: each a map of its id alone."""
        if "refills" not in form:
            return super().refill_status(form)
        return [{text: _or_error(self._refill_row, text)} for text in _many(form, "refills")]

    def _refill_row(self, text: str) -> object:
        return {"status": self.panel.refill_word(text)}

    def cancel(self, form: Form) -> object:
        """Take cancels, each with its own outcome: an object with true or false."""
        return [
            {"order": _id(text), "cancel": self._cancel_row(text)} for text in _many(form, "orders")
        ]

    def _cancel_row(self, text: str) -> object:
        try:
            self.panel.cancel(text)
        except Refused as refused:
            return {"status": False, "error": str(refused)}
        return {"status": True}


class Instasmm(Dialect):
    """instasmm.in: ``url``, one order a call for refill and cancel, answered by a sentence."""

    link = "url"
    lacks = frozenset({"refill_status"})
    misprints: Mapping[str, Mapping[str, str]] = {
        "refill": {'"Success"': "Success"},
        "cancel": {'"Success"': "Success"},
        "balance": {r'("currency": "\w+")': r"\1,"},
    }

    def row(self, row: Row) -> dict[str, object]:
        """Return a service without flags."""
        listed = super().row(row)
        del listed["refill"], listed["cancel"]
        return listed

    def add(self, form: Form) -> object:
        """Take an order; the quantity is wanted for every type."""
        if not form.get("quantity"):
            raise Refused("Incorrect request")
        try:
            return super().add(form)
        except Refused as refused:
            if str(refused) == "Invalid service ID":
                raise Refused("incorrect service type") from None
            raise

    def refill(self, form: Form) -> object:
        """Take a refill, and give it no id."""
        self.panel.refill(_one(form, "order"))
        words = "Your order successfully added for refill. Thank you for patience."
        return {"status": "Success", "message": words}

    def cancel(self, form: Form) -> object:
        """Take a cancel."""
        self.panel.cancel(_one(form, "order"))
        words = "Your order was successfully marked for cancellation. Thank you for patience."
        return {"status": "Success", "message": words}

    def balance(self, _: Form) -> object:
        """Return what is left on the account, as a number."""
        return {"balance": Decimal(plain(self.panel.balance())), "currency": self.currency}


class Smmproxy(Dialect):
    """smmproxy.com: descriptions and drip-feed flags, one order a call for refill and cancel."""

    words: Mapping[str, str] = {**Dialect.words, "in progress": "In Progress"}
    misprints: Mapping[str, Mapping[str, str]] = {"services": {r',(\s*"dripfeed")': r"\1"}}

    def row(self, row: Row) -> dict[str, object]:
        """Return a service with its description and all flags."""
        listed = super().row(row)
        flags = {name: listed.pop(name) for name in ("refill", "cancel")}
        return {**listed, "desc": row.desc, **flags, "dripfeed": row.dripfeed}

    def status_row(self, text: str) -> dict[str, object]:
        """Return a status; subscriptions and drip-feeds have but two fields."""
        row = super().status_row(text)
        for name in ("posts", "runs"):
            if name in row:
                return {"status": row["status"], name: row[name]}
        return row

    def status_of_many(self, text: str) -> object:
        """Return a row of many; an error has a code beside it."""
        try:
            return self.status_row(text)
        except Refused as refused:
            return {"error": str(refused), "status": "104"}

    def refill(self, form: Form) -> object:
        """Take a refill: its id is a string, beside a number and a sentence."""
        refill = self.panel.refill(_one(form, "order"))
        words = "Refill has been placed successfully!"
        return {"refill": str(refill.id), "status": 200, "message": words}

    def refill_status(self, form: Form) -> object:
        """Answer for one refill."""
        return {"status": self.panel.refill_word(_one(form, "refill"))}

    def cancel(self, form: Form) -> object:
        """Take a cancel."""
        self.panel.cancel(_one(form, "order"))
        words = "Cancellation request added, we'll try our best to cancel it."
        return {"status": "success", "message": words}


class Smmai(Dialect):
    """smmai.net: a subscription's delay is one of a list."""

    delays = frozenset(
        {0, 5, 10, 15, 20, 30, 40, 50, 60, 90}
        | {120, 150, 180, 210, 240, 270, 300, 360, 420, 480, 540, 600}
    )


DIALECTS: Mapping[str, type[Dialect]] = {
    "smm-panel.in": SmmPanelIn,
    "instasmm": Instasmm,
    "smmproxy": Smmproxy,
    "smmai": Smmai,
    "smm1st": Dialect,
}


def encode(answer: object) -> bytes:
    """Write JSON as PHP does, without idle spaces; a ``Decimal`` is a number to its last digit."""
    return _ENCODER.encode(answer)


def _remains(order: Order, state: State) -> int:
    """Return what is left to deliver; nothing will be, of an order that is canceled."""
    idle = order.row.type == SUBSCRIPTIONS or state.word == "canceled"
    return 0 if idle else order.size - state.done


def _or_error(act: Callable[..., object], asked: object) -> object:
    try:
        return act(asked)
    except Refused as refused:
        return {"error": str(refused)}


def _id(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < MOST else text


def _one(form: Form, name: str) -> str:
    if not form.get(name):
        raise Refused("Incorrect request")
    return form[name]


def _many(form: Form, name: str) -> list[str]:
    ids = [text.strip() for text in form[name].split(",") if text.strip()] if name in form else []
    if not 1 <= len(ids) <= MOST:
        raise Refused("Incorrect request")
    return ids
