"""Whole catalogs by rule: what is taken over, and ids and names that never change their meaning."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given as given_
from hypothesis import settings
from hypothesis import strategies as st

import build
from databases import database
from gateway import config, imports
from gateway.adapters import ADAPTERS
from gateway.config import Config
from gateway.config.values import LARGEST_ID
from gateway.imports import Given, Wanted
from gateway.model import Offer
from gateway.services import Catalog
from gateway.store import Store
from gateway.store.postgres import PostgresStore
from gateway.store.sqlite import SqliteStore
from world import ROWS, Panel, World, world

Offers = dict[str, dict[str, Offer]]
UNAVAILABLE = {"error": "Service is unavailable"}


def yaml(*rules: str, services: str = "", more: str = "") -> str:
    """Return the owner's file: two providers, these rules, and what else is said."""
    return f"""
currency: USD
providers:
  p: {{adapter: api_v2, url: "http://panel/p", key: "${{KEY}}"}}
  q: {{adapter: api_v2, url: "http://panel/q", key: "${{KEY}}"}}
services: {{{services}}}
imports: [{", ".join(f"{{{rule}}}" for rule in rules)}]
{more}
"""


def read(text: str) -> Config:
    currencies = {name: adapter.currency for name, adapter in ADAPTERS.items()}
    return config.parse(text, "providers.yaml", {"KEY": "upstream-secret"}, currencies)


def offer(service: str, name: str = "", category: str = "First", rate: str = "1") -> Offer:
    """Return a row of a provider's list."""
    row = build.offer(service, name or f"Likes {service}", rate)
    return msgspec.structs.replace(row, category=category)


def offers(*rows: Offer, provider: str = "p") -> Offers:
    return {provider: {row.id: row for row in rows}}


def sold(file: Config, found: Offers, given: Given | None = None) -> Catalog:
    """Return what is for sale, ids and names being given as a store would."""
    given = given or Given()
    rows = list(imports.find(file, found))
    imports.give(given, imports.wanted(file, rows, given), file.services)
    return Catalog.make(file, found, lambda *_: True, "", rows, given)


def names(catalog: Catalog) -> dict[int, str]:
    return {number: service.name for number, service in catalog.services.items()}


# --- what is taken over ---------------------------------------------------------------------------

LIST = offers(
    offer("1", "Instagram Likes", "Instagram"),
    offer("2", "Instagram Views [HQ]", "Instagram"),
    offer("3", "TikTok Likes", "TikTok"),
    offer("10", "TikTok Views", "TikTok | Fast"),
)


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ("", "1 2 3 10"),
        (", categories: [Instagram]", "1 2"),
        (", categories: [TikTok]", "3"),
        (", categories: ['TikTok*', Insta]", "3 10"),
        (", categories: ['tiktok*']", ""),
        (", names: ['*Likes']", "1 3"),
        (", names: ['*[[]HQ]']", "2"),
        (", names: ['??kTok *']", "3 10"),
        (", names: ['*Likes'], categories: ['TikTok*']", "3"),
        (", except: ['*Views*']", "1 3"),
        (", except: ['TikTok | *']", "1 2 3"),
        (", except: [2, 10]", "1 3"),
        (", names: ['*Likes'], except: [Instagram]", "3"),
    ],
)
def test_a_rule_takes_over_what_fits_its_patterns(rule: str, taken: str) -> None:
    """As a shell has them: of category and name both, unless an exception fits any."""
    catalog = sold(read(yaml(f"provider: p, ids_from: 1{rule}")), LIST)

    assert taken.split() == [one.routes[0].offer.id for one in catalog.services.values()]


def test_of_several_rules_that_fit_the_first_holds() -> None:
    """With its own ids, prices and words."""
    file = read(
        yaml(
            "provider: p, ids_from: 100, names: ['*Likes'], markup: 50%,rewrite: {category: Liked}",
            "provider: p, ids_from: 200, markup: 10%",
        )
    )
    catalog = sold(file, LIST)

    assert {
        100: ("Liked", Decimal("1.5")),
        101: ("Liked", Decimal("1.5")),
        200: ("Instagram", Decimal("1.1")),
        201: ("TikTok | Fast", Decimal("1.1")),
    } == {number: (one.category, one.rate("")) for number, one in catalog.services.items()}


@pytest.mark.parametrize(
    ("rule", "name", "category"),
    [
        ("", "SMM Likes  [HQ]", "Cheap | SMM"),
        (", rewrite: {replace: {SMM: '', '| ': ''}}", "Likes [HQ]", "Cheap"),
        (", rewrite: {replace: {'Likes': Hearts, 'Hearts  ': '♥ '}}", "SMM ♥ [HQ]", "Cheap | SMM"),
        (", rewrite: {replace: {'SMM Likes  [HQ]': ''}}", "SMM Likes  [HQ]", "Cheap | SMM"),
        (", rewrite: {name: '{name} ★', category: Likes}", "SMM Likes  [HQ] ★", "Likes"),
        (
            ", rewrite: {name: '{category}: {name}', replace: {SMM: X}}",
            "Cheap | X: X Likes [HQ]",
            "Cheap | X",
        ),
    ],
)
def test_a_rule_rewrites_names_and_categories(rule: str, name: str, category: str) -> None:
    """Texts first, in turn; then the whole."""
    rows = offers(offer("1", "SMM Likes  [HQ]", "Cheap | SMM"))

    (service,) = sold(read(yaml(f"provider: p, ids_from: 1{rule}")), rows).services.values()

    assert (name, category) == (service.name, service.category)


def test_what_a_services_entry_has_is_not_imported_as_well() -> None:
    """Neither under another id, nor over the owner's own."""
    file = read(yaml("provider: p, ids_from: 5", services="6: {routes: [p/1], name: Mine}"))
    catalog = sold(file, LIST)

    assert {6: "1", 5: "2", 7: "3", 8: "10"} == {
        number: one.routes[0].offer.id for number, one in catalog.services.items()
    }
    assert "Mine" == catalog.services[6].name


def test_an_entry_may_take_over_an_imported_id_and_give_it_back() -> None:
    """As long as it stands, the id is the owner's."""
    before, given = read(yaml("provider: p, ids_from: 5")), Given()
    sold(before, LIST, given)
    entry = read(yaml("provider: p, ids_from: 5", services="6: {routes: [p/2], rate: 3}"))

    assert Decimal(3) == sold(entry, LIST, given).services[6].rate("")
    assert [5, 6, 7, 8] == sorted(sold(entry, LIST, given).services)
    assert Decimal(1) == sold(before, LIST, given).services[6].rate("")


def test_what_is_free_or_of_an_unknown_type_is_not_imported() -> None:
    """The one is a mistake, and of the other nobody knows what it takes."""
    odd = msgspec.structs.replace(offer("2"), type="Telepathy")
    catalog = sold(
        read(yaml("provider: p, ids_from: 1")), offers(offer("1", rate="0"), odd, offer("3"))
    )

    assert ["3"] == [one.routes[0].offer.id for one in catalog.services.values()]


# --- names ----------------------------------------------------------------------------------------

RULE = "provider: p, ids_from: 10"


def test_the_second_service_of_a_name_has_its_id_behind_it_and_that_never_changes() -> None:
    """Neither when the first one is gone, nor when that one is called something else."""
    file, given = read(yaml(RULE)), Given()
    first, second, third = (offer(number, "Likes") for number in "123")

    assert {10: "Likes", 11: "Likes (11)"} == names(sold(file, offers(first, second), given))
    assert {11: "Likes (11)"} == names(sold(file, offers(second), given))
    renamed = offers(offer("1", "Hearts"), second, third)
    told = {10: "Hearts", 11: "Likes (11)", 12: "Likes (12)"}
    assert told == names(sold(file, renamed, given))
    told = {10: "Likes", 11: "Likes (11)", 12: "Likes (12)"}
    assert told == names(sold(file, offers(third, first, second), given))


def test_a_name_of_the_owners_own_is_left_to_him() -> None:
    """And what a provider calls like an id of ours takes none of its names."""
    file = read(yaml(RULE, services="1: {routes: [p/9], name: Likes}"))
    rows = offers(offer("9"), offer("1", "Likes"), offer("2", "Likes (10)"), offer("3", "a" * 300))

    told = {1: "Likes", 10: "Likes (10)", 11: "Likes (10) (11)", 12: "a" * 300 + " (12)"}
    assert told == names(sold(file, rows))


# --- for ever -------------------------------------------------------------------------------------

ROUNDS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("123456"), st.sampled_from(["A", "B", "A (10)"])),
        st.sets(st.integers(9, 14), max_size=2),
        st.integers(0, 2),
    ),
    max_size=6,
)
RULES = (
    (RULE, "provider: p, ids_from: 12, names: [B]"),
    ("provider: p, ids_from: 13",),
    ("provider: p, ids_from: 11, names: ['A*']", RULE),
)


@settings(deadline=None, database=None)
@given_(ROUNDS)
def test_no_id_and_no_name_ever_changes_its_meaning(
    rounds: list[tuple[dict[str, str], set[int], int]],
) -> None:
    """Whatever comes, goes and is renamed, and whatever the owner writes in his file meanwhile."""
    given = Given()
    meaning: dict[int, str] = {}
    alone: dict[str, int] = {}
    for rows, entries, rules in rounds:
        own = ", ".join(f"{number}: {{routes: [q/1], name: Own {number}}}" for number in entries)
        found = offers(*(offer(service, name) for service, name in rows.items()))
        found |= offers(offer("1"), provider="q")
        catalog = sold(read(yaml(*RULES[rules], services=own)), found, given)
        services = catalog.services

        assert len(services) == len({one.name for one in services.values()})
        for number, service in services.items():
            if number not in entries:
                key = service.routes[0].offer.id
                assert key == meaning.setdefault(number, key)
                if service.name == rows[key]:
                    assert number == alone.setdefault(service.name, number)
            else:
                assert "q" == service.routes[0].provider
                meaning.setdefault(number, "the owner's")


@given_(
    st.lists(st.sampled_from([(10, 13), (13, 20), (20, LARGEST_ID + 1)])),
    st.sets(st.integers(8, 30)),
)
def test_an_id_is_its_rules_next_one_or_above_all(
    ranges: list[tuple[int, int]], reserved: set[int]
) -> None:
    """None twice, and none of the owner's."""
    highest = dict.fromkeys(ranges)
    ids = imports.allocate(ranges, highest, 0, reserved)

    assert len(set(ids)) == len(ids)
    assert not set(ids) & reserved
    assert all(number and number >= first for number, (first, _) in zip(ids, ranges, strict=True))


def test_when_no_id_is_left_none_is_given() -> None:
    assert [LARGEST_ID, None] == imports.allocate(
        [(LARGEST_ID, LARGEST_ID + 1)] * 2, {(LARGEST_ID, LARGEST_ID + 1): None}, 0, ()
    )


# --- the stores -----------------------------------------------------------------------------------

Opener = Callable[[], Awaitable[Store]]


@pytest.fixture(params=["sqlite", "postgres"])
async def opener(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens any number of stores on one database, as several processes would."""
    async with AsyncExitStack() as stack:
        if request.param == "postgres":
            server = request.getfixturevalue("postgres_url")
            url = await stack.enter_async_context(database(server))

        async def opened() -> Store:
            store: Store = await (
                PostgresStore.open(url)
                if request.param == "postgres"
                else SqliteStore.open(tmp_path / "gateway.db")
            )
            stack.push_async_callback(store.close)
            return store

        yield opened


def want(service: str, name: str = "", first: int = 10, below: int = 13) -> Wanted:
    return Wanted("p", service, name, first, below)


BATCHES: list[tuple[list[Wanted], list[int]]] = [
    ([want("1", "A"), want("2", "A")], []),
    ([want("1", "B"), want("2", "B"), want("3", "A")], [12, 10]),
    ([want("4"), want("5", "C"), want("1", "C")], [12]),
    ([want("6", "D", 13, LARGEST_ID + 1), want("7", "E", 30, LARGEST_ID + 1)], [31]),
    ([want("8", "A", 30, LARGEST_ID + 1), want("8", "F", 30, LARGEST_ID + 1)], []),
    ([want("9", "G", 5, 10)], [1, 2, 3]),
]


async def test_a_store_gives_what_the_rule_says_and_remembers_it(opener: Opener) -> None:
    """The same that is given in memory, and the same when it is opened anew."""
    store, oracle = await opener(), Given()
    for wanted, owners in BATCHES:
        imports.give(oracle, wanted, owners)
        fresh = await store.give(wanted, owners)
        for one in wanted:
            key = (one.provider, one.service)
            assert oracle.ids[key] == fresh.ids[key]
            assert not one.name or oracle.names[one.name] == fresh.names[one.name]
        again = await (await opener()).imported()
        given_to_services = {key: number for key, number in again.ids.items() if key[0]}
        assert {key: number for key, number in oracle.ids.items() if key[0]} == given_to_services
        assert (oracle.names, oracle.sold) == (again.names, again.sold)


async def test_processes_that_ask_at_the_same_moment_get_the_same(opener: Opener) -> None:
    """Whoever is first decides for all."""
    stores = [await opener() for _ in range(4)]
    lists = [[want(str(n), f"N {n % 7}") for n in range(k, k + 30)] for k in (0, 5, 10, 3)]
    answers = await asyncio.gather(
        *(one.give(wanted, [11]) for one, wanted in zip(stores, lists, strict=True))
    )
    held = await stores[0].imported()

    for answer in answers:
        assert answer.ids.items() <= held.ids.items()
        assert answer.names.items() <= held.names.items()
    assert len(held.sold) == len([key for key in held.ids if key[0]]) == 40
    assert 11 not in held.sold


# --- the whole gateway ----------------------------------------------------------------------------


def rows(*services: str) -> list[dict[str, object]]:
    return [ROWS[0] | {"service": int(one), "name": f"Likes {one}"} for one in services]


async def listed(one: World) -> dict[int, str]:
    return {row["service"]: row["name"] for row in await one.api("services")}


async def takes(one: World, *services: str) -> None:
    """Let the provider list these, and the gateway hear of it."""
    one.panels["p"].answers["services"] = rows(*services)
    await one.gateway.sync.fetch("p")


async def test_a_service_that_vanishes_and_returns_has_its_id_and_no_other_gets_it(
    tmp_path: Path,
) -> None:
    """Also in another process, and after a restart."""
    p = Panel(services=rows("1", "2"))
    file = yaml("provider: p, ids_from: 10, markup: 40%")
    async with world(tmp_path, file, p=p, q=Panel()) as one:
        assert {10: "Likes 1", 11: "Likes 2"} == await listed(one)
        assert {"order": 1} == await one.add(service=11)
        assert "2" == p.asked("add")[0]["service"]
        assert "0.126" == (await one.api("status", order=1))["charge"]

        await takes(one, "1", "3")
        assert {10: "Likes 1", 12: "Likes 3"} == await listed(one)
        assert UNAVAILABLE == await one.add(service=11)
        assert {"error": "Invalid service ID"} == await one.add(service=13)

        await takes(one, "2", "4")
        assert {11: "Likes 2", 13: "Likes 4"} == await listed(one)
    async with world(tmp_path, file, name="bob", p=p, q=Panel()) as one:
        assert {11: "Likes 2", 13: "Likes 4"} == await listed(one)


async def test_an_id_that_the_owner_has_given_is_given_to_nothing_else(tmp_path: Path) -> None:
    """Also when he has taken it out of his file: customers may still have it."""
    p = Panel(services=rows("1", "2"))
    entry = yaml(services="10: {routes: [q/1]}")
    async with world(tmp_path, entry, p=p, q=Panel()) as one:
        assert {10: "Followers"} == await listed(one)
    async with world(tmp_path, yaml(RULE), name="bob", p=p, q=Panel()) as one:
        assert {11: "Likes 1", 12: "Likes 2"} == await listed(one)
