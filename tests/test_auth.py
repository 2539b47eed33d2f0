"""A key finds its customer; a wrong one, or a suspended customer, finds an error."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import auth
from gateway.auth import FRESH_FOR, REMEMBERED, Auth
from gateway.errors import CustomerError, ErrorText
from gateway.model import Customer
from gateway.store import Store
from gateway.store.sqlite import SqliteStore


class Clock:
    """A clock that stands still until it is told otherwise."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Changing:
    """A store in which a customer changes just when he has been read."""

    changed: Callable[[], None]

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def customer_of(self, digest: bytes) -> Customer | None:
        found = await self._store.customer_of(digest)
        self.changed()
        return found


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store on an empty file."""
    opened = await SqliteStore.open(tmp_path / "gateway.db")
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> Clock:
    """The clock that ``door`` looks at."""
    return Clock()


@pytest.fixture
async def door(store: SqliteStore, clock: Clock) -> Auth:
    """What is asked for customers."""
    return Auth(store, await store.pepper(), clock)


async def known(store: SqliteStore, key: str, name: str = "ann") -> Customer:
    """Write a customer with this key."""
    draft = Customer(id=0, name=name, created_at=1)
    added = await store.add_customer(draft, auth.digest(await store.pepper(), key))
    assert added is not None
    return added


async def refusal(door: Auth, key: str) -> ErrorText:
    """Return what the holder of a key is told."""
    with pytest.raises(CustomerError) as caught:
        await door.customer(key)
    return caught.value.text


def test_a_key_is_32_hexadecimal_digits_of_chance() -> None:
    """As old clients expect it."""
    keys = {auth.new_key() for _ in range(100)}

    assert 100 == len(keys)
    assert {32} == {len(key) for key in keys}
    assert set("0123456789abcdef") >= set("".join(keys))


async def test_a_key_finds_its_customer(store: SqliteStore, door: Auth) -> None:
    """Now, and when he is remembered."""
    ann, bob = await known(store, "one"), await known(store, "two", "bob")

    assert [ann, bob, ann] == [await door.customer(key) for key in ("one", "two", "one")]


async def test_the_key_itself_is_not_in_the_file(store: SqliteStore, tmp_path: Path) -> None:
    """A stolen database holds no key that works anywhere."""
    key = auth.new_key()
    await known(store, key)
    await store.close()
    kept = (tmp_path / "gateway.db").read_bytes()

    assert b"ann" in kept
    assert key.encode() not in kept
    assert bytes.fromhex(key) not in kept


def test_a_digest_is_worth_nothing_under_another_pepper() -> None:
    """Two installations keep different things of one key."""
    assert auth.digest(b"a", "key") != auth.digest(b"b", "key")


@pytest.mark.parametrize("key", ["", "wrong", "x" * 257, "ключ", "🎈"])
async def test_a_key_that_nobody_holds_is_invalid(store: SqliteStore, door: Auth, key: str) -> None:
    """Whatever it looks like, it is an error and not a crash."""
    await known(store, "one")

    assert ErrorText.INVALID_KEY == await refusal(door, key)


async def test_a_suspended_customer_is_told_so(
    store: SqliteStore, door: Auth, clock: Clock
) -> None:
    """Within a few seconds of his suspension, and he is welcome within as many of its end."""
    ann = await known(store, "one")
    assert ann == await door.customer("one")
    await store.set_customer(ann, msgspec.structs.replace(ann, disabled=True))
    clock.now += FRESH_FOR

    assert ErrorText.SUSPENDED == await refusal(door, "one")
    await store.set_customer(msgspec.structs.replace(ann, disabled=True), ann)
    clock.now += FRESH_FOR

    assert ann == await door.customer("one")


async def test_a_new_key_ends_the_old_one(store: SqliteStore, door: Auth, clock: Clock) -> None:
    """Both changes are seen when what is remembered is no longer fresh."""
    ann = await known(store, "old")
    assert ann == await door.customer("old")
    assert ErrorText.INVALID_KEY == await refusal(door, "new")
    await store.set_customer(ann, ann, auth.digest(await store.pepper(), "new"))
    clock.now += FRESH_FOR

    assert ann == await door.customer("new")
    assert ErrorText.INVALID_KEY == await refusal(door, "old")


async def test_a_change_counts_for_whoever_is_being_looked_up_meanwhile(
    store: SqliteStore,
) -> None:
    """What was read before the change is not remembered after it."""
    ann = await known(store, "one")
    changing = Changing(store)
    its = Auth(cast("Store", changing), await store.pepper(), Clock())
    changing.changed = its.forget
    first = await its.customer("one")
    await store.set_customer(ann, msgspec.structs.replace(ann, disabled=True))

    assert ann == first
    assert ErrorText.SUSPENDED == await refusal(its, "one")


async def test_what_is_remembered_has_a_limit(store: SqliteStore, door: Auth) -> None:
    """Somebody who tries keys does not fill the memory."""
    for number in range(REMEMBERED + 10):
        assert ErrorText.INVALID_KEY == await refusal(door, f"{number}")

    assert REMEMBERED == len(door._seen)


@given(st.binary(min_size=1), st.text(max_size=300))
def test_every_key_has_a_digest(pepper: bytes, key: str) -> None:
    """Of 32 bytes."""
    assert 32 == len(auth.digest(pepper, key))
