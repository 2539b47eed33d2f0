"""Posting in memory, to accounts that are locked."""

from gateway import ledger
from gateway.model import Code, Kind
from gateway.money import Money
from gateway.store.books import Books


def test_a_credit_may_be_called_like_what_was_kept_of_another() -> None:
    """The owner's references are his own words; each credits once, whatever the others are."""
    books = Books({("1", "USD"): {Kind.OWED: -100}}, {})
    for reference in ("x", "x/collect"):
        assert books.post(ledger.top_up(1, Money(30, "USD"), reference, 0))

    assert 2 * [Code.TOP_UP, Code.COLLECT] == [one.code for one in books.transfers]
    assert 4 == len({one.key for one in books.transfers})
