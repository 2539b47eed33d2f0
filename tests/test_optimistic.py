"""What a process remembers of the orders that it has written."""

from msgspec.structs import replace

from gateway.model import Event, Order
from gateway.store import Change, Step
from gateway.store.optimistic import REMEMBERED, Attempt, Memory
from gateway.store.page import Entry
from gateway.store.postgres_rows import Part, Sets


def _order(number: int) -> Order:
    return Order(
        id=number,
        version=1,
        customer=1,
        service=1,
        type="Default",
        params={},
        size=1,
        charge=1,
        currency="USD",
    )


def _written(numbers: range) -> Memory:
    memory = Memory()
    for number in numbers:
        memory.remember({number: _order(number)})
    return memory


def test_the_orders_that_were_written_last_are_remembered_and_no_others() -> None:
    """A process that runs for months does not fill its memory."""
    written = range(1, 3 * REMEMBERED)
    memory = _written(written)
    remembered = [number for number in written if memory.get(number)]

    assert list(written[-len(remembered) :]) == remembered
    assert REMEMBERED // 2 <= len(remembered) <= REMEMBERED


def test_an_order_is_remembered_as_it_was_written_last() -> None:
    memory = _written(range(1, REMEMBERED // 2 + 2))
    again = replace(_order(1), version=2)
    memory.remember({1: again})

    assert again == memory.get(1)


def test_what_is_forgotten_is_forgotten_however_long_ago_it_was_written() -> None:
    memory = _written(range(1, REMEMBERED // 2 + 3))
    memory.forget([1, REMEMBERED // 2 + 2])

    assert (None, None) == (memory.get(1), memory.get(REMEMBERED // 2 + 2))


def test_nothing_is_remembered_of_what_may_not_have_been_written() -> None:
    memory = _written(range(1, REMEMBERED))
    memory.clear()

    assert not any(memory.get(number) for number in range(1, REMEMBERED))


def _changed(order: Order) -> Change:
    after = replace(order, version=order.version + 1)
    return Change(after, (), Event("told", at=1, order=after.id, version=after.version))


def _unchanged(_: Order) -> None:
    return None


def test_what_changes_nothing_is_left_to_those_who_look_and_its_neighbour_is_written() -> None:
    """Nobody knows if it is as it was remembered: no guard of what is written says so."""
    known, other = _order(1), _order(2)
    memory = Memory()
    memory.remember({1: known, 2: other})
    steps = [(Step(1, _unchanged), Step(1, _changed)), (Step(2, _changed),)]
    _, outcomes = Attempt([Entry(steps=some) for some in steps], memory).work_out()

    assert {1: [replace(other, version=2)]} == outcomes


def test_an_order_that_one_step_has_seen_is_known_to_the_others() -> None:
    """The newer one counts, whichever comes first."""
    old, new = _order(1), replace(_order(1), version=2)
    steps = [Step(1, _changed), Step(1, _changed, seen=new), Step(1, _changed, seen=old)]
    attempt = Attempt([Entry(steps=steps)], Memory())

    assert (set(), {1: new}) == (attempt.unknown, attempt.found.orders)


def test_each_combination_of_parts_has_a_statement_of_its_own() -> None:
    """The texts are kept; one for other tables would write into the wrong ones."""
    parts = [Part(name, f"write {name} from {{new}}", {"a": "bigint"}) for name in "xy"]
    texts = []
    for some in (parts[:1], parts[1:], parts, parts[:1]):
        sets = Sets()
        for part in some:
            sets.add(part, [(1,)])
        texts.append(sets.statement())

    assert texts[0] == texts[3]
    for text, names in zip(texts, ("x", "y", "xy", "x"), strict=True):
        assert list(names) == [name for name in "xy" if f"write {name} from" in text]
