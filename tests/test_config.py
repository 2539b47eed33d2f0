"""The owner's file: what it means, and what is said of every mistake in it.

``broken/*.txt`` holds the collection of broken files: each begins with ``===`` and its sentence,
and ends with ``>>>`` and the messages, less the file's name.
"""

import hashlib
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, Limits, Route, load, parse
from gateway.errors import ConfigError
from gateway.model import Action
from gateway.order_types import Size

HERE = Path(__file__).parent
NAME = "providers.yaml"
ADAPTERS = {
    "smm_panel_in": "INR",
    "instasmm": "USD",
    "smmproxy": "USD",
    "smmai": "USD",
    "smm1st": "USD",
    "api_v2": "USD",
}
ENVIRONMENT = {"KEY": "from-the-environment", "EMPTY": ""}
PANEL = """\
currency: USD
providers:
  smmai: {adapter: smmai, url: https://a.example/api/v2, key: ${KEY}}
"""

CONTRACT = """\
currency: USD                    # what customers are charged in
exchange_rates:                  # one unit of each, in `currency`
  INR: "0.0119"
markup: 25%                      # the default

every:                           # how often, in the background
  catalog: 10m
  status: 30s
  balance: 5m

providers:
  smm-panel.in:
    adapter: smm_panel_in        # smm_panel_in | instasmm | smmproxy | smmai | smm1st | api_v2
    url: https://smm-panel.in/api/v2
    key: ${SMM_PANEL_IN_KEY}     # from the environment; a key is never written in the file
    currency: INR
    timeout: 15s
    limits: {concurrency: 8, per_second: 10}
    low_balance: 500             # warn under this, in the provider's currency
  instasmm:  {adapter: instasmm,  url: https://instasmm.in/api/v2,  key: ${INSTASMM_KEY}}
  smmproxy:  {adapter: smmproxy,  url: https://smmproxy.com/api/v2, key: ${SMMPROXY_KEY}}
  smmai:     {adapter: smmai,     url: https://smmai.net/api/v2,    key: ${SMMAI_KEY}}
  smm1st:    {adapter: smm1st,    url: https://smm1st.com/api/v2,   key: ${SMM1ST_KEY}}
  sixth:
    adapter: api_v2
    url: https://panel.example/api/v2
    key: ${SIXTH_KEY}
    dialect:
      rename: {link: url}        # our field: theirs
      batch: {cancel: 1}         # ids a call may carry; 1 means the singular parameter
      without: [refill_status]   # actions it does not have

services:
  101:
    routes: [smm-panel.in/1]     # provider/its service id
    name: Instagram followers
    category: Instagram
    markup: 30%
  102:
    routes: [smmai/1, smm1st/1]
    routing: cheapest
    rate: "1.20"

imports:
  - provider: smmai
    categories: ["Second*"]
    ids_from: 10000
    markup: 40%

tiers:
  gold: {markup: 10%}

orders:
  answer_within: 4s
  unavailable: refuse
  duplicates: allow
  duplicate_window: 60s
  first_id: 1
"""
KEYS = {f"{name}_KEY": f"secret of {name}" for name in
        ("SMM_PANEL_IN", "INSTASMM", "SMMPROXY", "SMMAI", "SMM1ST", "SIXTH")}  # fmt: skip


def read(text: str, **variables: str) -> Config:
    return parse(text, NAME, ENVIRONMENT | variables, ADAPTERS)


def mistakes(text: str, **variables: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, **variables)
    return list(caught.value.mistakes)


def judged(text: str) -> tuple[str, ...]:
    try:
        read(text)
    except ConfigError as error:
        return error.mistakes
    return ()


def collection() -> list[object]:
    cases: list[object] = []
    for path in sorted((HERE / "broken").glob("*.txt")):
        for case in re.split(r"^=== ", path.read_text(), flags=re.MULTILINE)[1:]:
            sentence, _, rest = case.partition("\n")
            text, _, told = rest.partition(">>>\n")
            expected = [f"{NAME}:{line}" for line in told.strip().splitlines()]
            cases.append(pytest.param(text, expected, id=f"{path.stem}: {sentence}"))
    return cases


# --- what is wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), collection())
def test_a_mistake_is_told_at_its_place_with_what_would_be_right(
    text: str, expected: list[str]
) -> None:
    """Every file of the collection gets exactly its messages."""
    told = mistakes(text)

    assert expected == told


def test_all_mistakes_of_a_file_are_told_at_once_in_its_order() -> None:
    """One wrong thing hides no other, whatever kind each is of."""
    text = """\
currency: USD
markup: -1%
markup: 2%
every: {catalog: soon, statsu: 3s}
providers:
  smmai: {adapter: smmia, url: nowhere, key: ${KEY}}
  other: {adapter: smm_panel_in, url: https://a.example, key: ${NOT_THERE}}
  third: {adapter: smmai, url: https://a.example, key: abc, dialect: {without: [refil]}}
services:
  1: {routes: [smmai/1, smmai/1, nobody/1], rate: 1, markup: 3%}
  0: {routes: [smmai]}
imports:
  - {provider: nobody, ids_from: 0}
tiers: {gold: {markup: -3%}}
orders: {answer_within: 1y, first_id: 0}
"""
    expected = """\
2:9: '-1%' is negative, which would sell below cost; give 0% or more
3:1: key `markup` is given twice, first on line 2; remove one of them
4:18: 'soon' is not a duration; write one such as 500ms, 30s, 10m, 2h or 30d
4:24: there is no key `statsu` here; did you mean `status`?
6:20: there is no adapter `smmia`; did you mean `smmai`?
6:32: this is not a web address; write one such as https://panel.example/api/v2
7:20: other charges in INR, which has no exchange rate; add it to exchange_rates
7:63: the variable NOT_THERE is not set; set it in the environment, or in .env beside the file
8:56: a key is never written in the file; write ${THIRD_KEY} and set that variable
8:81: 'refil' is not known here; did you mean `refill`?
10:25: route 'smmai/1' stands here twice; remove one of them
10:34: there is no provider `nobody`; known are other, smmai, third
10:45: a service has a rate or a markup, not both; remove one of them
11:3: '0' is not an id; give a whole number from 1 to 2147483647
11:16: 'smmai' is not a route; write provider/service, such as panel/1
13:16: there is no provider `nobody`; known are other, smmai, third
13:34: '0' is not an id; give a whole number from 1 to 2147483647
14:24: '-3%' is negative, which would sell below cost; give 0% or more
15:25: '1y' is not a duration; write one such as 500ms, 30s, 10m, 2h or 30d
15:39: '0' is not an id; give a whole number from 1 to 2147483647"""

    told = mistakes(text)

    assert [f"{NAME}:{line}" for line in expected.splitlines()] == told


def test_places_are_counted_in_characters_and_not_in_bytes() -> None:
    """A comment, a name or a variable before the mistake does not shift its column."""
    told = mistakes("currency: USD\ntiers: {'é😀': {markup: ${KEY}}, gold: {markup: 3}} # ñ\n")

    assert [
        "providers.yaml:2:9: 'é😀' is not a name; use letters, digits, dots, - and _",
        "providers.yaml:2:24: '${KEY}' is not a percentage; write it with its sign, such as 25%",
        "providers.yaml:2:48: '3' is not a percentage; write it with its sign, as 3%",
    ] == told


def test_a_character_that_cannot_be_seen_is_named() -> None:
    """The bell after an é stands in column 10, though it is the eleventh byte."""
    told = mistakes("currency: USD\nmarkup: é\x07\n")

    assert ["providers.yaml:2:10: the character U+0007 can't be seen; remove it"] == told


@pytest.mark.parametrize("levels", [21, 500, 100_000])
def test_nesting_without_end_is_refused_and_kills_nothing(levels: int) -> None:
    """However deep it goes, the mistake is the twenty-first level."""
    told = mistakes("currency: " + "[" * levels + "]" * levels)

    assert ["providers.yaml:1:31: nested more than 20 deep; no part of the file is"] == told


def test_aliases_that_multiply_are_stopped_early() -> None:
    """A bomb of ten to the eighth words is refused where it passes the limit."""
    bomb = "currency: USD\na: &a [" + "x, " * 9 + "x]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"

    told = mistakes(bomb)

    assert ["providers.yaml:6:36: the aliases of this file repeat too much; write it out"] == told


def test_an_alias_within_itself_is_refused() -> None:
    """A block can't be a part of itself."""
    told = mistakes("currency: USD\ntiers: &t {gold: *t}\n")

    assert [
        "providers.yaml:2:18: nothing above has this name; a text that begins with * needs quotes"
    ] == told


SECRET = "5ecret5ecret"


@pytest.mark.parametrize(
    "place",
    [
        "currency: {}", "currency: USD\nmarkup: {}", "currency: USD\nevery: {{status: {}}}",
        "currency: USD\nexchange_rates: {{INR: {}}}", "currency: USD\ntiers: {}",
        "currency: USD\nimports: {}", "currency: USD\norders: {{first_id: {}}}",
        "currency: USD\norders: {{duplicates: {}}}", "currency: USD\nproviders: {{a: {}}}",
        "currency: USD\nproviders: {{a: {{adapter: {}, url: {}, key: {}, currency: {}}}}}",
        "currency: USD\nproviders: {{a: {{dialect: {{rename: {{link: [{}]}}}}}}}}",
        "currency: USD\nservices: {{1: {{routes: [{}], min: {}, refill: {}}}}}",
        "currency: USD\nservices: {{1: {{routes: ['{}/1', '{}/1']}}}}",
        "currency: USD\nservices: {{1: {{parameters: {{required: [{}], size: {}}}}}}}",
        "currency: USD\nimports: [{{provider: {}, ids_from: {}}}]",
    ],
)  # fmt: skip
def test_a_message_never_says_what_a_variable_holds(place: str) -> None:
    """Wherever a variable is written, a mistake there quotes the file, not the environment."""
    told = mistakes(place.replace("{}", "${HIDDEN}").replace("{{", "{").replace("}}", "}"),
                    HIDDEN=SECRET)  # fmt: skip

    assert not [line for line in told if SECRET in line]


@pytest.mark.parametrize(
    "key",
    [SECRET, f"[{SECRET}]", f"{{a: {SECRET}}}", f"${{KEY:-{SECRET}}}", f"${{{SECRET}-x}}",
     f"*{SECRET}", f"!{SECRET} x", f"@{SECRET}", f"'{SECRET}", f"{SECRET}: x"],
)  # fmt: skip
def test_a_message_never_says_what_was_written_as_a_key(key: str) -> None:
    """A key that stands in the file by mistake does not get into a log as well."""
    told = mistakes(f"currency: USD\nproviders:\n  a:\n    key: {key}\n")

    assert told
    assert not [line for line in told if SECRET in line]


@pytest.mark.parametrize("url", [f"https://me:{SECRET}@a.example", f"a.example?key={SECRET}"])
def test_a_message_never_says_an_address(url: str) -> None:
    """Keys are pasted into addresses, too."""
    told = mistakes(PANEL.replace("https://a.example/api/v2", url))

    assert told
    assert not [line for line in told if SECRET in line]


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_a_config_or_a_list_of_mistakes(text: str) -> None:
    """Whatever is typed, nothing else is raised."""
    told = judged(text)

    assert all(re.match(r"providers\.yaml:\d+:\d+: \S", line) for line in told)


_KNOWN = [
    "currency", "exchange_rates", "markup", "every", "providers", "services", "imports",
    "tiers", "orders", "a", "1", "adapter", "url", "key", "dialect", "rename", "batch",
    "without", "limits", "routes", "parameters", "required", "optional", "size", "rate", "min",
    "max", "provider", "ids_from", "names", "except", "status",
]  # fmt: skip
_SHAPES = st.recursive(
    st.sampled_from(["1", "x", "25%", "30s", "true", "", "smmai/1", "${KEY}", "${NO}"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from(_KNOWN),
            inner,
            max_size=5,
        ).map(lambda block: "{" + ", ".join(f"{k}: {v}" for k, v in block.items()) + "}"),
    ),
    max_leaves=12,
)


@given(_SHAPES)
def test_any_shape_is_a_config_or_a_list_of_mistakes(text: str) -> None:
    """Known keys in the wrong places are mistakes, and never a crash."""
    told = judged(text)

    assert all(re.match(r"providers\.yaml:\d+:\d+: \S", line) for line in told)
    assert not [line for line in told if "does not fit here" in line]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The message says which path was tried, and how to name another."""
    path = tmp_path / NAME
    with pytest.raises(ConfigError) as caught:
        load(path, {}, ADAPTERS)

    told = f"{path}:1:1: there is no such file; write one, or name another as GATEWAY_CONFIG"
    assert (told,) == caught.value.mistakes


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    """What can't be read says why."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {}, ADAPTERS)

    told = f"{tmp_path}:1:1: the file can't be read (is a directory); name one that can"
    assert (told,) == caught.value.mistakes


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_that_is_not_utf8_is_refused_at_the_first_wrong_byte(
    tmp_path: Path, mark: bytes
) -> None:
    """A name saved as Latin-1 is found in its line, with or without a byte-order mark."""
    path = tmp_path / NAME
    path.write_bytes(mark + "currency: USD\n# ñ".encode() + b" caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, ADAPTERS)

    told = f"{path}:2:8: this is not UTF-8; save the file in that encoding"
    assert (told,) == caught.value.mistakes


# --- what is right ----------------------------------------------------------------------------


def test_the_example_of_the_contract_is_read_whole() -> None:
    """Every key of the contract has its place and its meaning."""
    config = read(CONTRACT, **KEYS)

    assert config.currency == "USD"
    assert config.exchange_rates.fixed == {"INR": Decimal("0.0119")}
    assert config.markup == {Decimal(0): Decimal("0.25")}
    assert (config.every.catalog, config.every.status, config.every.balance) == (600, 30, 300)
    assert list(config.providers) == [
        "smm-panel.in", "instasmm", "smmproxy", "smmai", "smm1st", "sixth",
    ]  # fmt: skip
    first, sixth = config.providers["smm-panel.in"], config.providers["sixth"]
    assert (first.adapter, first.url) == ("smm_panel_in", "https://smm-panel.in/api/v2")
    assert first.key.get_secret_value() == "secret of SMM_PANEL_IN"
    assert (first.currency, first.timeout, first.low_balance) == ("INR", 15.0, Decimal(500))
    assert first.limits == Limits(concurrency=8, per_second=10)
    assert sixth.dialect.rename == {"link": "url"}
    assert sixth.dialect.batch == {Action.CANCEL: 1}
    assert sixth.dialect.without == [Action.REFILL_STATUS]
    assert list(config.services) == [101, 102]
    assert config.services[101].routes == [Route(provider="smm-panel.in", service="1")]
    assert config.services[101].markup == {Decimal(0): Decimal("0.30")}
    assert (config.services[102].routing, config.services[102].rate) == (
        "cheapest",
        Decimal("1.20"),
    )
    assert config.imports[0].categories == ["Second*"]
    assert config.imports[0].ids_from == 10000
    assert config.imports[0].markup == {Decimal(0): Decimal("0.40")}
    assert config.tiers["gold"].markup == {Decimal(0): Decimal("0.10")}
    assert (config.orders.answer_within, config.orders.duplicate_window) == (4.0, 60.0)


def test_the_example_beside_the_program_is_right() -> None:
    """The repository's own file loads, with all five providers and without a warning."""
    config = load(HERE.parent / NAME, KEYS, ADAPTERS)

    assert list(config.providers) == ["smm-panel.in", "instasmm", "smmproxy", "smmai", "smm1st"]
    assert min(config.services) == 101
    assert config.warnings == []


def test_a_currency_alone_is_a_first_start() -> None:
    """Nothing is sold yet, and every default is the documented one."""
    config = read("currency: EUR\nproviders:\nservices:\nimports:\ntiers:\norders:\nevery:\n")

    assert (config.currency, config.markup, config.round) == ("EUR", {Decimal(0): Decimal(0)}, None)
    assert (config.providers, config.services, config.imports, config.tiers) == ({}, {}, [], {})
    assert (config.every.catalog, config.every.status, config.every.balance) == (600, 30, 300)
    assert config.orders.model_dump() == {
        "answer_within": 4,
        "unavailable": "refuse",
        "queue_for": 86400,
        "unknown_refusals": "stop",
        "duplicates": "allow",
        "duplicate_window": 60,
        "first_id": 1,
        "follow_for": 30 * 86400,
        "subscription_posts": 30,
        "rate_grace": 60,
        "max_catalog_age": None,
    }
    assert config.max_catalog_age == 86400


def test_a_provider_charges_in_its_adapters_currency_unless_the_file_says_another() -> None:
    """The currency is filled in, so that nobody has to ask the adapter."""
    text = PANEL.replace("adapter: smmai", "adapter: smm_panel_in")

    config = read(text + 'exchange_rates: {INR: "0.0119"}\n')

    assert config.providers["smmai"].currency == "INR"
    assert read(text.replace("key:", "currency: USD, key:")).providers["smmai"].currency == "USD"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("15", 15), ("10m", 600), ("2h", 7200), ("1d", 86400),
     ("1.5h", 5400), ("0.25", 0.25)],
)  # fmt: skip
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    """A bare number is seconds."""
    config = read(f"currency: USD\nevery: {{catalog: {text}}}\n")

    assert seconds == config.every.catalog


@given(st.decimals("0.000000000000001", "999999999999999", allow_nan=False))
def test_an_unquoted_decimal_keeps_every_digit(number: Decimal) -> None:
    """No rate passes through a float on its way."""
    whole, _, part = f"{number:f}".partition(".")
    text = f"{whole}.{part[:15]}" if part else whole
    if Decimal(text) == 0:
        return
    config = read(f"currency: USD\nexchange_rates: {{INR: {text}}}\n")

    assert text == f"{config.exchange_rates.fixed['INR']:f}"


@given(st.integers(0, 999_999), st.text("0123456789", min_size=1, max_size=9))
def test_a_percentage_is_an_exact_fraction(whole: int, part: str) -> None:
    """12.10% is 0.1210, to the last digit."""
    config = read(f"currency: USD\nmarkup: {whole}.{part}%\n")

    assert config.markup[Decimal(0)] * 100 == Decimal(f"{whole}.{part}")


def test_services_of_one_markup_keep_it_once() -> None:
    """Ten thousand of them would have as many tables of steps."""
    said = "markup: {0: 60%, 1: 40%}"
    rows = f"1: {{routes: [smmai/1], {said}}}, 2: {{routes: [smmai/2], {said}}}"
    services = read(f"{PANEL}services: {{{rows}}}").services

    assert {Decimal(0): Decimal("0.6"), 1: Decimal("0.4")} == services[1].markup
    assert services[1].markup is services[2].markup


def test_a_markup_may_go_by_steps_of_the_rate() -> None:
    """At every place that may have one, and each step exactly."""
    config = read(
        """\
currency: USD
markup: {0: 60%, 1: 40%, "10.5": 25%}
tiers: {gold: {markup: {0: 5%, 2: 1%}}}
"""
    )

    assert config.markup == {
        Decimal(0): Decimal("0.6"),
        1: Decimal("0.4"),
        Decimal("10.5"): Decimal("0.25"),
    }
    assert config.tiers["gold"].markup == {Decimal(0): Decimal("0.05"), 2: Decimal("0.01")}


def test_a_catalog_may_be_as_old_as_three_of_its_rounds() -> None:
    """Who fetches catalogs once in two days still sells, unless the file says otherwise."""
    assert read("currency: USD\nevery: {catalog: 2d}\n").max_catalog_age == 6 * 86400
    rare = read("currency: USD\nevery: {catalog: 2d}\norders: {max_catalog_age: 3d}\n")
    assert rare.max_catalog_age == 3 * 86400


def test_a_variable_may_be_anywhere_in_a_value_and_holds_no_yaml() -> None:
    """What a variable holds is text: it opens no list and adds no key."""
    config = read(
        PANEL.replace("a.example", "${HOST}:${PORT}")
        + "services:\n  1: {routes: [smmai/1], name: ${NAME}, category: 'a ${NAME}'}\n",
        HOST="panel.example",
        PORT="8443",
        NAME="[x]: {y}\n# z",
    )

    assert config.providers["smmai"].url == "https://panel.example:8443/api/v2"
    assert config.services[1].name == "[x]: {y}\n# z"
    assert config.services[1].category == "a [x]: {y}\n# z"


def test_a_key_is_not_shown_when_the_config_is() -> None:
    """A log line with the whole config in it has no key in it."""
    assert ENVIRONMENT["KEY"] not in repr(read(PANEL))


def test_an_unknown_order_type_takes_what_the_owner_says() -> None:
    """The owner's ``parameters`` become the row that the table of order types lacks."""
    config = read(
        PANEL
        + """\
services:
  1:
    routes: [smmai/1]
    parameters: {required: [link, quantity, emoji], optional: [gender], size: runs}
"""
    )
    parameters = config.services[1].parameters
    assert parameters is not None

    row = parameters.order_type("Reactions")

    assert (row.name, row.required, row.optional, row.size) == (
        "Reactions",
        ("link", "quantity", "emoji"),
        ("gender",),
        Size.RUNS,
    )


def test_what_is_written_once_may_be_meant_twice() -> None:
    """An anchor and its alias are one block at two places."""
    config = read(
        PANEL.replace("key:", "limits: &slow {per_second: 2}, key:")
        + "  other: {adapter: smmai, url: https://b.example, key: '${KEY}', limits: *slow}\n"
    )

    assert config.providers["other"].limits == Limits(per_second=2)


def test_an_alias_means_what_its_name_meant_where_it_was_said() -> None:
    """A name that is given twice, and one within a block that is said again."""
    config = read(
        "currency: USD\n"
        "tiers:\n"
        "  gold: &tier {markup: &fraction 10%}\n"
        "  silver: {markup: &fraction 20%}\n"
        "  bronze: *tier\n"
        "  iron: {markup: *fraction}\n"
    )

    expected = {"gold": "0.10", "silver": "0.20", "bronze": "0.10", "iron": "0.20"}
    assert {name: {0: Decimal(share)} for name, share in expected.items()} == {
        name: tier.markup for name, tier in config.tiers.items()
    }


def test_a_mistake_in_what_is_said_again_stands_where_it_is_written() -> None:
    """Once; and of what the file does not take nothing more is said."""
    told = mistakes("currency: USD\ntiers: {a: &t {markup: 3}, b: *t, b: {markup: '${NO}'}}\n")

    assert [
        "providers.yaml:2:24: '3' is not a percentage; write it with its sign, as 3%",
        "providers.yaml:2:35: key `b` is given twice, first on line 2; remove one of them",
    ] == told


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    """Editors leave both behind."""
    path = tmp_path / NAME
    path.write_bytes(b"\xef\xbb\xbf" + PANEL.replace("\n", "\r\n").encode())

    assert load(path, ENVIRONMENT, ADAPTERS).providers == read(PANEL).providers


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """It moves no column, and makes no other file of it."""
    path = tmp_path / NAME
    path.write_bytes(b"\xef\xbb\xbfcurrency: USD\n")
    plain = read("currency: USD\n")

    assert plain.digest == load(path, {}, ADAPTERS).digest
    path.write_bytes(b"\xef\xbb\xbf{currency: usd}\n")
    with pytest.raises(ConfigError, match=r":1:12: 'usd' is not a currency"):
        load(path, {}, ADAPTERS)


def test_the_digest_is_that_of_the_text() -> None:
    """A changed file is told from an unchanged one."""
    assert hashlib.sha256(PANEL.encode()).hexdigest() == read(PANEL).digest
    assert read(PANEL).digest != read(PANEL + "\n").digest


def test_exchange_rates_may_have_a_source_beside_fixed_ones() -> None:
    """With a source, a provider's currency needs no rate in the file."""
    text = (
        "currency: USD\n"
        "exchange_rates: {from: rates.json, every: 6h, max_age: 2d, max_move: 5%, "
        "date: 2026-11-21, EUR: 1.08}\n"
        "providers:\n"
        "  p: {adapter: smm_panel_in, url: https://a.example/api/v2, key: ${KEY}}\n"
    )
    rates = read(text).exchange_rates

    assert ("rates.json", 21_600.0, 172_800.0) == (rates.from_, rates.every, rates.max_age)
    assert (Decimal("0.05"), "2026-11-21") == (rates.max_move, str(rates.date))
    assert {"EUR": Decimal("1.08")} == rates.fixed
