"""What a process remembers of the orders that it has written."""

from msgspec.structs import replace

from gateway.model import Order
from gateway.store.optimistic import REMEMBERED, Memory


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
