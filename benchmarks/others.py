"""Two gateways that other people run, beside ours: what a forwarded call costs each.

They forward chat completions to models, which is no panel's business, but the same work: a request
with a key is taken, checked, written anew for an upstream, sent, and its answer handed on. None of
it is durable there; our ``add`` also writes an order and its money to disk twice on the way.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.figures import Result, at_least, figure
from benchmarks.load import Requests, Sample
from benchmarks.machine import Process, Trouble, ask, free_port, program
from benchmarks.rows import ORDER, Group, Target
from benchmarks.stage import OK, Panels, Plan, Stage

LITELLM, PORTKEY = "1.106.2", "1.15.2"
"""Their versions."""
CLIENTS = 16
DELAYS = (0, 20)
"""Milliseconds that the upstream takes."""
CUSTOMERS = 16
PATIENCE = 600
"""Seconds that an installation may take, or a start."""
WARM, SECONDS = 10, 4
"""Seconds until each has done everything once, and of a round: one of them takes its time."""
OURS = ""
KEY = "sk-none"
BODY = msgspec.json.encode(
    {"model": "model", "messages": [{"role": "user", "content": "What is the answer?"}]}
).decode()
_LITELLM = """
model_list:
  - model_name: model
    litellm_params:
      model: openai/model
      api_base: http://127.0.0.1:UPSTREAM/v1
      api_key: none
litellm_settings:
  set_verbose: false
  request_timeout: 600
general_settings:
  master_key: KEY
"""


class Other(msgspec.Struct, frozen=True):
    """A gateway of other people's.

    Attributes:
        name: with its version.
        settings: how it is run, for whoever reads the row.
        install: brings it into a folder that is new.
        words: what starts it there, by its port and the upstream's, in a folder of its own.
        environment: what it is started with.
        headers: of each request, by the upstream's port.

    """

    name: str
    settings: str
    install: Callable[[Path], None]
    words: Callable[[Path, Path, int, int], Sequence[str | Path]]
    environment: Mapping[str, str]
    headers: Callable[[int], Mapping[str, str]]


def _run(*words: str | Path) -> None:
    run = subprocess.run(
        [*words], capture_output=True, text=True, check=False, timeout=PATIENCE, env=_clean()
    )
    if run.returncode:
        raise Trouble(f"not installed: {run.stderr.strip()[-500:]}")


def _clean(**more: str) -> dict[str, str]:
    """Return an environment without anything of ours."""
    ours = ("GATEWAY", "PYTHON", "VIRTUAL_ENV")
    return {n: v for n, v in os.environ.items() if not n.startswith(ours)} | more


def _install_litellm(folder: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    _run(uv, "venv", "-q", "--python", sys.executable, folder)
    wanted = [f"litellm[proxy]=={LITELLM}"]
    # It looks for these at every request, in vain and at some cost, when they are not there.
    wanted += ["opentelemetry-sdk", "opentelemetry-exporter-otlp"]
    python = folder / "bin/python"
    _run(uv, "pip", "install", "-q", "--compile-bytecode", "--python", python, *wanted)


def _start_litellm(home: Path, folder: Path, port: int, upstream: int) -> Sequence[str | Path]:
    file = folder / "config.yaml"
    file.write_text(_LITELLM.replace("UPSTREAM", str(upstream)).replace("KEY", KEY))
    listening = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    return [home / "bin/python", home / "bin/litellm", "--config", file, *listening]


def _install_portkey(folder: Path) -> None:
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund"]
    _run(program("npm"), "install", "--prefix", folder, *quiet, f"@portkey-ai/gateway@{PORTKEY}")


def _start_portkey(home: Path, _: Path, port: int, __: int) -> Sequence[str | Path]:
    started = home / "node_modules/@portkey-ai/gateway/build/start-server.js"
    return [program("node"), started, f"--port={port}", "--headless"]


OTHERS = (
    Other(
        f"LiteLLM {LITELLM}'s proxy",
        "one worker, a master key, no database, no Redis, no callbacks, log level ERROR,"
        " LITELLM_MODE=PRODUCTION, as its page on production has it; opentelemetry installed,"
        " and not used",
        _install_litellm,
        _start_litellm,
        {
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would fetch a list from elsewhere
        },
        lambda _: {"Authorization": f"Bearer {KEY}"},
    ),
    Other(
        f"Portkey's gateway {PORTKEY}",
        "one process, NODE_ENV=production, --headless, no cache, no retries, no keys of its own"
        " to check; it listens on every address",
        _install_portkey,
        _start_portkey,
        {"NODE_ENV": "production"},
        lambda upstream: {
            "Authorization": f"Bearer {KEY}",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
        },
    ),
)


def _home(other: Other) -> Path:
    """Return where it is installed, outside of the repository, for this run and later ones."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "smm-gateway-bench" / other.name.lower().replace("'s", "").replace(" ", "-")
    if not (home / "whole").exists():
        shutil.rmtree(home, ignore_errors=True)  # what was interrupted
        home.parent.mkdir(parents=True, exist_ok=True)
        other.install(home)
        (home / "whole").touch()
    return home


def _started(stage: Stage, other: Other, upstream: Panels) -> Target:
    port = free_port()
    folder = stage.place()
    words = other.words(_home(other), folder, port, upstream.port)
    name = other.name.partition(" ")[0].lower()
    environment = _clean(**other.environment)
    core = stage.cores.serving
    process = stage.kept(Process(name, words, folder, core, environment=environment))
    headers = {"Content-Type": "application/json", **other.headers(upstream.port)}
    path = "/v1/chat/completions"

    def answers() -> bool:
        return ask(port, path, BODY, headers).status == OK

    process.wait(answers, PATIENCE)
    header = "\t".join(f"{name}: {value}" for name, value in headers.items())
    return Target(process, Requests(port, path, [BODY], header=header), fixed=False)


class _Asked(msgspec.Struct, frozen=True):
    """Something that forwards calls, and where it forwards them to, under which name there."""

    target: Target
    upstream: Panels
    action: str


class _Cost(msgspec.Struct, frozen=True):
    """What one round showed: milliseconds of CPU a forwarded call, and what wrk saw."""

    cpu: float
    seen: Sample


def others(stage: Stage) -> Iterator[Result]:
    """Calls forwarded to an upstream of ours, by each in turn."""
    panel, upstream = stage.panels(), stage.panels()
    against = f"our `add` on SQLite, durable and audited, {CLIENTS} in flight"
    theirs: dict[str, _Asked] = {}
    for other in OTHERS:
        try:
            theirs[other.name] = _Asked(_started(stage, other, upstream), upstream, "chat")
        except (Trouble, OSError, subprocess.TimeoutExpired) as trouble:
            yield Result(other.name, against, failure=str(trouble))
    plan = Plan({"panel": panel}, customers=CUSTOMERS)
    with stage.gateway(plan, stage.database("sqlite")) as gateway:
        forms = [f"key={key}&action=add&{ORDER}" for key in gateway.keys]
        target = Target(gateway, Requests(gateway.port, "/api/v2", forms), fixed=False)
        ours = _Asked(target, panel, "add")
        for asked in (ours, *theirs.values()):
            _forwarded(stage, asked, WARM)
        for delay in DELAYS:
            for behind in (panel, upstream):
                behind.ask(f"delay={delay}")
            costs: dict[str, list[_Cost]] = {}
            for _ in range(stage.rounds):
                for name, asked in {OURS: ours, **theirs}.items():
                    costs.setdefault(name, []).append(_forwarded(stage, asked, SECONDS))
            for other in OTHERS:
                if other.name in costs:
                    row = f"{other.name}, an upstream of {delay} ms"
                    yield _compared(row, against, other, costs[OURS], costs[other.name])


def _forwarded(stage: Stage, asked: _Asked, seconds: int) -> _Cost:
    """Ask for so long; all that its upstream heard counts, whether wrk waited for it or not."""
    target = asked.target
    before, spent = asked.upstream.ask()[asked.action], target.process.cpu()
    sample = stage.load.run(target.requests, CLIENTS, seconds, target.process)
    calls = asked.upstream.ask()[asked.action] - before
    spent = target.process.cpu() - spent
    if calls < sample.requests:
        raise Trouble(f"{target.process.name}: {sample.requests} answers of {calls} calls")
    return _Cost(spent * 1000 / calls, sample)


def _compared(
    row: str, against: str, other: Other, ours: Sequence[_Cost], theirs: Sequence[_Cost]
) -> Result:
    shares = [two.cpu / one.cpu for one, two in zip(ours, theirs, strict=True)]
    return Result(
        row,
        against,
        (
            figure("CPU a call, times ours", shares, at_least(1)),
            figure("CPU ms a call", [one.cpu for one in theirs]),
            figure("our CPU ms a call", [one.cpu for one in ours]),
            figure("a second", [one.seen.rate for one in theirs]),
            figure("ours a second", [one.seen.rate for one in ours]),
            figure("p50 ms", [one.seen.p50 for one in theirs]),
            figure("our p50 ms", [one.seen.p50 for one in ours]),
        ),
        other.settings,
    )


GROUP = Group("others", others)
