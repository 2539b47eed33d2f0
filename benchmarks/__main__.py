"""``./run bench [ROW …] [--others] [--quick] [--json FILE] [--against FILE]``."""

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks import ordering, others, pauses, reading, working
from benchmarks.figures import Report, Result, details, table, verdict
from benchmarks.machine import described
from benchmarks.rows import Group
from benchmarks.stage import Stage

GROUPS: tuple[Group, ...] = (*reading.GROUPS, *ordering.GROUPS, *working.GROUPS, *pauses.GROUPS)
LEFT_OUT = """\
A quick run leaves out: statuses for 16 clients, not in memory, or through Redis; the balance,
commits alone and following on PostgreSQL; all orders of one customer; the list of services
uncompressed; and catalogs with nothing new."""
SCRATCH = Path("/var/tmp")  # noqa: S108  # on disk, where /tmp may be in memory


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    names = [group.name for group in GROUPS]
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"only these: {', '.join(names)}")
    parser.add_argument(
        "--others", action="store_true", help="also, or only, gateways that other people run"
    )
    parser.add_argument("--quick", action="store_true", help="shorter rounds, a shorter history")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the run there")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with an earlier run")
    found = parser.parse_args()
    if unknown := sorted(set(found.rows) - set(names)):
        parser.error(f"there is no row {unknown[0]}; there are: {', '.join(names)}")
    return found


def chosen(asked: argparse.Namespace) -> list[Group]:
    """Return the groups that are asked for: all of ours, when nothing is."""
    everything = not (asked.rows or asked.others)
    found = [group for group in GROUPS if everything or group.name in asked.rows]
    return [*found, others.GROUP] if asked.others else found


def measured(group: Group, stage: Stage) -> list[Result]:
    """Measure a group's rows; what goes wrong in one is a row of its own."""
    found: list[Result] = []
    began = time.monotonic()
    try:
        found += group.rows(stage)
    except Exception as trouble:  # noqa: BLE001  # the others are still to be measured
        found.append(Result(group.name, "", failure=f"{type(trouble).__name__}: {trouble}"))
    said = ", FAILED" if any(one.failure for one in found) else ""
    print(f"{group.name}: {time.monotonic() - began:.0f} s{said}", file=sys.stderr)
    return found


def main() -> int:
    """Measure what is asked for; 1 when a row failed or books did not add up."""
    asked = arguments()
    before = None
    if asked.against:
        before = msgspec.json.decode(asked.against.read_bytes(), type=Report)
    results: list[Result] = []
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=SCRATCH))
    with ExitStack() as open_:
        open_.callback(shutil.rmtree, folder, ignore_errors=True)
        stage = Stage(folder, quick=asked.quick, open_=open_)
        machine = described(stage.cores, folder)
        for group in chosen(asked):
            results += measured(group, stage)
    report = Report(machine, asked.quick, tuple(results))
    print("\n".join([*table(report, before), "", *details(report), ""]))
    print("\n".join(f"{name}: {said}" for name, said in machine.items()))
    if asked.quick:
        print(LEFT_OUT)
    print(f"{verdict(report)}, in {time.monotonic() - began:.0f} s")
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    return 1 if any(one.failure for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
