"""The common dialect of API v2, and the base of every adapter.

An adapter is pure: it *writes* a call as form fields and *reads* an answer as model objects. It has
no connection, clock, key or state. What a provider does differently in what we send is declared in
class attributes; only ``read_<action>`` is ever overridden, for what it answers differently.

The readers take every shape that panels of this family are known to answer with, as long as it
can mean only one thing. Three rules hold for all of them: an ``error`` is looked for before
anything else; a status is never guessed; and what cannot be read raises ``Indeterminate``, since
somebody may have acted on the call.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, TypeVar

from gateway.adapters import shapes, wild
from gateway.adapters.wild import Wild
from gateway.adapters.words import (
    ENVELOPE,
    REFILL_STATUSES,
    STATUSES,
    TOLD,
    Row,
    classify,
    folded,
    refuses,
)
from gateway.errors import ErrorText, Fault, Indeterminate, Unsupported
from gateway.model import Action, Call, Offer, RefillStatus, Refusal, Report, Status
from gateway.money import Money

__all__ = ["ApiV2", "Repair", "Wild"]

T = TypeVar("T")
Repair = tuple[re.Pattern[str], str]
"""What is wrong with a documented answer, and what stands there instead."""

ACTS = frozenset({Action.ADD, Action.REFILL, Action.CANCEL})
"""Calls that change something; the rest only read, and may be asked again."""

WORDS = 500
"""How much of a provider's own text is kept."""

_SERVER_ERROR = 500
_CLIENT_ERROR = 400
_CURRENCY = re.compile(r"[A-Z][A-Z0-9]{2,9}")
_LONGEST_WORD = 64


class ApiV2:
    """The common dialect.

    Attributes:
        name: as in ``providers.yaml``.
        actions: those it has.
        batch: ids that one call may carry; absent or 1 means the singular parameter.
        renames: our field: theirs.
        statuses: spellings beside ``words.STATUSES``, by folded word.
        currency: what its amounts are in where it does not say.
        repairs: tried in turn, and only when an answer to that action is not JSON; never declared
            for ``add``, whose unreadable answers are unknown outcomes.
        delays: the only delays of a subscription that it takes; one between is rounded up.
        quantity_always: it wants ``quantity`` beside every link.
        refusals: what its own error texts mean, where ``words.REFUSALS`` would not know.

    """

    name: ClassVar[str] = "api_v2"
    actions: frozenset[Action] = frozenset(Action)
    batch: Mapping[Action, int] = {
        Action.STATUS: 100,
        Action.REFILL: 100,
        Action.REFILL_STATUS: 100,
        Action.CANCEL: 100,
    }
    renames: Mapping[str, str] = {}
    statuses: Mapping[str, Status] = {}
    currency: str = "USD"
    repairs: Mapping[Action, tuple[Repair, ...]] = {}
    delays: tuple[int, ...] = ()
    quantity_always: bool = False
    refusals: tuple[Row, ...] = ()

    def __init__(
        self,
        *,
        currency: str = "",
        rename: Mapping[str, str] = {},
        batch: Mapping[Action, int] = {},
        without: Iterable[Action] = (),
        refusals: Mapping[str, Fault] = {},
    ) -> None:
        """Lay the owner's ``dialect:`` over what the class declares."""
        self.currency = currency or self.currency
        self.renames = {**self.renames, **rename}
        self.batch = {**self.batch, **batch}
        self.actions = self.actions.difference(without)
        own = [(fault, TOLD[fault], folded(text).strip()) for text, fault in refusals.items()]
        self.refusals = (*own, *self.refusals)

    # --- writing ------------------------------------------------------------------------------

    def write(self, call: Call) -> dict[str, str]:
        """Return the form fields of a call, without the key.

        Raises:
            Unsupported: the dialect has no words for it.

        """
        if call.action not in self.actions:
            raise Unsupported(f"{self.name} has no {call.action}")
        fields = {"action": call.action.value}
        if call.action is Action.ADD:
            fields |= self._order(call)
        elif call.action not in {Action.SERVICES, Action.BALANCE}:
            fields |= self._ids(call)
        return {self.renames.get(field, field): value for field, value in fields.items()}

    def _order(self, call: Call) -> dict[str, str]:
        if not call.service:
            raise Unsupported("an order without a service")
        params = {name: value for name, value in call.params.items() if value}
        if self.quantity_always and "link" in params and call.size:
            params.setdefault("quantity", str(call.size))
        if self.delays and "delay" in params:
            params["delay"] = self._delay(params["delay"])
        return {"service": call.service, **params}

    def _delay(self, wanted: str) -> str:
        minutes = wild.whole(wanted)
        for delay in self.delays:
            if minutes is not None and minutes <= delay:
                return str(delay)
        raise Unsupported(f"{self.name} takes delays up to {self.delays[-1]}, not {wanted!r}")

    def _ids(self, call: Call) -> dict[str, str]:
        most = self.batch.get(call.action, 1)
        if not 1 <= len(call.ids) <= max(most, 1):
            raise Unsupported(f"{self.name} takes {most} ids a {call.action}, not {len(call.ids)}")
        name = shapes.subject(call.action)
        # API v2 documents no single ``cancel``: where it takes several, one is a list of one.
        if len(call.ids) == 1 and (most <= 1 or call.action is not Action.CANCEL):
            return {name: call.ids[0]}
        return {f"{name}s": ",".join(call.ids)}

    # --- reading: bytes to a value ------------------------------------------------------------

    def open(self, call: Call, http_status: int, body: bytes) -> Wild:
        """Return the JSON value of an answer, whatever its content type.

        Raises:
            Rejected: it is an ``{"error": …}`` as a whole.
            Indeterminate: it is not JSON; or, of a call that acts, a server's error, an HTTP
                error without words, or an error beside an order.

        """
        acts = call.action in ACTS
        if acts and http_status >= _SERVER_ERROR:
            raise Indeterminate(f"HTTP {http_status}")
        answer = self._parse(call.action, body)
        said = wild.error(answer)
        if said == "":
            raise Indeterminate("an error without words")
        if said is not None:
            if call.action is Action.ADD and any(shapes.orders(answer)):
                raise Indeterminate("an error and an order")
            raise self.refusal(said, ordering=call.action is Action.ADD).error()
        if acts and http_status >= _CLIENT_ERROR:
            raise Indeterminate(f"HTTP {http_status} without an error")
        return answer

    def _parse(self, action: Action, body: bytes) -> Wild:
        services = action is Action.SERVICES
        try:
            return wild.parse(body, services=services)
        except ValueError as wrong:
            for text in self._mended(action, body):
                try:
                    return wild.parse(text, services=services)
                except ValueError:
                    continue
            raise Indeterminate(str(wrong)) from None

    def _mended(self, action: Action, body: bytes) -> Iterable[bytes]:
        """Yield what may be read in place of a body that is not JSON."""
        if action in self.repairs:
            text = body.decode(errors="replace")
            for wrong, right in self.repairs[action]:
                text = wrong.sub(right, text)
            yield text.encode()
        if action not in ACTS:  # a PHP notice before the answer; nothing is lost if it is not one
            yield from (body[at:] for at in sorted((body.find(b"["), body.find(b"{"))) if at > 0)

    # --- reading: a value to what it means ----------------------------------------------------

    def read_services(self, _call: Call, answer: Wild) -> tuple[list[Offer], list[str]]:
        """Return the rows of a service list, and what is wrong with each row left out."""
        rows, read = shapes.listed(answer), shapes.offers()
        offers: dict[str, Offer] = {}
        wrong = []
        for at, row in enumerate(rows):
            try:
                offer = read(row)
            except ValueError as misfit:
                wrong.append(f"[{at}]{misfit}")
                continue
            if offers.setdefault(offer.id, offer) is not offer:
                wrong.append(f"[{at}].service: {offer.id} is in the list twice")
        if rows and not offers:
            raise Indeterminate(f"not one of {len(rows)} services can be read; {wrong[0]}")
        return list(offers.values()), wrong

    def read_add(self, _call: Call, answer: Wild) -> str:
        """Return the provider's order id."""
        ids = {wild.identity(found) for found in shapes.orders(answer)}
        if len(ids) != 1 or ids == {""} or not isinstance(answer, dict) or _contradicts(answer):
            raise Indeterminate(f"neither an order nor an error: {wild.show(answer)}")
        return ids.pop()

    def read_status(self, call: Call, answer: Wild) -> dict[str, Report | Refusal]:
        """Return what is said of each order; one that is left out is absent."""
        return _each(call, answer, self._report)

    def read_refill(self, call: Call, answer: Wild) -> dict[str, str | Refusal]:
        """Return the refill id of each order, ``""`` where the dialect has none."""
        return _each(call, answer, self._refill)

    def read_refill_status(self, call: Call, answer: Wild) -> dict[str, RefillStatus | Refusal]:
        """Return how far each refill is; one with a word that nobody knows is absent."""
        found: dict[str, RefillStatus | Refusal | _Unknown]
        found = _each(call, answer, self._refill_status)
        return {refill: said for refill, said in found.items() if not isinstance(said, _Unknown)}

    def read_cancel(self, call: Call, answer: Wild) -> dict[str, bool | Refusal]:
        """Return ``True`` for each order whose cancelling was taken up; it is not canceled yet."""
        if isinstance(answer, dict):
            taken = answer.get("canceled", answer.get("cancelled"))
            if isinstance(taken, list):
                named = {wild.identity(order) for order in taken}
                return {order: True for order in call.ids if order in named}
        return _each(call, answer, self._cancel)

    def read_balance(self, _call: Call, answer: Wild) -> Money:
        """Return what is left in our purse there, rounded down to a millionth."""
        balance = answer.get("balance") if isinstance(answer, dict) else None
        micros = wild.millionths_down(balance)
        if micros is None or not isinstance(answer, dict):
            raise Indeterminate(f".balance: {wild.show(balance)} is not an amount")
        code = wild.text(answer.get("currency")).upper()
        return Money(micros, code if _CURRENCY.fullmatch(code) else self.currency)

    def refusal(self, words: str, *, ordering: bool = False) -> Refusal:
        """Classify an error text; the provider's own words are for the owner only."""
        found = classify(words, self.refusals, ordering=ordering)
        return Refusal(*found, words.replace("\x00", "")[:WORDS])

    # --- reading: one row ---------------------------------------------------------------------

    def _refused(self, row: Wild) -> Refusal | None:
        said = wild.error(row)
        return self.refusal(said) if said else None

    def _declined(self, row: Wild, told: ErrorText) -> Refusal:
        """Return a refusal that has no ``error``: by its sentence if there is one."""
        said = wild.message(row) if isinstance(row, dict) else ""
        return self.refusal(said) if said else Refusal(Fault.ORDER, told, wild.show(row))

    def _request(self, row: Wild, said: Wild, told: ErrorText) -> bool | Refusal | None:
        """Read what became of a request: done, refused, or nothing that is clear."""
        if _outcome(row, said):
            return True
        place = said if isinstance(said, dict) else row
        named = place if isinstance(place, dict) else {}
        if _fails(said) or _fails(named.get("status", named.get("success"))):
            return self._declined(place, told)
        sentence = said if isinstance(said, str) else wild.message(named)
        return self.refusal(sentence) if refuses(sentence) else None

    def _report(self, row: Wild) -> Report | Refusal | None:
        if isinstance(row, str):  # SmartPanel: {"77": "Incorrect order ID"}
            return self.refusal(row) if wild.text(row) and not self._status(row) else None
        if not isinstance(row, dict) or wild.error(row) is not None:
            return self._refused(row)
        word = wild.text(row.get("status"))
        status = self._status(word)
        if _is_envelope(row) and row.get("charge") is None and row.get("remains") is None:
            if wild.message(row) and not wild.done(row):
                return self._declined(row, ErrorText.INCORRECT_ORDER)
            status = None
        if not word:
            return None
        orders = row.get("orders")
        return Report(
            status=status,
            word=word[:_LONGEST_WORD],
            charge=wild.millionths_up(row.get("charge")),
            currency=wild.text(row.get("currency"))[:_LONGEST_WORD],
            start_count=wild.whole(row.get("start_count", row.get("start_counter"))),
            remains=wild.whole(row.get("remains")),
            runs=wild.count(row.get("runs")),
            posts=wild.count(row.get("posts")),
            orders=_ids(orders) if isinstance(orders, list) else (),
            expiry=wild.date(row.get("expiry")),
            quantity=wild.count(row.get("quantity")),
        )

    def _status(self, word: str) -> Status | None:
        meant = wild.folded(word)
        return self.statuses.get(meant) or STATUSES.get(meant)

    def _refill(self, row: Wild) -> str | Refusal | None:
        """Read an id, an error, or a sentence (``""``: done, and no id is given)."""
        said = row.get("refill") if isinstance(row, dict) else row
        for place in (row, said):
            if wild.error(place) is not None:
                return self._refused(place)
        if found := wild.identity(said):
            return found
        done = self._request(row, said, ErrorText.NO_REFILL)
        return "" if done is True else done or None

    def _cancel(self, row: Wild) -> bool | Refusal | None:
        """Read ``1`` or another number, ``true``, an error, or a sentence."""
        said = row.get("cancel") if isinstance(row, dict) else row
        for place in (row, said):
            if wild.error(place) is not None:
                return self._refused(place)
        if wild.identity(said).isdigit():
            return True
        return self._request(row, said, ErrorText.NO_CANCEL)

    def _refill_status(self, row: Wild) -> "RefillStatus | Refusal | _Unknown | None":
        said = row.get("status") if isinstance(row, dict) else row
        for place in (row, said):
            if wild.error(place) is not None:
                return self._refused(place)
        if isinstance(said, dict):
            said = said.get("status")
        if isinstance(row, dict) and _is_envelope(row) and wild.message(row) and not wild.done(row):
            return self._declined(row, ErrorText.REFILL_NOT_FOUND)
        word = wild.folded(said)
        if not word:
            return None
        return REFILL_STATUSES.get(word) or _Unknown(word)


class _Unknown(str):
    """A refill's word that nobody knows: it was read, and it changes nothing."""

    __slots__ = ()


def _is_envelope(row: dict[str, Wild]) -> bool:
    """Tell whether a ``status`` may be the call's own outcome instead of an order's."""
    said = row.get("status")
    return said is False or wild.folded(said) in ENVELOPE


def _outcome(row: Wild, said: Wild) -> bool | None:
    """Read ``true`` and ``false``, or ``{"status": …, "message": …}`` in place of a result."""
    if not isinstance(said, dict):
        done = wild.done({"status": said})
        if done is not None:
            return done
        said = row
    return wild.done(said) if isinstance(said, dict) else None


def _contradicts(answer: dict[str, Wild]) -> bool:
    """Tell whether an answer says that it failed, or has an error further in."""
    failed = _fails(answer.get("status", answer.get("success")))
    return failed or wild.error(answer.get("data")) is not None


def _fails(said: Wild) -> bool:
    """Tell whether a call's outcome says that it failed."""
    return wild.flag(said) is False or wild.folded(said) in ENVELOPE - {"success"}


def _ids(values: list[Wild]) -> tuple[str, ...]:
    return tuple(name for name in map(wild.identity, values) if name)


def _each(call: Call, answer: Wild, read: Callable[[Wild], T | None]) -> dict[str, T]:
    """Read what is said of each id; one of which nothing readable is said is left out."""
    found = {name: read(row) for name, row in shapes.rows(call, answer).items()}
    told = {name: said for name, said in found.items() if said is not None}
    if len(call.ids) == 1 and not told:
        raise Indeterminate(f"nothing is said of {call.ids[0]}: {wild.show(answer)}")
    return told
