"""What the benchmark concludes by itself; what it measures is not for tests."""

import argparse
import json

import pytest

from benchmarks import others, pauses
from benchmarks.__main__ import GROUPS, chosen
from benchmarks.figures import Result
from benchmarks.panel import Panel


def held(**fields: object) -> str:
    return json.dumps({"event": "the event loop was held", "gc_ms": 1, "left_out": 0, **fields})


def found(*lines: str) -> Result:
    """Return the row that such a log gives."""
    return pauses._found(pauses._read("\n".join(lines).encode()), 1, 1.0, 1.0)


def test_the_longest_pause_is_the_figure_and_is_named_first() -> None:
    row = found(
        held(ms=12, cpu_ms=11, where="a.first:1"),
        '{"event": "a changed file is in force"}',
        held(ms=34, cpu_ms=2, where="b.second:2", beside="c.third:3"),
    )

    assert [34.0, 11.0, 1.0] == [one.median for one in row.figures[:3]]
    assert [False, True] == [one.met for one in row.figures[:2]]
    assert row.note.startswith("34 ms (CPU 2, collector 1) in b.second:2 beside c.third:3; 12 ms")


def test_without_a_pause_the_figure_is_what_the_watchdog_does_not_tell_of() -> None:
    row = found('{"event": "serving"}')

    assert [10.0, 0.0, 0.0] == [one.median for one in row.figures[:3]]
    assert row.figures[0].met


@pytest.mark.parametrize(
    ("rows", "beside", "expected"),
    [
        ([], False, [group.name for group in GROUPS]),
        (["add"], False, ["add"]),
        ([], True, ["others"]),
        (["add", "status"], True, ["status", "add", "others"]),
    ],
)
def test_other_peoples_gateways_are_measured_only_when_they_are_asked_for(
    rows: list[str], beside: bool, expected: list[str]
) -> None:
    asked = argparse.Namespace(rows=rows, others=beside)

    assert expected == [group.name for group in chosen(asked)]


def test_their_upstream_answers_a_chat_completion_and_counts_it() -> None:
    panel = Panel(1)
    answer = json.loads(panel.chat())

    assert "chat.completion" == answer["object"]
    assert {"chat": 1} == panel.calls
    assert {"role": "user"}.items() <= json.loads(others.BODY)["messages"][0].items()
