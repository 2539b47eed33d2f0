"""Parameters arrive in every way in which clients send them, and broken ones are an error."""

import json
from collections.abc import Mapping
from urllib.parse import quote, quote_from_bytes, unquote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import parameters
from gateway.errors import CustomerError, ErrorText
from gateway.parameters import MOST

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
BOUNDARY = "xYz"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, value: bytes | str, more: str = "") -> bytes:
    """Return one part of a multipart body."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def refused(query: bytes, content_type: str, body: bytes) -> bool:
    """Tell whether a request is an incorrect one."""
    with pytest.raises(CustomerError) as caught:
        parameters.read(query, content_type, body)
    return caught.value.text is ErrorText.INCORRECT_REQUEST


# --- the ways in ---------------------------------------------------------------------------------

SENT = {"key": "k", "action": "add", "link": "https://e.example/?a=1&b=ä 🎈", "comments": "a\nb+c"}


@pytest.mark.parametrize(
    ("query", "content_type", "body"),
    [
        pytest.param(urlencode(SENT), "", b"", id="a query"),
        pytest.param("", FORM, urlencode(SENT).encode(), id="a form"),
        pytest.param("", f"{FORM}; charset=utf-8", urlencode(SENT).encode(), id="a charset"),
        pytest.param("", "", urlencode(SENT).encode(), id="no content type"),
        pytest.param("", "text/plain", urlencode(SENT).encode(), id="another content type"),
        pytest.param("", FORM, urlencode(SENT, quote_via=quote).encode(), id="spaces as %20"),
        pytest.param(
            "",
            FORM,
            "&".join(f"{name}={quote(value, safe=' äö🎈')}" for name, value in SENT.items())
            .replace(" ", "+")
            .encode(),
            id="letters as they are",
        ),
        pytest.param("", JSON, json.dumps(SENT).encode(), id="JSON"),
        pytest.param("", JSON, json.dumps(SENT, indent=1, ensure_ascii=False).encode(), id="long"),
        pytest.param("", FORM, b"\n " + json.dumps(SENT).encode(), id="JSON called a form"),
        pytest.param("", "", json.dumps(SENT).encode(), id="JSON called nothing"),
        pytest.param(
            "", MULTIPART, b"".join(part(*one) for one in SENT.items()) + END, id="multipart"
        ),
        pytest.param(
            "",
            f'Multipart/Form-Data; Boundary="{BOUNDARY}"',
            b"".join(part(*one) for one in SENT.items()) + END,
            id="multipart in capitals",
        ),
        pytest.param("key=k&action=add", FORM, urlencode(SENT).encode()[13:], id="both"),
    ],
)
def test_every_way_in_means_the_same(query: str, content_type: str, body: bytes) -> None:
    """Clients were written for many panels."""
    assert parameters.read(query.encode(), content_type, body) == SENT


@given(st.text("%2Cc+,1").filter(lambda text: "\ufffd" not in unquote_plus(text)))
def test_a_list_is_unescaped_as_any_text_is(text: str) -> None:
    """However its commas, and what only looks like one, are written."""
    sent = {"key": "k", "orders": unquote_plus(text).strip(" ")}
    expected = {name: value for name, value in sent.items() if value}

    assert expected == parameters.read(b"", FORM, f"key=k&orders={text}".encode())


@pytest.mark.parametrize("absent", ["", "undefined", "null"])
def test_an_absent_value_is_no_parameter(absent: str) -> None:
    """Programs write such words where they have nothing."""
    sent = {"a": absent, "b": "1"}
    for content_type, body in (
        (FORM, urlencode(sent).encode()),
        (JSON, json.dumps(sent).encode()),
        (MULTIPART, b"".join(part(*one) for one in sent.items()) + END),
    ):
        assert parameters.read(b"", content_type, body) == {"b": "1"}


def test_nothing_is_no_parameters() -> None:
    """A request without anything is read, and is somebody else's error."""
    for content_type in ("", FORM, JSON, MULTIPART, "multipart/form-data"):
        assert {} == parameters.read(b"", content_type, b"")


def test_the_body_wins_over_the_query() -> None:
    """Where both say something."""
    assert {"a": "2", "b": "1"} == parameters.read(b"a=1&b=1", FORM, b"a=2")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, b"a=1&b=2&a=3"),
        (JSON, b'{"a": 1, "b": 2, "a": 3}'),
        (MULTIPART, part("a", "1") + part("b", "2") + part("a", "3") + END),
    ],
)
def test_the_last_of_a_repeated_parameter_counts(content_type: str, body: bytes) -> None:
    """As PHP has it."""
    assert {"a": "3", "b": "2"} == parameters.read(b"", content_type, body)


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (("orders[]", "orders[]"), {"orders": "7,8"}),
        (("orders[0]", "orders[1]"), {"orders": "7,8"}),
        (("orders[a]", "orders[b][c]"), {"orders": "7,8"}),
        (("comments[]", "comments[]"), {"comments": "7\n8"}),
        (("orders[]", "orders"), {"orders": "8"}),
        (("orders", "orders[]"), {"orders": "8"}),
        (("refills[]", "orders[]"), {"refills": "7", "orders": "8"}),
        (("orders]", "orders["), {"orders]": "7", "orders[": "8"}),
    ],
)
def test_phps_lists_are_lists(names: tuple[str, str], read: Mapping[str, str]) -> None:
    """Ids are joined by commas, everything else line by line; in every kind of form."""
    pairs = list(zip(names, ("7", "8"), strict=True))

    assert read == parameters.read(b"", FORM, urlencode(pairs).encode())
    assert read == parameters.read(urlencode(pairs, safe="[]").encode(), "", b"")
    assert read == parameters.read(b"", MULTIPART, b"".join(part(*p) for p in pairs) + END)


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("12", "12"),
        ("-1", "-1"),
        ("true", "true"),
        ("false", "false"),
        ('"ä\\ud83c\\udf88"', "ä🎈"),
        ("[1, 2]", "1\n2"),
        ('["a", "b"]', "a\nb"),
        ("1.50", "1.5"),
        ("100.0", "100"),
        ("1e3", "1000"),
        ("1E-7", "0.0000001"),
        ("1e400", "1E+400"),
        ("18446744073709551616", "18446744073709551616"),
    ],
)
def test_a_json_value_becomes_the_text_that_a_form_would_have(value: str, read: str) -> None:
    """Numbers are never rounded; one too long to write out stays short, and is no quantity."""
    assert {"a": read} == parameters.read(b"", JSON, f'{{"a": {value}}}'.encode())


def test_json_lists_of_ids_are_joined_by_commas() -> None:
    """As API v2 writes them."""
    for name in ("orders", "orders[]", "ids"):
        body = b'{"%b": [1, "2"]}' % name.encode()
        assert {name.removesuffix("[]"): "1,2"} == parameters.read(b"", JSON, body)
    assert {} == parameters.read(b"", JSON, b'{"orders": [], "a": null}')


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}}",
        b"[1]",
        b'"a"',
        b"null",
        b"1",
        b"a=1",
        b"\xff\xfe{",
        b'{"link": {"b": 1}}',
        b'{"link": [[1]]}',
        b'{"link": [null]}',
        b'{"link": [1.5]}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e99999999999999999999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"[" * 100_000,
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"link": "\\u0000"}',
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a" 1}',
    ],
)
def test_json_that_says_nothing_clear_is_refused(body: bytes) -> None:
    """An order is never guessed from it."""
    assert refused(b"", JSON, body)


@pytest.mark.parametrize(
    "value", ['{"b": 1}', "[[1]]", "[null]", "1.5", '"\\u0000"'], ids=lambda value: value
)
def test_what_no_order_says_may_be_anything(value: str) -> None:
    """Programs send along what they please; only what means something has to be clear."""
    sent = f'{{"utm_source": {value}, "link": "x"}}'.encode()
    assert "x" == parameters.read(b"", JSON, sent)["link"]
    assert {"link": "x"} == parameters.read(b"%00=a&a=%00&link=x", "", b"")


# --- forms and multipart -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"a=%ff",
        b"a=\xff",
        b"%ff=a",
        b"a=%ed%a0%80",
        b"link=%00",
        b"link=\x00",
        b"a=%c0%80",
        b"&" * (MOST + 1),
    ],
)
def test_a_form_of_broken_letters_is_refused(text: bytes) -> None:
    """In the query as in the body."""
    assert refused(text, "", b"")
    assert refused(b"", FORM, text)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (b"&&a=1&", {"a": "1"}),
        (b"a", {}),
        (b"=1", {"": "1"}),
        (b"a=1=2", {"a": "1=2"}),
        (b"a=%zz%", {"a": "%zz%"}),
        (b"a=1;b=2", {"a": "1;b=2"}),
        (b"a=%2B+", {"a": "+"}),
    ],
)
def test_an_odd_form_is_read_as_far_as_it_goes(text: bytes, read: Mapping[str, str]) -> None:
    """Clients have their ways."""
    assert read == parameters.read(b"", FORM, text)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        pytest.param(MULTIPART, part("a", "1"), id="no end"),
        pytest.param(MULTIPART, part("a", "1") + part("b", "2")[:-5], id="half a part"),
        pytest.param(MULTIPART, part("a", "1") + END[:-3], id="half an end"),
        pytest.param(MULTIPART, part("a", "1")[:20], id="half a header"),
        pytest.param(MULTIPART, b"a=1", id="a form"),
        pytest.param(MULTIPART, b'{"a": 1}', id="JSON"),
        pytest.param(MULTIPART, part("a", b"\xff") + END, id="broken letters"),
        pytest.param(MULTIPART, part("link", b"\x00") + END, id="NUL"),
        pytest.param(MULTIPART, part("a", "1") * (MOST + 1) + END, id="too many"),
        pytest.param("multipart/form-data", part("a", "1") + END, id="no boundary"),
        pytest.param("multipart/form-data; boundary=", part("a", "1") + END, id="empty boundary"),
        pytest.param("multipart/form-data; boundary=q", part("a", "1") + END, id="another one"),
        pytest.param(f"{MULTIPART}{'z' * 80}", part("a", "1") + END, id="a long boundary"),
    ],
)
def test_a_broken_multipart_body_is_refused(content_type: str, body: bytes) -> None:
    """Half an order may have lost what makes it small."""
    assert refused(b"", content_type, body)


@pytest.mark.parametrize(
    ("body", "read"),
    [
        pytest.param(END, {}, id="nothing"),
        pytest.param(part("a", "") + END, {}, id="an empty part"),
        pytest.param(part("a", "1", '; filename="a.txt"') + END, {"a": "1"}, id="a file"),
        pytest.param(
            part("a", "1").replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain\r\n\r\n") + END,
            {"a": "1"},
            id="a typed part",
        ),
        pytest.param(part("a", "1").replace(b"name", b"nome") + END, {}, id="no name"),
        pytest.param(part("a", "1").replace(b"Content-D", b"D") + END, {}, id="no disposition"),
        pytest.param(part("a", "1").replace(b"C", b"c") + END, {"a": "1"}, id="small letters"),
        pytest.param(part("a", "x\r\n--xY\r\ny") + END, {"a": "x\r\n--xY\r\ny"}, id="nearly"),
        pytest.param(b"\r\n" + part("a", "1") + END, {"a": "1"}, id="a line before"),
        pytest.param(part("a", "1") + END + b"and more", {"a": "1"}, id="a word after"),
        pytest.param(part("a", "1") + END.rstrip(), {"a": "1"}, id="no last line"),
    ],
)
def test_a_multipart_body_may_be_written_in_many_ways(body: bytes, read: Mapping[str, str]) -> None:
    """A part without a name is ignored."""
    assert read == parameters.read(b"", MULTIPART, body)


# --- anything ------------------------------------------------------------------------------------

TYPES = st.sampled_from(["", FORM, JSON, MULTIPART, "multipart/x; boundary=-", "text/xml"])
BROKEN = [b"a=%", b"&", b"+", b"\xff", b"\xed\xa0\x80", b"\x00", b'"', b"\\ud800", b"-", b"b[]=2"]
WHOLE = [part("a", "1"), part("orders[]", "\n"), END, b"\r\n", b"--", b'{"a":', b"1e9", b"}", b"["]
PIECES = st.sampled_from([*WHOLE, *BROKEN])


@given(st.binary(max_size=60), TYPES | st.text(max_size=40), st.binary(max_size=200))
@settings(max_examples=200, deadline=None, database=None)
def test_any_bytes_are_parameters_or_an_error(query: bytes, content_type: str, body: bytes) -> None:
    """Nothing else is raised, and what is read can be written down again."""
    check(query, content_type, body)


@given(st.lists(PIECES, max_size=3), TYPES, st.lists(PIECES, max_size=8))
@settings(max_examples=400, deadline=None, database=None)
def test_bytes_that_look_like_a_request_are_parameters_or_an_error(
    query: list[bytes], content_type: str, body: list[bytes]
) -> None:
    """The same with pieces of what clients send."""
    check(b"".join(query), content_type, b"".join(body))


def check(query: bytes, content_type: str, body: bytes) -> None:
    """Read a request, and look at what comes of it."""
    try:
        read = parameters.read(query, content_type, body)
    except CustomerError:
        return
    for name, value in read.items():
        assert value not in parameters.ABSENT
        assert "\0" not in name + value
        (name + value).encode()


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=5))
@settings(deadline=None, database=None)
def test_what_was_written_as_a_form_or_as_json_is_read_again(sent: dict[str, str]) -> None:
    """Every letter arrives, in both, but for blanks at the ends."""
    sane = {
        name: value.strip(" \t\r\n")
        for name, value in sent.items()
        if "\0" not in name + value
        and "[" not in name
        and value.strip(" \t\r\n") not in parameters.ABSENT
    }

    assert sane == parameters.read(b"", FORM, urlencode(sane).encode())
    assert sane == parameters.read(urlencode(sane).encode(), "", b"")
    assert sane == parameters.read(b"", JSON, json.dumps(sane).encode())


def test_a_value_is_bytes_of_utf_8() -> None:
    """The same word however it is escaped."""
    word = "Ünï ✓"

    assert {"a": word} == parameters.read(b"a=" + quote_from_bytes(word.encode()).encode(), "", b"")
