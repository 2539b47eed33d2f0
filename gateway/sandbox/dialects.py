"""How each of the five takes calls and words answers, from its own documentation.

``Dialect`` is what smmai.net and smm1st.com document; the others say where they differ.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from gateway.sandbox.catalog import Row
from gateway.sandbox.panel import Order, Panel, Refused, State

Json = Any
Form = Mapping[str, str]
MOST = 100
"""Ids that one call may carry, where a panel takes several."""


class Dialect:
    """smmai.net, smm1st.com."""

    currency = "USD"
    link = "link"
    words: Mapping[str, str] = {
        "pending": "Pending",
        "processing": "Processing",
        "in progress": "In progress",
        "completed": "Completed",
        "partial": "Partial",
        "canceled": "Canceled",
        "active": "Active",
        "odd": "Quality check",
    }

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.actions: dict[str, Callable[[Form], Json]] = {
            "services": self.services,
            "add": self.add,
            "status": self.status,
            "refill": self.refill,
            "refill_status": self.refill_status,
            "cancel": self.cancel,
            "balance": self.balance,
        }

    def answer(self, form: Form) -> Json:
        """Return the JSON that the panel answers to a call with a right key."""
        action = self.actions.get(form.get("action", ""))
        try:
            if action is None:
                raise Refused("Incorrect request")  # noqa: TRY301
            return action(form)
        except Refused as refused:
            return {"error": str(refused)}

    def services(self, _: Form) -> Json:
        return [self.row(row) for row in self.panel.rows.values()]

    def row(self, row: Row) -> Json:
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

    def add(self, form: Form) -> Json:
        params = {name: value for name, value in form.items() if name not in ("key", "action")}
        if self.link != "link":
            params.pop("link", None)  # it knows no such parameter
            if self.link in params:
                params["link"] = params.pop(self.link)
        return {"order": self.panel.add(params).id}

    def status(self, form: Form) -> Json:
        if "orders" not in form:
            return self.status_row(self.panel.order(_one(form, "order")))
        return {text: self._row_or_error(text) for text in _many(form, "orders")}

    def _row_or_error(self, text: str) -> Json:
        try:
            return self.status_row(self.panel.order(text))
        except Refused as refused:
            return self.status_error(str(refused))

    def status_error(self, words: str) -> Json:
        """Return the row of an id that is not ours."""
        return {"error": words}

    def status_row(self, order: Order) -> Json:
        """Return an order's status: five fields, as strings."""
        state = order.state(self.panel.clock())
        row = {
            "charge": plain(self.panel.charge(order)),
            "start_count": str(order.start_count if state.word != "pending" else 0),
            "status": self.words[state.word],
            "remains": str(self.remains(order, state)),
            "currency": self.currency,
        }
        if order.row.type == "Subscriptions":
            row["posts"] = state.done
        elif order.runs > 1:
            row["runs"] = runs_done(order, state)
        return row

    @staticmethod
    def remains(order: Order, state: State) -> int:
        """Return what is left to deliver."""
        if order.row.type == "Subscriptions":
            return 0
        return 0 if state.word == "canceled" else order.size - state.done

    def refill(self, form: Form) -> Json:
        if "orders" not in form:
            return {"refill": str(self.panel.refill(_one(form, "order")).id)}
        return [
            {"order": _id(text), "refill": self._try(lambda one: self.panel.refill(one).id, text)}
            for text in _many(form, "orders")
        ]

    def refill_status(self, form: Form) -> Json:
        if "refills" not in form:
            return {"status": self.panel.refill_word(_one(form, "refill"))}
        return [
            {"refill": _id(text), "status": self._try(self.panel.refill_word, text)}
            for text in _many(form, "refills")
        ]

    def cancel(self, form: Form) -> Json:
        return [
            {"order": _id(text), "cancel": self._try(self._canceled, text)}
            for text in _many(form, "orders")
        ]

    def _canceled(self, text: str) -> int:
        self.panel.cancel(text)
        return 1

    @staticmethod
    def _try(act: Callable[[str], Json], text: str) -> Json:
        try:
            return act(text)
        except Refused as refused:
            return {"error": str(refused)}

    def balance(self, _: Form) -> Json:
        return {"balance": plain(self.panel.balance()), "currency": self.currency}

    def as_printed(self, _form: Form, text: str) -> str:
        """Return an answer as the documentation prints it, where that is no valid JSON."""
        return text


class SmmPanelIn(Dialect):
    """smm-panel.in: rupees, ``Cancelled``, cancels as objects, refill statuses as one-key maps."""

    currency = "INR"
    words = Dialect.words | {"canceled": "Cancelled"}

    def status_row(self, order: Order) -> Json:
        row = super().status_row(order)
        # An order that it gave up on by itself is Refunded, one that was asked for is Cancelled.
        if row["status"] == "Cancelled" and order.canceled_at is None:
            row["status"] = "Refunded"
        return row

    def refill(self, form: Form) -> Json:
        if "orders" not in form:
            return {"refill": self.panel.refill(_one(form, "order")).id}
        return super().refill(form)

    def refill_status(self, form: Form) -> Json:
        if "refills" not in form:
            return super().refill_status(form)
        rows = []
        for text in _many(form, "refills"):
            said = self._try(self.panel.refill_word, text)
            rows.append({text: said if isinstance(said, dict) else {"status": said}})
        return rows

    def cancel(self, form: Form) -> Json:
        rows = []
        for text in _many(form, "orders"):
            said = self._try(self._canceled, text)
            cancel = {"status": False, **said} if isinstance(said, dict) else {"status": True}
            rows.append({"order": _id(text), "cancel": cancel})
        return rows


class Instasmm(Dialect):
    """instasmm.in: ``url``, one order a call for refill and cancel, answered by a sentence."""

    link = "url"

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        del self.actions["refill_status"]

    def row(self, row: Row) -> Json:
        listed = super().row(row)
        del listed["refill"], listed["cancel"]
        return listed

    def add(self, form: Form) -> Json:
        if not form.get("quantity"):
            raise Refused("Incorrect request")
        try:
            return super().add(form)
        except Refused as refused:
            if str(refused) == "Invalid service ID":
                raise Refused("incorrect service type") from None
            raise

    def refill(self, form: Form) -> Json:
        self.panel.refill(_one(form, "order"))
        words = "Your order successfully added for refill. Thank you for patience."
        return {"status": "Success", "message": words}

    def cancel(self, form: Form) -> Json:
        self.panel.cancel(_one(form, "order"))
        words = "Your order was successfully marked for cancellation. Thank you for patience."
        return {"status": "Success", "message": words}

    def balance(self, _: Form) -> Json:
        return {"balance": Number(plain(self.panel.balance())), "currency": self.currency}

    def as_printed(self, _form: Form, text: str) -> str:
        return text.replace('"Success"', "Success").replace(
            f'"currency": "{self.currency}"}}', f'"currency": "{self.currency}",\n}}'
        )


class Smmproxy(Dialect):
    """smmproxy.com: descriptions and drip-feed flags, one order a call for refill and cancel."""

    words = Dialect.words | {"in progress": "In Progress"}

    def row(self, row: Row) -> Json:
        listed = super().row(row)
        flags = {name: listed.pop(name) for name in ("refill", "cancel")}
        return {**listed, "desc": row.desc, **flags, "dripfeed": row.dripfeed}

    def status_error(self, words: str) -> Json:
        return {"error": words, "status": "104"}

    def status_row(self, order: Order) -> Json:
        row = super().status_row(order)
        for name in ("posts", "runs"):
            if name in row:
                return {"status": row["status"], name: row[name]}
        return row

    def refill(self, form: Form) -> Json:
        refill = self.panel.refill(_one(form, "order"))
        words = "Refill has been placed successfully!"
        return {"refill": str(refill.id), "status": 200, "message": words}

    def refill_status(self, form: Form) -> Json:
        return {"status": self.panel.refill_word(_one(form, "refill"))}

    def cancel(self, form: Form) -> Json:
        self.panel.cancel(_one(form, "order"))
        words = "Cancellation request added, we'll try our best to cancel it."
        return {"status": "success", "message": words}

    def as_printed(self, form: Form, text: str) -> str:
        return text.replace(', "dripfeed"', ' "dripfeed"') if form["action"] == "services" else text


DIALECTS: dict[str, type[Dialect]] = {
    "smm-panel.in": SmmPanelIn,
    "instasmm": Instasmm,
    "smmproxy": Smmproxy,
    "smmai": Dialect,
    "smm1st": Dialect,
}


class Number(str):
    """Digits that stand in JSON as a number, exactly as they are."""

    __slots__ = ()


def runs_done(order: Order, state: State) -> int:
    """Return how many of a drip-feed's runs are done."""
    return min(state.done * order.runs // order.size, order.runs)


def plain(amount: Decimal) -> str:
    """Write an amount without an exponent and without idle zeros."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _id(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


def _one(form: Form, name: str) -> str:
    if not form.get(name):
        raise Refused("Incorrect request")
    return form[name]


def _many(form: Form, name: str) -> list[str]:
    ids = [text.strip() for text in _one(form, name).split(",") if text.strip()]
    if not ids or len(ids) > MOST:
        raise Refused("Incorrect request")
    return ids
