"""The gateway's own code under bad luck of every kind; see ``gateway simulate``."""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.simulation import crowd, plan, simulate, single
from gateway.simulation.loop import Clock, Loop, Scheduler, Standstill, at_once
from gateway.simulation.planted import PLANTED, Plant

SEEDS = range(48, 68)
"""Honest code passes them all, and within them each planted bug is caught."""
ORDERS = 20
STEPS = range(0, 40, 10)
"""What a process does from the arrival of an order on: until it is placed."""
STOPPED = range(106, 114)
"""When it does background work."""
CROWDED = range(6)
"""When more orders come than find a place."""
APART = ("missing-fence", "sent-by-two")
"""Planted bugs that chance alone shows too seldom: each has a test of its own."""
FOUND = ((51, 20), (90, 25), (117, 25))
"""Seeds and numbers of orders that have found a bug once."""


@pytest.mark.parametrize("seed", SEEDS)
def test_every_promise_holds(seed: int) -> None:
    """Whatever the panels do, and whenever the gateway is killed, stopped or replaced."""
    result = simulate(plan(seed, ORDERS))

    assert result.violated == ""


@pytest.mark.parametrize(("seed", "orders"), FOUND)
def test_what_was_found_once_stays_mended(seed: int, orders: int) -> None:
    result = simulate(plan(seed, orders))

    assert result.violated == ""


@pytest.mark.parametrize("stops", [False, True], ids=["killed", "stopped"])
@pytest.mark.parametrize("first", STEPS)
def test_every_promise_holds_at_every_await(first: int, stops: bool) -> None:
    """A process is killed, or stopped for longer than its leases, at each step in turn."""
    violated = {}
    for step in range(first, first + STEPS.step):
        result = simulate(single(step, crash_at=step, stops=stops))
        happened = result.happened.get("stopped" if stops else "killed")
        violated[step] = result.violated if happened else "nothing happened"

    assert dict.fromkeys(violated, "") == violated


def test_a_seed_replays_exactly() -> None:
    """Also in a process that hashes otherwise: else a failure could not be looked at again."""
    command = [sys.executable, "-m", "gateway", "simulate", "--seed", "4", "--json"]
    here = Path(__file__).parent.parent

    said = [
        json.loads(
            subprocess.run(
                command,
                env={**os.environ, "PYTHONHASHSEED": seed},
                cwd=here,
                check=True,
                capture_output=True,
            ).stdout
        )
        for seed in ("1", "2")
    ]
    here_too = simulate(plan(4, ORDERS))

    assert said[0] == said[1]
    assert said[0][0]["digest"] == here_too.digest
    assert simulate(plan(5, ORDERS)).digest != here_too.digest


def test_a_missing_fence_is_caught() -> None:
    """At the steps in which a process that is stopped has a lease that another one takes."""
    planted = PLANTED["missing-fence"]
    noticed = []
    for step in STOPPED:
        assert simulate(single(step, crash_at=step, stops=True)).violated == ""
        with planted():
            noticed.append(simulate(single(step, crash_at=step, stops=True)).violated)

    assert any(re.search(planted.violates, one) for one in noticed), noticed


def test_who_sends_what_another_process_sends_is_caught() -> None:
    """It takes a crowd: mostly only one process sends what waits."""
    planted = PLANTED["sent-by-two"]
    noticed = []
    for seed in CROWDED:
        assert simulate(crowd(seed, ORDERS)).violated == ""
        with planted():
            noticed.append(simulate(crowd(seed, ORDERS)).violated)

    assert any(re.search(planted.violates, one) for one in noticed), noticed


@pytest.mark.parametrize(
    "planted",
    [pytest.param(plant, id=name) for name, plant in PLANTED.items() if name not in APART],
)
def test_a_planted_bug_is_caught(planted: Plant) -> None:
    """For what it breaks: whatever else goes wrong with it proves nothing."""
    noticed = []
    for seed in SEEDS:
        with planted():
            noticed.append(simulate(plan(seed, ORDERS)).violated)
        if re.search(planted.violates, noticed[-1]):
            break

    assert re.search(planted.violates, noticed[-1]), set(noticed)


def test_the_command_tells_the_seed_and_how_to_see_it_again() -> None:
    command = ["simulate", "--seed", "0", "--runs", "3", "--plant", "lost-hold"]

    run = subprocess.run(
        [sys.executable, "-m", "gateway", *command], check=False, capture_output=True, text=True
    )

    assert run.returncode == 1
    assert "seed 0, step " in run.stderr
    assert "gateway simulate --seed 0 --orders 20 --plant lost-hold" in run.stderr


@pytest.mark.parametrize("wrong", ["--plant nothing", "--seeds 9-1", "--seeds many"])
def test_the_command_says_what_would_be_right(wrong: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "gateway", "simulate", *wrong.split()],
        check=False,
        capture_output=True,
        text=True,
    )

    assert run.returncode == 2
    assert wrong in run.stderr


# --- the loops ------------------------------------------------------------------------------


def scheduler(count: int) -> tuple[Clock, list[Loop], Scheduler]:
    clock = Clock()
    found = Scheduler(clock, random.Random(1))
    found.loops += [Loop(clock) for _ in range(count)]
    return clock, list(found.loops), found


def test_hours_pass_at_once() -> None:
    """Nobody waits for a clock that is not real."""
    clock, (loop,), turns = scheduler(1)
    task = loop.create_task(asyncio.sleep(10_000, "done"))

    while not task.done():
        turns.turn()

    assert task.result() == "done"
    assert 10_000 < clock() < 10_001
    loop.end()


def test_a_killed_process_does_nothing_more() -> None:
    """Not even clean up: nobody does after kill -9."""
    _, (killed, other), turns = scheduler(2)
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            cleaned.append("up")

    killed.create_task(work())
    task = other.create_task(asyncio.sleep(5))
    turns.turn()
    killed.stopped = True
    while not task.done():
        turns.turn()

    assert cleaned == []
    killed.end()
    other.end()


def test_a_standstill_is_told() -> None:
    """A test that waits for ever says nothing."""
    _, (loop,), turns = scheduler(1)
    loop.create_task(asyncio.Event().wait())

    turns.turn()
    with pytest.raises(Standstill):
        turns.turn()
    loop.end()


def test_what_waits_is_not_done_at_once() -> None:
    with pytest.raises(RuntimeError, match="waits for something"):
        at_once(asyncio.sleep(0))
