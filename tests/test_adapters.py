"""Every adapter against every fixture, and the contract that all of them keep.

A fixture is an example from a provider's documentation (or, for the common dialect, a shape that is
met at other panels): ``writes`` say what form a call becomes, ``reads`` what an answer means.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import adapters
from gateway.adapters import ADAPTERS, shapes, wild, words
from gateway.adapters.api_v2 import ACTS, ApiV2
from gateway.errors import ErrorText, Fault, Indeterminate, Rejected, Unsupported
from gateway.model import Action, Call, Offer, Refusal, Report, Status
from gateway.money import Money
from gateway.order_types import table

FIXTURES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "fixtures").glob("*.json"))
    if path.stem in ADAPTERS
}
READS = [(name, row) for name, fixture in FIXTURES.items() for row in fixture["reads"]]
WRITES = [(name, row) for name, fixture in FIXTURES.items() for row in fixture["writes"]]
README = Path(adapters.__file__).with_name("README.md")
IDS = ("1", "10", "100")


def understood(adapter: ApiV2, call: Call, http_status: int, body: bytes) -> Any:
    """Open an answer and read it with the reader of its action."""
    return getattr(adapter, f"read_{call.action}")(call, adapter.open(call, http_status, body))


def meaning(adapter: ApiV2, row: Mapping[str, Any]) -> Any:
    """Read a fixture's answer, and write what it means as the fixture does."""
    call = Call(Action(row["action"]), ids=tuple(row.get("ids", ())))
    try:
        result = understood(adapter, call, row.get("http_status", 200), row["body"].encode())
    except Indeterminate:
        return "indeterminate"
    except Rejected as no:
        return {"rejected": plain(Refusal(no.fault, no.text, no.words))}
    if call.action is Action.SERVICES:
        return {"offers": [plain(offer) for offer in result[0]], "left_out": result[1]}
    return plain(result)


def plain(value: Any) -> Any:
    """Write model objects as JSON: what a struct leaves at its default is left out."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        found = {field.encode_name: getattr(value, field.name) for field in fields}
        unset = {field.encode_name for field in fields if found[field.name] == field.default}
        return {name: plain(found[name]) for name in found if name not in unset}
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else _text(value)


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, str | Decimal) else value


def titles(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Name each fixture for the test report."""
    return [f"{name} {at}: {row['source']}" for at, (name, row) in enumerate(rows)]


# --- every fixture -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "row"), WRITES, ids=titles(WRITES))
def test_a_call_becomes_the_documented_form(name: str, row: dict[str, Any]) -> None:
    """What we send is what the provider's page tells its callers to send."""
    form = ADAPTERS[name]().write(msgspec.convert(row["call"], Call))

    assert row["form"] == form


@pytest.mark.parametrize(("name", "row"), READS, ids=titles(READS))
def test_a_documented_answer_means_what_it_says(name: str, row: dict[str, Any]) -> None:
    """Each printed answer is understood, and those that cannot be are known to be unknown."""
    found = meaning(ADAPTERS[name](), row)

    assert row["meaning"] == found


def test_every_adapter_has_fixtures_and_every_one_of_its_actions_has_both_kinds() -> None:
    """Nothing is declared without an example, and nothing is shown that is not declared."""
    declared = {
        (name, action, kind)
        for name, adapter in ADAPTERS.items()
        for action, kind in product(adapter.actions, ("writes", "reads"))
    }
    written = {(name, Action(row["call"]["action"]), "writes") for name, row in WRITES}
    read = {(name, Action(row["action"]), "reads") for name, row in READS}

    assert declared == written | read


def test_every_batch_that_is_declared_has_fixtures_of_one_id_and_of_several() -> None:
    """A batch is written and read in an example, not only declared."""
    declared = {
        (name, action)
        for name, adapter in ADAPTERS.items()
        for action in adapter.actions
        if adapter.batch.get(action, 1) > 1
    }
    written = {
        (name, Action(row["call"]["action"]))
        for name, row in WRITES
        if len(row["call"].get("ids", ())) > 1
    }
    read = {(name, Action(row["action"])) for name, row in READS if len(row.get("ids", ())) > 1}

    assert declared == written
    assert declared == read


def test_every_order_type_can_be_said_in_some_fixture() -> None:
    """The parameters of each order type occur in some documented form."""
    said = [set(row["call"].get("params", ())) for _, row in WRITES]

    untold = [kind.name for kind in table() if set(kind.required) not in said]

    assert ["Web Traffic"] == untold  # its fixture has the keyword that its traffic type asks for


@pytest.mark.parametrize("row", [row for _, row in READS], ids=titles(READS))
def test_the_common_dialect_reads_every_answer_that_is_json(row: dict[str, Any]) -> None:
    """A panel without an adapter of its own may answer like any of those that have one."""
    try:
        wild.parse(row["body"].encode())
    except ValueError:
        return
    expected = json.loads(json.dumps(row["meaning"]))

    found = meaning(ApiV2(), row)

    assert expected == found


# --- the contract: three kinds of failure and no other -----------------------------------------

GARBAGE = (
    *(b"", b" ", b"null", b"0", b"1", b"-1", b"true", b'""', b'"ok"', b'"Completed"', b"NaN"),
    *(b"{", b"[", b"}", b"{]", b'{"order":', b"\xff\xfe", b"\x00", b'"\xff"', b'"\\ud800"'),
    *(b"\xef\xbb\xbf", b"<html>502</html>", b"<html>{}[]</html>", b"Fatal error: x in [y] {z}"),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"[" + b"9" * 400 + b"]"),
    *(b"1E+999999999", b"1e99999999999999999999", b'{"balance":1E+999999999}'),
    *(b'{"message":"Unauthenticated."}', b'{"status":"error"}', b'{"success":false}'),
    *(b'{"error":true}', b'{"error":[]}', b'{"error":{"a":1}}', b'{"error":[[]]}'),
    *(b'{"order":{}}', b'{"order":1E+999999999}', b'{"refill":[]}', b'{"cancel":{}}'),
    *(b'[{"order":{}}]', b"[[[]]]", b"[null]", b'[{"1":null}]', b'{"1":[]}', b"[1,2,3]"),
    *(b'{"1":{"charge":"1"},"10":5,"100":""}', b'{"orders":[1]}', b'[{"service":[]}]'),
)
FIELDS = (
    *("1", "10", "100", "order", "order_id", "orders", "refill", "cancel", "canceled", "status"),
    *("message", "error", "data", "charge", "remains", "start_count", "runs", "posts", "expiry"),
    *("service", "name", "rate", "min", "max", "balance", "currency", "services", "success"),
)
WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Success", "Completed", "error", "Incorrect order ID", "0", "1", "-1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(FIELDS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


def calls(adapter: ApiV2) -> list[Call]:
    """Return a call of every action that an adapter has, for one id and for several."""
    found = []
    for action in sorted(adapter.actions):
        if action in {Action.SERVICES, Action.BALANCE}:
            found.append(Call(action))
        elif action is Action.ADD:
            found.append(Call(action, service="1", params={"link": "x", "quantity": "9"}, size=9))
        else:
            found.append(Call(action, ids=IDS[:1]))
            if adapter.batch.get(action, 1) > 1:
                found.append(Call(action, ids=IDS))
    return found


def outcome(adapter: ApiV2, call: Call, http_status: int, body: bytes) -> Any:
    """Return what a call came to; whatever but the two kinds of failure escapes."""
    try:
        return understood(adapter, call, http_status, body)
    except (Indeterminate, Rejected) as failure:
        return failure


def check(call: Call, found: Any) -> None:
    """Hold a result to the types that the readers promise."""
    if isinstance(found, Indeterminate | Rejected):
        return
    match call.action:
        case Action.SERVICES:
            offers, left_out = found
            assert all(isinstance(o, Offer) and o.rate >= 0 and o.min <= o.max for o in offers)
            assert all(isinstance(line, str) for line in left_out)
        case Action.ADD:
            assert wild.identity(found) == found != ""
        case Action.BALANCE:
            assert isinstance(found, Money)
        case _:
            kinds = (Report, str, bool, Refusal)  # a refill's status is a str, too
            assert set(found) <= set(call.ids)
            assert all(isinstance(said, kinds) for said in found.values())


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body[:24]))
def test_garbage_means_not_knowing(name: str, body: bytes) -> None:
    """No garbage places an order, settles one, or raises anything undeclared."""
    adapter = ADAPTERS[name]()
    for call, http_status in product(calls(adapter), (200, 404, 503)):
        found = outcome(adapter, call, http_status, body)
        check(call, found)
        if call.action is Action.ADD:
            assert isinstance(found, Indeterminate)
        if call.action is Action.STATUS and isinstance(found, dict):
            assert not [r for r in found.values() if isinstance(r, Report) and r.status]


@given(answer=WILD, http_status=st.sampled_from([200, 201, 302, 400, 422, 429, 500, 502]))
def test_whatever_json_comes_only_the_three_kinds_are_raised(answer: Any, http_status: int) -> None:
    """Valid JSON of any shape gives a typed result or a declared failure."""
    body = json.dumps(answer).encode()
    for adapter in (kind() for kind in ADAPTERS.values()):
        for call in calls(adapter):
            check(call, outcome(adapter, call, http_status, body))


@given(body=st.binary(max_size=40))
def test_whatever_bytes_come_no_order_is_placed(body: bytes) -> None:
    """Random bytes give a typed result or a declared failure."""
    for adapter in (kind() for kind in ADAPTERS.values()):
        for call in calls(adapter):
            check(call, outcome(adapter, call, 200, body))


@given(cut=st.integers(min_value=0, max_value=10_000), which=st.integers(min_value=0))
def test_half_an_answer_to_add_is_never_a_whole_one(cut: int, which: int) -> None:
    """A connection that broke in the middle of an answer leaves the outcome unknown."""
    adds = [row for _, row in READS if row["action"] == "add" and row["body"]]
    body = adds[which % len(adds)]["body"].encode().rstrip()
    found = outcome(ApiV2(), Call(Action.ADD), 200, body[: cut % len(body)])

    assert Indeterminate is type(found)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("extra", ["", ',"status":"104"', ',"status":"Completed","charge":"1"'])
def test_an_error_is_a_refusal_whatever_stands_beside_it(name: str, extra: str) -> None:
    """An error decides, even beside what looks like a status."""
    adapter = ADAPTERS[name]()
    body = f'{{"error":"Incorrect order ID"{extra}}}'.encode()
    for call in calls(adapter):
        found = outcome(adapter, call, 200, body)

        assert Rejected is type(found)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_row_with_an_error_is_never_read_as_a_status(name: str) -> None:
    """Within a batch an error decides too, and one without words says nothing."""
    call = Call(Action.STATUS, ids=("1", "10"))
    body = b'{"1":{"error":"x","status":"Completed"},"10":{"error":true,"status":"Canceled"}}'

    found = outcome(ADAPTERS[name](), call, 200, body)

    assert {"1": Refusal(Fault.UNKNOWN, ErrorText.UNAVAILABLE, "x")} == found


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("word", ["", "104", "Refill", "Complete d?", "Compléted", "done", "Ok"])
def test_a_status_is_never_guessed(name: str, word: str) -> None:
    """A word that nobody knows is handed on as it is; no word at all is no report."""
    call = Call(Action.STATUS, ids=IDS)
    row = {"status": word, "charge": "1", "remains": "0"}
    body = json.dumps({"1": row, "10": {"status": None}, "100": {"charge": "1"}}).encode()

    found = outcome(ADAPTERS[name](), call, 200, body)

    assert [None] * bool(word) == [report.status for report in found.values()]
    assert [word] * bool(word) == [report.word for report in found.values()]


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_unknown_word_for_a_refill_changes_nothing(name: str) -> None:
    """A refill with an unknown word is left as it was."""
    adapter = ADAPTERS[name]()
    if Action.REFILL_STATUS not in adapter.actions:
        return

    found = outcome(adapter, Call(Action.REFILL_STATUS, ids=("1",)), 200, b'{"status":"Napping"}')

    assert {} == found


# --- the wire's side of an answer ---------------------------------------------------------------


@pytest.mark.parametrize("action", sorted(ACTS))
def test_after_a_servers_error_nobody_knows_what_it_did(action: Action) -> None:
    """Of a call that acts, a 5xx is unknown whatever its body says."""
    call = Call(action, ids=("1",))
    for body in (b'{"order":5}', b'{"error":"Incorrect request"}', b'{"refill":"1","cancel":1}'):
        assert isinstance(outcome(ApiV2(), call, 500, body), Indeterminate)


def test_a_clients_error_is_a_refusal_only_with_words() -> None:
    """A 4xx releases an order's money only if the provider says why."""
    refused = outcome(ApiV2(), Call(Action.ADD), 422, b'{"error":"Bad link"}')
    wordless = outcome(ApiV2(), Call(Action.ADD), 401, b'{"message":"Unauthenticated."}')
    order = outcome(ApiV2(), Call(Action.ADD), 400, b'{"order":5}')

    assert [Rejected, Indeterminate, Indeterminate] == [type(refused), type(wordless), type(order)]


@pytest.mark.parametrize("http_status", [200, 201, 404, 500, 503])
def test_what_only_reads_is_read_whatever_the_code(http_status: int) -> None:
    """A reading call believes the body before the code."""
    found = outcome(ApiV2(), Call(Action.BALANCE), http_status, b'{"balance":"1"}')

    assert Money(1_000_000, "USD") == found


@pytest.mark.parametrize("action", sorted(Action))
def test_a_notice_before_the_answer_is_forgiven_only_where_nothing_can_be_lost(
    action: Action,
) -> None:
    """PHP's warnings are skipped for calls that read, never for calls that act."""
    answer = {"order": "5", "refill": "5", "cancel": 1, "balance": 5, "status": "Pending"}
    body = b"<b>Warning</b>: x\n" + json.dumps({**answer, "services": []}).encode()

    found = outcome(ApiV2(), Call(action, ids=("5",)), 200, body)

    assert (action in ACTS) == isinstance(found, Indeterminate)


def test_no_repair_is_ever_declared_for_add() -> None:
    """What add answers is read strictly: a guess there costs money."""
    declared = {action for adapter in ADAPTERS.values() for action in adapter.repairs}

    assert Action.ADD not in declared


@pytest.mark.parametrize(("name", "row"), READS, ids=titles(READS))
def test_a_repair_leaves_what_is_json_alone(name: str, row: dict[str, Any]) -> None:
    """A repair is for misprints only; a valid answer means the same without it."""
    adapter, strict = ADAPTERS[name](), ADAPTERS[name]()
    strict.repairs = {}
    try:
        wild.parse(row["body"].encode())
    except ValueError:
        return

    assert meaning(strict, row) == meaning(adapter, row)


# --- writing ------------------------------------------------------------------------------------


@given(
    params=st.dictionaries(
        st.sampled_from(["link", "comments", "usernames", "country"]),
        st.text(st.characters(codec="utf-8"), min_size=1),
    )
)
def test_what_is_written_survives_the_encoding_of_a_form(params: dict[str, str]) -> None:
    """Any text a customer gives arrives letter by letter, encoded once."""
    for adapter in (kind() for kind in ADAPTERS.values()):
        form = adapter.write(Call(Action.ADD, service="7", params=params, size=3))

        assert form == dict(parse_qsl(urlencode(form), keep_blank_values=True))
        assert sorted(params.values()) == sorted(
            value for field, value in form.items() if field not in {"action", "service", "quantity"}
        )


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_text_that_is_written_is_a_text_and_the_key_is_none_of_them(name: str) -> None:
    """The key never enters an adapter."""
    for call in calls(ADAPTERS[name]()):
        form = ADAPTERS[name]().write(call)

        assert "key" not in form
        assert all(isinstance(value, str) for value in form.values())


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_call_that_cannot_be_said_is_not_sent(name: str) -> None:
    """Missing actions, too many ids or none, and an order without a service are refused here."""
    adapter = ADAPTERS[name]()
    unsayable = [Call(action) for action in Action if action not in adapter.actions]
    for action in (Action.STATUS, Action.REFILL, Action.REFILL_STATUS, Action.CANCEL):
        most = adapter.batch.get(action, 1)
        unsayable += [Call(action), Call(action, ids=tuple(map(str, range(1, most + 2))))]
    unsayable.append(Call(Action.ADD, params={"link": "x"}))

    for call in unsayable:
        with pytest.raises(Unsupported):
            adapter.write(call)


def test_a_delay_beyond_a_closed_list_is_not_sent() -> None:
    """No later delay can stand for it, so the provider is not asked."""
    for delay in ("601", "soon"):
        call = Call(Action.ADD, service="1", params={"username": "a", "delay": delay})
        with pytest.raises(Unsupported):
            ADAPTERS["smmai"]().write(call)


@pytest.mark.parametrize(
    ("asked", "sent"), [("0", "0"), ("1", "5"), ("5", "5"), ("121", "150"), ("541", "600")]
)
def test_a_delay_within_a_closed_list_is_rounded_up(asked: str, sent: str) -> None:
    """The next delay that smmai knows is sent; others get it as it is."""
    call = Call(Action.ADD, service="1", params={"delay": asked})

    assert sent == ADAPTERS["smmai"]().write(call)["delay"]
    assert asked == ADAPTERS["smm1st"]().write(call)["delay"]


def test_an_empty_parameter_is_an_absent_one() -> None:
    """Empty texts are not sent, zeros are."""
    call = Call(Action.ADD, service="1", params={"link": "x", "posts": "", "runs": "0"})

    assert {"action": "add", "service": "1", "link": "x", "runs": "0"} == ApiV2().write(call)


def test_quantity_is_written_where_it_is_always_wanted_but_not_over_the_customers() -> None:
    """Instasmm wants a quantity beside every link; a subscription has no link."""
    adapter = ADAPTERS["instasmm"]()
    plain_call = Call(Action.ADD, service="1", params={"link": "x", "quantity": "5"}, size=50)
    package = Call(Action.ADD, service="1", params={"link": "x"}, size=1)
    subscription = Call(Action.ADD, service="1", params={"username": "x", "min": "1"}, size=9)

    assert "5" == adapter.write(plain_call)["quantity"]
    assert "1" == adapter.write(package)["quantity"]
    assert "quantity" not in adapter.write(subscription)
    assert "quantity" not in ApiV2().write(package)


def test_the_owners_dialect_lies_over_the_common_one() -> None:
    """A sixth panel is described in the owner's file, and changes no other."""
    sixth = ApiV2(
        currency="BRL",
        rename={"link": "url"},
        batch={Action.CANCEL: 1},
        without=[Action.REFILL_STATUS],
    )
    balance = Call(Action.BALANCE)

    assert "x" == sixth.write(Call(Action.ADD, service="1", params={"link": "x"}))["url"]
    assert {"action": "cancel", "order": "1"} == sixth.write(Call(Action.CANCEL, ids=("1",)))
    assert Money(1_000_000, "BRL") == understood(sixth, balance, 200, b'{"balance":1}')
    assert 100 == sixth.batch[Action.STATUS]
    assert frozenset(Action) - {Action.REFILL_STATUS} == sixth.actions
    assert frozenset(Action) == ApiV2().actions
    assert ApiV2.batch == ApiV2().batch


def test_an_amount_without_a_currency_is_in_the_providers() -> None:
    """A panel that bills in rupees does not turn into one that bills in dollars."""
    currencies = {
        name: understood(adapter(), Call(Action.BALANCE), 200, b'{"balance":1}').currency
        for name, adapter in ADAPTERS.items()
    }

    assert {**dict.fromkeys(ADAPTERS, "USD"), "smm_panel_in": "INR"} == currencies


# --- words --------------------------------------------------------------------------------------

ORDER, SERVICE, CUSTOMER = Fault.ORDER, Fault.SERVICE, Fault.CUSTOMER
GONE, QUANTITY = ErrorText.UNAVAILABLE, ErrorText.INVALID_QUANTITY
TEXTS: Mapping[tuple[Fault, ErrorText], str] = {
    (Fault.ACCOUNT, GONE): """
        Not enough funds | Not enough funds on balance | Insufficient balance | NOT_ENOUGH_FUNDS
        neworder.error.not_enough_funds | neworder.error.insufficient_balance | Invalid API key
        Incorrect API key | Incorrect request or API key | Missing key | Missing API key
        Account suspended | Your account has been suspended. | API is disabled | API access disabled
        API is Disable for this user or User Not Found! Contact the Support
        neworder.error.account_banned | Quantity is fine, but not enough funds
        Your balance is too low for this link""",
    (Fault.BUSY, GONE): """
        Too many requests | Rate limit exceeded | Rate limit exceeded. Slow down. | Maintenance
        neworder.error.too_many_orders | Panel under maintenance, try again later""",
    (Fault.BUSY, ErrorText.ACTIVE_ORDER): """
        You have active order with this link. Please wait until order being completed.
        Active order with this link exists | neworder.error.link_duplicate""",
    (Fault.CUSTOMER, ErrorText.IDENTICAL_ORDER): """
        An identical order was just placed | error.duplicate_order""",
    (SERVICE, GONE): """
        Incorrect service ID | Invalid service ID | Service ID does not exists
        Disabled service ID | Service is unavailable | Service temporarily disabled
        incorrect service type | neworder.error.service_inactive | error.incorrect_service_id
        neworder.error.service_not_found | error.invalid_service""",
    (SERVICE, QUANTITY): """
        Incorrect quantity | Invalid quantity | Quantity out of bounds | neworder.error.min_quantity
        Quantity less than minimal 10 | Quantity more than maximum 9 | Quantity less than maximum 9
        Quantity must be between 1 and 2 | neworder.error.not_enough_quantity""",
    (SERVICE, ErrorText.NO_DRIPFEED): """
        Dripfeed is not supported by this service
        This services does not support Dripfeed feature!""",
    (CUSTOMER, ErrorText.INCORRECT_REQUEST): """
        Incorrect request | Incorrect parameters | neworder.error.schedule_time
        There are missing required parameters. Please check your API Manual""",
    (CUSTOMER, ErrorText.BAD_LINK): """
        Bad link | Incorrect link | Link is required | neworder.error.link
        neworder.error.invalid_link | neworder.error.link_not_found""",
    (CUSTOMER, ErrorText.INCORRECT_COMMENTS): "Incorrect comments | neworder.error.comment",
    (CUSTOMER, ErrorText.INCORRECT_RUNS): "Incorrect runs",
    (CUSTOMER, ErrorText.INCORRECT_INTERVAL): "Incorrect interval",
    (ORDER, ErrorText.INCORRECT_ORDER): """
        Incorrect order ID | Incorrect order ID(s) | Order not found""",
    (ORDER, ErrorText.REFILL_NOT_FOUND): "Refill not found | Incorrect refill ID",
    (ORDER, ErrorText.NO_REFILL): """
        Refill is disabled for this service | Refill days are over | The order is not completed
        The refill task is not completed for this order | Order not eligible for refill.
        The order was completed or refill was requested less than 24 hours ago""",
    (ORDER, ErrorText.NO_CANCEL): "Cancel is not available | Order cannot be canceled",
    (Fault.UNKNOWN, GONE): "Something went wrong | Invalid action | नमस्ते | 104 | curl error",
}
SAID = [
    (text, fault, told)
    for (fault, told), texts in TEXTS.items()
    for text in map(str.strip, re.split(r"[|\n]", texts))
    if text
]


@pytest.mark.parametrize(("text", "fault", "told"), SAID, ids=[text for text, _, _ in SAID])
def test_a_refusal_is_classified(text: str, fault: Fault, told: ErrorText) -> None:
    """Every error text that panels are known to send has its place."""
    assert Refusal(fault, told, text) == ApiV2().refusal(text)


def test_our_own_purse_key_and_account_never_reach_a_customer() -> None:
    """A customer never reads of funds, keys or accounts that are not his."""
    never = {ErrorText.NOT_ENOUGH_FUNDS, ErrorText.INVALID_KEY, ErrorText.SUSPENDED}
    told = {told for _, told, _ in words.REFUSALS}

    assert set() == told & never
    assert {ErrorText.UNAVAILABLE} == {t for f, t, _ in words.REFUSALS if f is Fault.ACCOUNT}


def test_a_providers_long_text_is_cut() -> None:
    """A provider's words are kept for the owner up to a length."""
    assert "x" * 500 == ApiV2().refusal("x" * 501).words


@pytest.mark.parametrize(
    ("word", "status"),
    [
        *(("Pending", Status.PENDING), ("Awaiting", Status.PENDING)),
        *(("Processing", Status.PROCESSING), ("Processed", Status.PROCESSING)),
        *(("In progress", Status.IN_PROGRESS), ("In Progress", Status.IN_PROGRESS)),
        *(("Inprogress", Status.IN_PROGRESS), ("in_progress", Status.IN_PROGRESS)),
        *(("IN-PROGRESS", Status.IN_PROGRESS), ("progress", Status.IN_PROGRESS)),
        *(("Completed", Status.COMPLETED), ("Success", Status.COMPLETED)),
        *(("Partial", Status.PARTIAL), ("Canceled", Status.CANCELED)),
        *(("Cancelled", Status.CANCELED), ("Refunded", Status.CANCELED)),
        *(("Rejected", Status.CANCELED), ("Fail", Status.CANCELED), ("Failed", Status.CANCELED)),
        *(("Error", Status.CANCELED), ("Active", Status.ACTIVE), ("Paused", Status.PAUSED)),
        *(("Expired", Status.EXPIRED), (" completed ", Status.COMPLETED)),
    ],
)
def test_a_status_is_known_in_every_spelling(word: str, status: Status) -> None:
    """Each known spelling is folded to the one that customers' programs compare."""
    body = json.dumps({"status": word, "charge": "1", "remains": "0"}).encode()

    report = understood(ApiV2(), Call(Action.STATUS, ids=("1",)), 200, body)["1"]

    assert status == report.status


def test_a_panels_own_spelling_can_be_declared() -> None:
    """An adapter's own words come before the common ones."""

    class Own(ApiV2):
        statuses: Mapping[str, Status] = {"queued": Status.PENDING, "active": Status.IN_PROGRESS}

    body = b'{"1":{"status":"Queued"},"2":{"status":"ACTIVE"}}'
    found = understood(Own(), Call(Action.STATUS, ids=("1", "2")), 200, body)

    assert [Status.PENDING, Status.IN_PROGRESS] == [report.status for report in found.values()]


# --- numbers ------------------------------------------------------------------------------------


@given(st.decimals(min_value=0, max_value=10**9, places=8, allow_nan=False, allow_infinity=False))
def test_what_is_owed_is_rounded_up_and_what_is_owned_down(amount: Decimal) -> None:
    """Rounding never favours us by a millionth that is not there."""
    owed, owned = wild.millionths_up(str(amount)), wild.millionths_down(str(amount))

    assert owed is not None
    assert owned is not None
    assert owned <= amount * 10**6 <= owed
    assert owed - owned == (amount * 10**6 != owned)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *(("0.90", "0.90"), ("8", "8"), (80, "80"), ("$0.9", "0.9"), ("1,200.00", "1200.00")),
        *(("1.0E-5", "0.00001"), (Decimal("26.879999999999999"), "26.88"), (0, "0")),
        *(("0.1234567890123456789", "0.123456789012346"), ("999999999999999", "999999999999999")),
    ],
)
def test_a_rate_is_read_exactly(value: wild.Wild, expected: str) -> None:
    """Rates keep their digits; the noise of a printed binary number is removed."""
    assert Decimal(expected) == wild.rate(value)


@pytest.mark.parametrize(
    "value",
    [
        *("NaN", "inf", "-0.1", "", "free", "0,90", "1,20", "0,900", "1e999", "1e-20", "٣", "1 2"),
        *(None, True, [], {}, Decimal("1E+999999999"), Decimal("NaN"), 10**15, "9" * 65, "12."),
    ],
)
def test_what_is_no_rate_is_not_read_as_one(value: wild.Wild) -> None:
    """A price that could mean two things, or none, is no price."""
    assert wild.rate(value) is None


def test_an_amount_that_no_database_holds_is_none() -> None:
    """Amounts beyond BIGINT, and negative charges, are not believed."""
    assert wild.millionths_up(10**13) is None
    assert wild.millionths_up("-0.01") is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((True, True), (1, True), ("1", True), ("TRUE", True), (False, False), (0, False)),
        *(("0", False), ("false", False), (None, None), ("", None), ("maybe", None), ([], None)),
    ],
    ids=repr,
)
def test_a_flag_is_yes_no_or_unsaid(value: wild.Wild, expected: bool | None) -> None:
    """A flag that is not said is not taken for a no."""
    assert expected is wild.flag(value)


def test_a_text_loses_the_null_character_that_postgresql_refuses() -> None:
    """Names can be stored in both databases; a missing type is Default."""
    body = b'[{"service":1,"name":"a\\u0000b","rate":1,"min":1,"max":1}]'

    offers, _ = understood(ApiV2(), Call(Action.SERVICES), 200, body)

    assert "ab" == offers[0].name
    assert "Default" == offers[0].type


# --- the table that people read -------------------------------------------------------------------


def matrix() -> str:
    """Write what each adapter has: ``yes``, or how many ids a call carries, or ``–``."""

    def cell(adapter: type[ApiV2], action: Action) -> str:
        if action not in adapter.actions:
            return "–"
        alone = action in {Action.SERVICES, Action.ADD, Action.BALANCE}
        return "yes" if alone else str(adapter.batch.get(action, 1))

    rows = [["action", *ADAPTERS], ["---"] * (len(ADAPTERS) + 1)]
    rows += [
        [f"`{action}`", *(cell(adapter, action) for adapter in ADAPTERS.values())]
        for action in Action
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_readme_says_what_each_adapter_has() -> None:
    """The table that people read is the one that the code declares."""
    assert matrix() in README.read_text(encoding="utf-8")


def test_every_adapter_stands_in_the_table_under_its_own_name() -> None:
    """Adapters declare what the base knows, one level deep."""
    for name, adapter in ADAPTERS.items():
        assert name == adapter.name
        assert ApiV2 in adapter.__mro__[:2]  # inheritance is one deep
        declared = {field for field in vars(adapter) if not field.startswith("__")}
        known = set(vars(ApiV2)) | set(ApiV2.__annotations__)
        assert declared <= known | {"_abc_impl"}


def test_adapters_know_no_wire_no_clock_no_disk_and_no_float() -> None:
    """Adapters are pure."""
    sources = [path.read_text(encoding="utf-8") for path in README.parent.glob("*.py")]
    banned = re.compile(
        r"^(?:from|import) (?:asyncio|httpx|os|pathlib|random|socket|ssl|time|datetime|starlette)\b"
        r"|\bfloat\(|: float|-> float|\basync def\b",
        re.MULTILINE,
    )

    assert [] == [found for source in sources for found in banned.findall(source)]


def test_the_readers_know_the_place_of_every_id() -> None:
    """Rows are found by position only where none of them names an id."""
    call = Call(Action.CANCEL, ids=("1", "2"))

    assert {"1": 5, "2": 6} == shapes.rows(call, [5, 6])
    assert {"2": {"order": 2}} == shapes.rows(call, [{"order": 2}, {"order": 3}])
    with pytest.raises(Indeterminate):
        shapes.rows(call, [{"order": 3}, {"order": 4}])


# --- a long list ----------------------------------------------------------------------------------

ROW_OF_ANY = {
    "service": 1,
    "name": 'quoted " and \\ and } ] , { [ \u00e9 \U0001f388 \n',
    "rate": 26.879999999999999,
    "desc": "x" * 300,
    "cancel": None,
    "refill": True,
}


@pytest.mark.parametrize("wrap", ["{}", " {} \n", '{{"status": "success", "data": {}}}'])
@pytest.mark.parametrize("between", [",", " ,\n "])
def test_a_long_list_is_read_like_a_short_one(wrap: str, between: str) -> None:
    """Row by row, so that nobody has to wait for the whole."""
    one = json.dumps(ROW_OF_ANY)
    (row,) = cast("list[Any]", wild.parse(f"[{one}]".encode()))
    body = wrap.format(f"[{between.join([one] * 1000)}]")
    assert len(body) > wild.LARGE
    found = wild.parse(body.encode())

    assert [row] * 1000 == (found["data"] if isinstance(found, dict) else found)


ODD_ROWS: list[Any] = [
    ROW_OF_ANY | {"min": 1, "max": 2},
    {"service": "a1", "name": " x ", "rate": "$1,200.50", "min": "5.9", "max": 7, "refill": "yes"},
    {"service": 2, "name": "x", "rate": 1, "min": 1, "max": 2, "desc": " ", "description": 3},
    {"service": 3, "name": ["x"], "rate": "1", "min": 1, "max": 2},
    {"service": 4, "name": "x", "rate": [], "min": 1, "max": 2},
    {"service": 5, "name": "x", "rate": True, "min": 1, "max": 2},
    {"service": 6, "name": "x", "rate": "1", "min": None, "max": 2},
    {"service": 7, "name": "x", "rate": "1", "min": 1},
    {"service": 0, "name": "x", "rate": "1", "min": 1, "max": 2, "type": 8},
    {"service": 8, "name": "x", "rate": "1", "min": 1, "max": 2, "refill": 1},
    {"service": 8, "name": "x", "rate": "1", "min": 1, "max": 2, "refill": 1.0},
    {"service": 8, "name": "x", "rate": "1", "min": True, "max": 2, "refill": 1},
    {"service": 8, "name": "x", "rate": "1", "min": 1, "max": 2, "refill": [1], "category": ["a"]},
    {"name": "x"},
    {},
]


@pytest.mark.parametrize("others", [[], [7], [{"service": 1, "name": {"a": {}}}]], ids=repr)
@pytest.mark.parametrize("wrap", ["{}", '{{"services": {}}}'])
def test_each_service_in_a_long_list_is_read_as_alone(wrap: str, others: list[Any]) -> None:
    """Whatever it says, between small rows and large ones."""
    rows = [*ODD_ROWS, *(row | {"other": "x" * wild.PIECE} for row in ODD_ROWS), *ODD_ROWS * 100]
    rows += others
    body = wrap.format(json.dumps(rows, separators=(",", ":")))
    assert len(body) > wild.LARGE
    found = wild.parse(body.encode(), services=True)

    alone = [_read(shapes.offers(), wild.parse(json.dumps(row).encode())) for row in rows]
    read = shapes.offers()
    assert alone == [_read(read, row) for row in shapes.listed(found)]
    assert "3" in {one.description for one in alone if isinstance(one, Offer)}


def _read(read: Callable[[wild.Wild], Offer], row: wild.Wild) -> Offer | str:
    try:
        return read(row)
    except ValueError as misfit:
        return str(misfit)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("]", "]]"),
        ("]", "] x"),
        ("]", ""),
        ("]", ",]"),
        ("},{", "}{"),
        ("},{", "},,{"),
        ('"service"', "service"),
        ("26.879999999999999", "NaN"),
    ],
)
def test_a_long_list_is_json_to_its_end_or_nothing(old: str, new: str) -> None:
    rows = ",".join(['{"service":1,"rate":26.879999999999999}'] * 10_000)
    head, _, tail = f"[{rows}]".rpartition(old)
    assert len(head) > wild.LARGE

    with pytest.raises(ValueError, match="not JSON"):
        wild.parse(f"{head}{new}{tail}".encode())


def test_rows_within_rows_are_read_in_a_long_list_too() -> None:
    row = {"service": 1, "more": {"a": [1, {"b": 2}]}, "desc": "x" * 1000}

    assert [row] * 500 == wild.parse(json.dumps([row] * 500).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b",".join([b"{}"] * (wild.MOST_ROWS + 2)) + b"]",
        b'["' + b"x" * wild.ODDEST + b'"]',
        b'{"services":["' + b"x" * wild.ODDEST + b'"]}',
        b"[" * (wild.ODDEST + 1),
    ],
    ids=["too many rows", "one of enormous size", "wrapped", "only brackets"],
)
def test_a_list_beyond_all_measure_is_not_read(body: bytes) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        wild.parse(body)
