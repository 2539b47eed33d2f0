"""Logs tell what happened, in one of two formats, and never a key."""

import json
import logging
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from gateway import logs, parameters
from gateway.errors import CustomerError

FORMATS = ["console", "json"]
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Leave the process's loggers as they were found."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield
    root.setLevel(before[0])
    for handler in set(root.handlers) - set(before[1]):
        root.removeHandler(handler)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def log() -> structlog.typing.FilteringBoundLogger:
    """Return a logger as modules have it."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def fail(words: str) -> None:
    """Fail with these words, two exceptions deep."""
    try:
        raise ValueError(words)
    except ValueError as error:
        raise RuntimeError(f"while failing: {words}") from error


def only_line(text: str) -> dict[str, object]:
    """Return the one JSON line that was written."""
    (line,) = text.splitlines()
    fields: dict[str, object] = json.loads(line)
    return fields


def test_json_is_a_line_an_event_with_its_context(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is bound around the call stands in the line."""
    logs.configure("json", "info")

    with structlog.contextvars.bound_contextvars(
        request_id="r1", customer=7, order=17, provider="smmai"
    ):
        log().info("an order was placed", attempt=2)
    line = only_line(capsys.readouterr().err)
    del line["timestamp"]

    assert {
        "event": "an order was placed",
        "level": "info",
        "request_id": "r1",
        "customer": 7,
        "order": 17,
        "provider": "smmai",
        "attempt": 2,
    } == line


def test_console_is_for_eyes(capsys: pytest.CaptureFixture[str]) -> None:
    """The event comes first, and fields follow it by name."""
    logs.configure("console", "info")

    log().info("an order was placed", order=17)
    line = capsys.readouterr().err

    assert "an order was placed" in line
    assert "order=17" in line


def test_nothing_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """Results belong there: ``gateway order list --json | jq`` must work."""
    logs.configure("json", "info")

    log().error("trouble")
    logging.getLogger("uvicorn.error").error("trouble")
    written = capsys.readouterr()

    assert written.out == ""
    assert len(written.err.splitlines()) == 2


@pytest.mark.parametrize(("terminal", "expected"), [(True, "console"), (False, "json")])
def test_the_format_follows_the_terminal(terminal: bool, expected: str) -> None:
    """A person's terminal gets the console's format; a file or a pipe gets JSON."""
    script = "import structlog; from gateway import logs; logs.configure(); "
    script += "structlog.get_logger().warning('hello')"
    ours, theirs = pty.openpty() if terminal else os.pipe()
    subprocess.run([sys.executable, "-c", script], stderr=theirs, check=True, cwd=ROOT)
    written = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)

    assert expected == ("json" if written.startswith("{") else "console")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "name", ["key", "api_key", "X-Api-Key", "token", "Authorization", "password"]
)
def test_a_field_with_a_secrets_name_is_emptied(
    form: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the top and inside other fields, and whatever case it is written in."""
    logs.configure(form, "info")

    log().info("a call", **{name: "hush-1", "params": {"inner": [{name: "hush-2"}]}})
    line = capsys.readouterr().err

    assert "hush" not in line
    assert line.count(logs.REDACTED) == 2


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "secret", ["k-9f8e7d6c5b4a", 'quo"ted\\key', "clé-à-moi", "a+b/c=d&e f", "it's"]
)
def test_a_registered_key_never_shows(
    form: str, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not as a value, in a text, a list, an object, bytes or a traceback of either library."""
    logs.configure(form, "debug")
    logs.register_secret(secret)
    harmless = "harmless"

    log().info(f"it is {secret}", value=secret, text=f"<{secret}>", several=[{"x": secret}])
    log().info("an object", thing=Path(f"/{harmless}/{secret}"), raw=repr({"x": secret}))
    try:
        fail(f"{harmless} {secret}")
    except RuntimeError:
        log().exception("it failed")
        logging.getLogger("uvicorn.error").exception("it failed with %s", secret)
    written = capsys.readouterr().err

    assert written.count(harmless) >= 5
    assert all(
        spelling not in written
        for spelling in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])
    )


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "text",
    [
        "POST /api/v2?action=balance&key=hush HTTP/1.1",
        "sent api_key=hush&action=add",
        "Authorization: Bearer hush",
        "cannot reach redis://:hush@127.0.0.1:6379/0",
        "cannot reach postgresql://gateway:hush@db/gateway",
    ],
)
def test_a_secret_is_known_by_what_surrounds_it(
    form: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A customer's key is registered nowhere; a query, a header or an address betrays it."""
    logs.configure(form, "info")

    log().warning("trouble", reason=text)
    line = capsys.readouterr().err

    assert "hush" not in line
    assert logs.REDACTED in line


@pytest.mark.parametrize("form", FORMATS)
def test_a_tracebacks_local_variables_stay_out(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They hold keys that nobody registered."""
    logs.configure(form, "info")
    unregistered = "never registered".replace(" ", "-")

    try:
        fail(str(len(unregistered)))
    except RuntimeError:
        log().exception("it failed")
    written = capsys.readouterr().err

    assert unregistered not in written
    assert "ValueError" in written


def test_an_empty_secret_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """An unset variable must not redact the space between all letters."""
    logs.configure("json", "info")
    logs.register_secret("")

    log().info("hello")
    line = only_line(capsys.readouterr().err)

    assert line["event"] == "hello"


def test_json_keeps_an_exceptions_structure(capsys: pytest.CaptureFixture[str]) -> None:
    """Each exception of the chain with its type, words and frames."""
    logs.configure("json", "info")

    try:
        fail("why")
    except RuntimeError:
        log().exception("it failed")
    chain = only_line(capsys.readouterr().err)["exception"]

    assert isinstance(chain, list)
    assert [("RuntimeError", "while failing: why"), ("ValueError", "why")] == [
        (one["exc_type"], one["exc_value"]) for one in chain
    ]
    assert all(one["frames"] for one in chain)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://x.com/a", "https://x.com/a"),
        ("@somebody", "@somebody"),
        ("https://x.com/a?igsh=who", "https://x.com/a…"),
        ("https://x.com/a#who", "https://x.com/a…"),
        ("https://me:hush@x.com/a", "https://x.com/a…"),
        ("https://www.instagram.com/reel/DBEJ2yTN1a/", "https://www.instagram.com/reel/DBEJ2yTN…"),
        ("https://[broken/" + "a" * 90, "https://[broken/" + "a" * 23 + "…"),
        ("", ""),
    ],
)
def test_a_link_is_shortened(link: str, expected: str) -> None:
    """It keeps what tells it apart, and loses what may identify or authorise somebody."""
    shortened = logs.shorten(link)

    assert expected == shortened
    assert len(shortened) <= logs.LINK_LENGTH


def test_link_fields_are_shortened_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    """``url`` is another name of ``link``."""
    logs.configure("json", "info")
    link = "https://x.com/a?who=me"

    log().info("an order", link=link, params={"url": link})
    line = only_line(capsys.readouterr().err)

    assert ("https://x.com/a…", {"url": "https://x.com/a…"}) == (line["link"], line["params"])


def test_a_level_may_be_changed_while_running(capsys: pytest.CaptureFixture[str]) -> None:
    """The last call rules, for loggers already in use and for the standard library's."""
    used = log()
    foreign = logging.getLogger("uvicorn.error")
    logs.configure("json", "warning")
    used.info("left out")
    foreign.info("left out")
    logs.configure("json", "info")
    used.info("shown")
    foreign.info("shown")
    lines = capsys.readouterr().err.splitlines()

    assert ["shown", "shown"] == [json.loads(line)["event"] for line in lines]


def test_httpx_does_not_tell_of_every_request(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own line for each call would say twice, with the address, what the router says."""
    logs.configure("json", "info")

    logging.getLogger("httpx").info("HTTP Request: POST …")

    assert capsys.readouterr().err == ""


def test_nobody_fills_the_log_with_forms_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever sends them needs no key."""
    logs.configure("json", "info")

    with pytest.raises(CustomerError):
        parameters.read(b"", "multipart/form-data; boundary=-", b"--k\r\n")

    assert capsys.readouterr().err == ""


def test_what_is_filtered_out_costs_next_to_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """No field is looked at and no line is made."""
    logs.configure("json", "info")
    logger = log()

    def seconds(write: object) -> float:
        assert callable(write)
        begin = time.perf_counter()
        for number in range(500):
            write("a call", order=number, link="https://x.com/a")
        return time.perf_counter() - begin

    shown = min(seconds(logger.info) for _ in range(3))
    filtered = min(seconds(logger.debug) for _ in range(3))
    capsys.readouterr()

    assert filtered * 3 < shown


def test_a_line_that_says_the_same_again_is_kept_back_for_a_while_and_counted() -> None:
    times = iter([0, 1, logs.APART - 1, logs.APART, logs.APART + 1])
    seldom = logs.Seldom(lambda: next(times))
    said: list[object] = []
    for number in range(5):
        seldom.log(lambda event, **fields: said.append((event, fields)), "away", number=number)

    assert [
        ("away", {"number": 0, "left_out": 0}),
        ("away", {"number": 3, "left_out": 2}),
    ] == said
