"""The table of order types is the contract's, row by row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.order_types import LISTS, Size, find, fold, table

TABLE = """
Default                 | link, quantity                                  | runs, interval | quantity × runs
Package                 | link                                            |                | 1
Custom Comments         | link, comments                                  |                | lines of comments
Custom Comments Package | link, comments                                  |                | 1
Mentions                | link, quantity, usernames                       |                | quantity
Mentions with Hashtags  | link, quantity, usernames, hashtags             |                | quantity
Mentions Custom List    | link, usernames                                 |                | lines of usernames
Mentions Hashtag        | link, quantity, hashtag                         |                | quantity
Mentions User Followers | link, quantity, username                        |                | quantity
Mentions Media Likers   | link, quantity, media                           |                | quantity
Comment Likes           | link, quantity, username                        |                | quantity
Comment Replies         | link, username, comments                        |                | lines of comments
Poll                    | link, quantity, answer_number                   |                | quantity
Invites from Groups     | link, quantity, groups                          |                | quantity
SEO                     | link, quantity, keywords                        |                | quantity
Web Traffic             | link, quantity, country, device, type_of_traffic| runs, interval, google_keyword, referring_url | quantity × runs
Subscriptions           | username, min, max, delay                       | posts, old_posts, expiry | posts × max
"""  # noqa: E501  # a table


def names(text: str) -> tuple[str, ...]:
    """Return the names between commas."""
    return tuple(name for one in text.split(",") if (name := one.strip()))


def test_the_table_is_the_contracts() -> None:
    """Every type, what it needs, what it may have, and what its size counts."""
    rows = [
        [cell.strip() for cell in line.split("|")] for line in TABLE.splitlines() if "|" in line
    ]

    assert [
        (name, names(required), names(optional), Size(size))
        for name, required, optional, size in rows
    ] == [(row.name, row.required, row.optional, row.size) for row in table()]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("default", "Default"),
        ("custom_comments", "Custom Comments"),
        ("CUSTOM-COMMENTS", "Custom Comments"),
        ("CustomComments", "Custom Comments"),
        (" Mentions  with_hashtags ", "Mentions with Hashtags"),
        ("SUBSCRIPTIONS", "Subscriptions"),
        ("web-traffic", "Web Traffic"),
        ("seo", "SEO"),
    ],
)
def test_a_type_is_found_however_it_is_spelled(written: str, name: str) -> None:
    """Case, ``_``, ``-`` and spaces do not matter."""
    found = find(written)

    assert found is not None
    assert name == found.name


@pytest.mark.parametrize("written", ["", "Defaults", "Custom Comments 2", "12", "-"])
def test_a_type_that_is_not_in_the_table_is_not_guessed(written: str) -> None:
    """The owner says what it takes, or it is not offered."""
    assert find(written) is None


@given(st.text())
def test_any_text_can_be_a_types_name(written: str) -> None:
    """Folding is total, and folding twice is folding once."""
    assert fold(written) == fold(fold(written))
    find(written)


def test_no_two_types_are_folded_to_one() -> None:
    """Each row is found under its own name."""
    assert table() == tuple(find(row.name) for row in table())


def test_lists_are_parameters_of_some_type() -> None:
    """A list that no type has would be a mistake in the table."""
    assert {name for row in table() for name in row.required + row.optional} >= LISTS
