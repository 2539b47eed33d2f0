"""What a customer sends becomes an order, or an error to the letter."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import order_form
from gateway.errors import CustomerError, ErrorText
from gateway.order_form import KNOWN, LONGEST_LINK, MOST_UNITS, Form, Limits
from gateway.order_types import OrderType, Size, find, table

LIMITS = Limits(min=10, max=10_000, dripfeed=True, posts=10)
FEW = Limits(min=1, max=10_000, dripfeed=False, posts=10)
LINK = "https://example.com/p/1"
SENT = {
    "link": LINK,
    "quantity": "100",
    "comments": "one\ntwo\nthree",
    "usernames": "ann\nbob",
    "hashtags": "#a\n#b",
    "hashtag": "#a",
    "username": "ann",
    "media": "https://example.com/m",
    "answer_number": "7",
    "groups": "g1\ng2",
    "keywords": "k1\nk2",
    "country": "IN",
    "device": "1",
    "type_of_traffic": "3",
    "min": "20",
    "max": "200",
    "delay": "30",
}


def kind(name: str) -> OrderType:
    """Return a row of the table."""
    found = find(name)
    assert found is not None
    return found


def form(name: str, limits: Limits = LIMITS, /, **sent: str | None) -> Form:
    """Read an order of a type from its ordinary parameters and these; ``None`` leaves one out."""
    given = {one: SENT[one] for one in kind(name).required} | sent
    return order_form.read(
        kind(name), {one: value for one, value in given.items() if value is not None}, limits
    )


def refusal(name: str, limits: Limits = LIMITS, /, **sent: str | None) -> ErrorText:
    """Return what the customer is told."""
    with pytest.raises(CustomerError) as caught:
        form(name, limits, **sent)
    return caught.value.text


# --- every type ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "quantity"),
    [
        ("Default", 100, 100),
        ("Package", 1, None),
        ("Custom Comments", 3, 3),
        ("Custom Comments Package", 1, None),
        ("Mentions", 100, 100),
        ("Mentions with Hashtags", 100, 100),
        ("Mentions Custom List", 2, 2),
        ("Mentions Hashtag", 100, 100),
        ("Mentions User Followers", 100, 100),
        ("Mentions Media Likers", 100, 100),
        ("Comment Likes", 100, 100),
        ("Comment Replies", 3, 3),
        ("Poll", 100, 100),
        ("Invites from Groups", 100, 100),
        ("SEO", 100, 100),
        ("Web Traffic", 100, 100),
        ("Subscriptions", 2000, 200),
    ],
)
def test_every_type_has_its_size(name: str, size: int, quantity: int | None) -> None:
    """What it needs is enough, and is kept under its own names."""
    read = form(name, FEW)

    assert (size, quantity) == (read.size, read.quantity)
    assert set(kind(name).required) <= set(read.params)


@pytest.mark.parametrize(("name", "left_out"), [(r.name, p) for r in table() for p in r.required])
def test_what_a_type_needs_must_be_there(name: str, left_out: str) -> None:
    """Missing, empty or blank is all the same."""
    assert ErrorText.INCORRECT_REQUEST == refusal(name, FEW, **{left_out: None})
    assert ErrorText.INCORRECT_REQUEST == refusal(name, FEW, **{left_out: ""})


def test_every_row_of_the_table_is_tried() -> None:
    """A type that is added to the table has an example here."""
    assert {name for row in table() for name in row.required} == set(SENT)


def test_parameters_of_other_types_are_ignored() -> None:
    """They reach no provider."""
    read = form("Default", comments="x", posts="5", key="secret", whatever="y")

    assert {"link": LINK, "quantity": "100"} == read.params


@pytest.mark.parametrize(
    ("name", "sent", "kept"),
    [
        ("Default", {"link": None, "url": LINK}, ("link", LINK)),
        ("Default", {"url": "https://other.example"}, ("link", LINK)),
        ("Comment Likes", {"username": None, "usernames": "bob"}, ("username", "bob")),
        ("Comment Likes", {"username": None, "comment_username": "bob"}, ("username", "bob")),
    ],
)
def test_other_names_are_looked_at_where_the_right_one_is_missing(
    name: str, sent: dict[str, str | None], kept: tuple[str, str]
) -> None:
    """``url`` is ``link`` to many clients."""
    read = form(name, **sent)

    assert kept in read.params.items()
    assert {"url", "usernames", "comment_username"}.isdisjoint(read.params)


# --- numbers -------------------------------------------------------------------------------------

NO_NUMBERS = [
    "-1000",
    "-1",
    "+5",
    "1.0",
    "1e3",
    "1_000",
    "1,000",
    "0x10",
    "1 0",
    "NaN",
    "inf",
    "ten",
    "١٠",
    "１００",
    "²",
    "1" * 13,
    "9" * 5000,
    "100\n100",
    "100\x00",
    "100,200",
    "\ud800",
    "true",
]


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, "0", "9", "10001"])
def test_a_quantity_is_a_whole_number_within_the_limits(wrong: str) -> None:
    """ASCII digits, nothing else."""
    assert ErrorText.INVALID_QUANTITY == refusal("Default", quantity=wrong)


@pytest.mark.parametrize(
    ("written", "read"), [("10", "10"), ("10000", "10000"), ("0100", "100"), (" 100 ", "100")]
)
def test_a_quantity_is_sent_on_as_it_is_meant(written: str, read: str) -> None:
    """Without leading zeros and spaces; the limits themselves are allowed."""
    assert read == form("Default", quantity=written).params["quantity"]


def test_an_order_of_nothing_is_refused_even_where_the_minimum_is_zero() -> None:
    """Some providers list 0 as their minimum."""
    nothing = Limits(min=0, max=100, dripfeed=False, posts=10)

    assert ErrorText.INVALID_QUANTITY == refusal("Default", nothing, quantity="0")
    assert ErrorText.INVALID_QUANTITY == refusal("Subscriptions", nothing, min="0", max="0")
    assert 1 == form("Default", nothing, quantity="1").size


@pytest.mark.parametrize("wrong", NO_NUMBERS)
def test_an_answer_number_is_a_number(wrong: str) -> None:
    """A poll's answer."""
    assert ErrorText.INCORRECT_REQUEST == refusal("Poll", answer_number=wrong)


# --- drip-feed -----------------------------------------------------------------------------------


def test_a_drip_feed_counts_every_run() -> None:
    """The quantity itself lies within the limits, their product need not."""
    read = form("Default", quantity="10000", runs="05", interval="060")

    assert (
        Form({"link": LINK, "quantity": "10000", "runs": "5", "interval": "60"}, 50_000, 10_000)
        == read
    )


def test_two_negative_numbers_do_not_make_a_positive_order() -> None:
    """Each is wrong by itself."""
    assert ErrorText.INVALID_QUANTITY == refusal(
        "Default", quantity="-1000", runs="-1", interval="1"
    )
    assert ErrorText.INCORRECT_RUNS == refusal("Default", runs="-1", interval="1")


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, "0", "00"])
def test_runs_are_a_number_of_at_least_one(wrong: str) -> None:
    """Also where the service has no drip-feed."""
    assert ErrorText.INCORRECT_RUNS == refusal("Default", runs=wrong, interval="1")
    assert ErrorText.INCORRECT_RUNS == refusal("Web Traffic", FEW, runs=wrong, interval="1")


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, None])
def test_a_drip_feed_needs_an_interval(wrong: str | None) -> None:
    """A number of minutes."""
    assert ErrorText.INCORRECT_INTERVAL == refusal("Default", runs="2", interval=wrong)


def test_a_service_without_drip_feed_says_so() -> None:
    """One run is an ordinary order everywhere."""
    assert ErrorText.NO_DRIPFEED == refusal("Default", FEW, runs="2", interval="1")
    assert form("Default", FEW) == form("Default", FEW, runs="1", interval="60")
    assert form("Default", FEW) == form("Default", FEW, interval="60")


def test_no_order_is_larger_than_what_can_be_counted() -> None:
    """However high a service's limits."""
    endless = Limits(min=1, max=10**12, dripfeed=True, posts=10)

    assert (
        MOST_UNITS
        == form("Default", endless, quantity="1" + "0" * 11, runs="10", interval="1").size
    )
    for quantity, runs in (("1" + "0" * 11, "11"), ("9" * 12, "9" * 12)):
        assert ErrorText.INVALID_QUANTITY == refusal(
            "Default", endless, quantity=quantity, runs=runs, interval="1"
        )


# --- lists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("one", 1),
        ("one\ntwo", 2),
        ("one\r\ntwo\r\n", 2),
        ("\n\n one \n\n\ttwo\n \n", 2),
        ("one\rtwo", 2),
        ("one, two", 1),
        ("one\\ntwo", 1),
        ("ein Ä\n🎈", 2),
    ],
)
def test_lines_are_counted_without_the_blank_ones(written: str, count: int) -> None:
    r"""Separated by ``\n`` or ``\r\n``; what is sent on is what was counted."""
    read = form("Custom Comments", FEW, comments=written)

    assert count == read.size == len(read.params["comments"].split("\n"))
    assert "\r" not in read.params["comments"]


@pytest.mark.parametrize("blank", ["\n", " \r\n \n", "\t"])
def test_comments_of_blank_lines_are_incorrect(blank: str) -> None:
    """There is something, and it is nothing."""
    assert ErrorText.INCORRECT_COMMENTS == refusal("Custom Comments", FEW, comments=blank)
    assert ErrorText.INCORRECT_COMMENTS == refusal("Custom Comments Package", comments=blank)
    assert ErrorText.INCORRECT_REQUEST == refusal("Mentions Custom List", FEW, usernames=blank)


def test_the_number_of_lines_has_the_services_limits() -> None:
    """Three comments where ten are the least."""
    assert ErrorText.INVALID_QUANTITY == refusal("Custom Comments")
    assert ErrorText.INVALID_QUANTITY == refusal("Comment Replies", FEW, comments="x\n" * 10_001)


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "link",
    [
        "https://",
        "http:",
        "https:///",
        "ftp://?",
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,x",
        "https://example.com/a b",
        "https://example.com/\x07",
        "https://example.com/\na",
        "https://example.com/\u2028a",
        "x" * (LONGEST_LINK + 1),
    ],
)
def test_a_bad_link_is_refused(link: str) -> None:
    """In every type that has one."""
    assert ErrorText.BAD_LINK == refusal("Default", link=link)
    assert ErrorText.BAD_LINK == refusal("Package", link=link)


@pytest.mark.parametrize(
    "link",
    [
        "https://www.instagram.com/p/AbC/?igsh=1#x",
        "instagram.com/ann",
        "ann",
        "@ann",
        "https://t.me/ännchen",
        "https://example.com/%20",
        " https://example.com ",
        "x" * LONGEST_LINK,
    ],
)
def test_a_link_may_be_whatever_a_provider_may_take(link: str) -> None:
    """Names are links to many services; providers' own checks are not repeated."""
    assert link.strip() == form("Default", link=link).params["link"]


# --- web traffic ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "right"),
    [
        ({"type_of_traffic": "1"}, False),
        ({"type_of_traffic": "1", "google_keyword": "cats"}, True),
        ({"type_of_traffic": "2"}, False),
        ({"type_of_traffic": "2", "google_keyword": "cats"}, False),
        ({"type_of_traffic": "2", "referring_url": LINK}, True),
        ({"type_of_traffic": "3"}, True),
        ({"type_of_traffic": "4"}, False),
        ({"type_of_traffic": "x"}, False),
        ({"device": "5"}, True),
        ({"device": "6"}, False),
    ],
)
def test_traffic_says_where_it_comes_from(sent: dict[str, str], right: bool) -> None:
    """From a search: for which word. From a page: from which."""
    if right:
        assert sent.items() <= form("Web Traffic", **sent).params.items()
    else:
        assert ErrorText.INCORRECT_REQUEST == refusal("Web Traffic", **sent)


# --- subscriptions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "size", "posts"),
    [
        ({"posts": "5"}, 1000, "5"),
        ({"posts": "0"}, 2000, "10"),  # without a limit: as many as the owner says
        ({}, 2000, "10"),
        ({"posts": "5", "old_posts": "3"}, 1600, "5"),
        ({"old_posts": "3"}, 2600, "10"),
        ({"posts": "1", "expiry": "31/12/2030"}, 200, "1"),
        ({"posts": "1", "expiry": "1/2/2030"}, 200, "1"),
        ({"posts": "1", "delay": "600"}, 200, "1"),
        ({"posts": "1", "min": "200"}, 200, "1"),
    ],
)
def test_a_subscription_is_held_for_all_its_posts(
    sent: dict[str, str], size: int, posts: str
) -> None:
    """At the most that each may get."""
    read = form("Subscriptions", **sent)

    assert (size, 200, posts) == (read.size, int(read.params["max"]), read.params["posts"])


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ({"min": "201"}, ErrorText.INVALID_QUANTITY),
        ({"min": "9"}, ErrorText.INVALID_QUANTITY),
        ({"max": "10001"}, ErrorText.INVALID_QUANTITY),
        ({"min": "-20", "max": "-10"}, ErrorText.INVALID_QUANTITY),
        ({"delay": "601"}, ErrorText.INCORRECT_REQUEST),
        ({"delay": "-5"}, ErrorText.INCORRECT_REQUEST),
        ({"posts": "-5"}, ErrorText.INCORRECT_REQUEST),
        ({"old_posts": "-5"}, ErrorText.INCORRECT_REQUEST),
        ({"posts": "9" * 12}, ErrorText.INVALID_QUANTITY),
        ({"expiry": "2030-12-31"}, ErrorText.INCORRECT_REQUEST),
        ({"expiry": "32/12/2030"}, ErrorText.INCORRECT_REQUEST),
        ({"expiry": "12/13/2030"}, ErrorText.INCORRECT_REQUEST),
        ({"expiry": "١/١/2030"}, ErrorText.INCORRECT_REQUEST),
    ],
)
def test_a_subscription_is_checked_number_by_number(sent: dict[str, str], error: ErrorText) -> None:
    """A wrong one is never made right by another."""
    assert error == refusal("Subscriptions", **sent)


# --- anything ------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.text(st.characters(), max_size=30),
    st.text("0123456789-+.eE \n", max_size=15),
    st.integers(-(10**15), 10**15).map(str),
    st.sampled_from([*NO_NUMBERS, *SENT.values()]),
)


@given(
    st.sampled_from(table()),
    st.dictionaries(st.sampled_from(sorted(KNOWN)), VALUES),
    st.dictionaries(st.sampled_from(sorted(SENT)), st.sampled_from(sorted(SENT.values()))),
    st.builds(
        Limits,
        min=st.integers(0, 1000),
        max=st.integers(0, 10**13),
        dripfeed=st.booleans(),
        posts=st.integers(1, 1000),
    ),
)
@settings(max_examples=300, deadline=None, database=None)
def test_whatever_is_sent_is_an_order_or_an_error(
    row: OrderType, wild: dict[str, str], sane: dict[str, str], limits: Limits
) -> None:
    """Nothing else is raised, and no order is of nothing, or of more than there can be."""
    try:
        read = order_form.read(row, SENT | sane | wild, limits)
    except CustomerError:
        return

    assert 1 <= read.size <= MOST_UNITS
    assert set(row.required) <= set(read.params) <= {*row.required, *row.optional}
    assert all(value == value.strip() != "" for value in read.params.values())
    if read.quantity is not None:
        assert limits.min <= read.quantity <= limits.max
        assert 0 == read.size % read.quantity
    if row.size is Size.QUANTITY:
        assert read.params["quantity"] == str(read.size)
