"""A head is known again by its bytes, and only if everything that begins so is such a request."""

import pytest

from gateway.message import LONGEST_KNOWN, MOST_KNOWN, Head, Heads

BYTES = b"POST /api/v2 HTTP/1.1\r\ncontent-length: 5\r\n\r\n"


def head(*headers: tuple[bytes, bytes], last: bool = False) -> Head:
    return Head("POST", "/api/v2", b"", [(b"content-length", b"5"), *headers], last=last)


def test_a_head_that_was_read_is_known_with_any_body_of_its_length() -> None:
    heads, one = Heads(), head()

    assert (None, b"") == heads.split(BYTES + b"first")
    heads.keep(one, BYTES + b"first")
    assert (one, b"again") == heads.split(BYTES + b"again")


@pytest.mark.parametrize(
    "data", [BYTES + b"four", BYTES + b"again?", BYTES[:-1], b"", b"x" + BYTES]
)
def test_what_is_not_one_whole_request_is_for_the_parser(data: bytes) -> None:
    heads = Heads()
    heads.keep(head(), BYTES + b"first")

    assert (None, b"") == heads.split(data)


@pytest.mark.parametrize(
    ("odd", "data"),
    [
        (head(last=True), BYTES + b"first"),
        (head((b"expect", b"100-Continue")), BYTES + b"first"),
        (head((b"upgrade", b"h2c")), BYTES + b"first"),
        (head((b"transfer-encoding", b"chunked")), BYTES + b"first"),
        (head(), BYTES + b"first, and more"),
        (head(), b"\r\n\r\n" + BYTES + b"first"),
        (head(), BYTES[:-2] + b"a: " + b"x" * LONGEST_KNOWN + b"\r\n\r\nfirst"),
    ],
)
def test_what_says_more_than_its_bytes_is_not_known_again(odd: Head, data: bytes) -> None:
    heads = Heads()
    heads.keep(odd, data)
    begins = data[: data.index(b"\r\n\r\n") + 4]

    assert (None, b"") == heads.split(begins + b"again")


def test_no_more_is_kept_than_some() -> None:
    heads = Heads()
    for number in range(MOST_KNOWN + 1):
        heads.keep(head(), b"%d" % number + BYTES + b"first")

    assert (None, b"") == heads.split(b"0" + BYTES + b"first")
    assert heads.split(b"%d" % MOST_KNOWN + BYTES + b"first")[0]
