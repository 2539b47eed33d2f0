"""What the measurements are made on: servers, databases and gateways, each started here."""

import asyncio
import os
import pwd
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TypeVar

import asyncpg  # type: ignore[import-untyped]
import msgspec

from benchmarks import history
from benchmarks.load import Load, Sample
from benchmarks.machine import Cores, Process, Trouble, ask, free_port, on, program
from gateway import auth, ledger
from gateway.app import open_store
from gateway.model import Customer
from gateway.money import Money
from gateway.store import Store

_FAST = signal.SIGINT
"""PostgreSQL's "fast" shutdown."""
P = TypeVar("P", bound=Process)

ROOT = Path(__file__).parent.parent
OK = 200
CREDIT = "100000000"
"""What each customer begins with, in USD; enough for the longest history."""
_POSTGRES = ("max_connections=100", "shared_buffers=512MB", "max_wal_size=8GB")
_NGINX = """
worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr;
USER
events { worker_connections 1024; }
http {
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    gzip_static on;
    default_type application/json;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server { listen 127.0.0.1:PORT; root FOLDER; }
}
"""


class Panels(Process):
    """The panel of ``panel.py``, in a process."""

    def __init__(self, folder: Path, core: int, *, services: int = 1, delay: int = 0) -> None:
        self.port = free_port()
        words = [sys.executable, "-m", "benchmarks.panel", str(self.port), str(services)]
        super().__init__("panel", words, folder, core, environment=environment())
        self.wait(lambda: bool(self.ask(f"delay={delay}")))

    def ask(self, change: str = "") -> Counter[str]:
        """Return how often it was asked each action, and for how many ``orders`` and ``ids``.

        ``change``: as ``panel.py`` takes it.
        """
        said = msgspec.json.decode(ask(self.port, f"/set?{change}").body)
        return Counter({"orders": said["orders"], "ids": said["ids"], **said["calls"]})


class Gateway(Process):
    """The installed program, serving from a folder of its own.

    Attributes:
        url: its database.
        keys: its customers'.

    """

    def __init__(
        self, folder: Path, core: int | str, plan: "Plan", url: str, redis: str, keys: list[str]
    ) -> None:
        self.port = free_port()
        self.url = url
        self.keys = keys
        self.file = folder / "providers.yaml"
        self.file.write_text(plan.file())
        settings = environment(GATEWAY_DATABASE_URL=url, GATEWAY_REDIS_URL=redis, PANEL_KEY="none")
        if plan.log_level:
            settings["GATEWAY_LOG_LEVEL"] = plan.log_level
        words = [sys.executable, "-m", "gateway", "serve", "--port", str(self.port)]
        if plan.workers > 1:
            words += ["--workers", str(plan.workers)]
        super().__init__("gateway", words, folder, core, environment=settings)
        self.wait(self._ready)

    def _ready(self) -> bool:
        said = msgspec.json.decode(ask(self.port, "/readyz").body)
        return bool(said["ready"] and not said["problems"])


class Plan(msgspec.Struct, frozen=True):
    """What a gateway is to be like.

    Attributes:
        panels: by the provider's name; the services are spread over them in turn.
        customers: added with money, when the database is new.
        orders: how many its database has already, and the key of whom they belong to.
        every: what the owner's file says under that word.
        markup: what is added to the providers' rates, in per cent.
        log_level: where it is not the program's own choice.

    """

    panels: Mapping[str, Panels]
    services: int = 1
    customers: int = 1
    orders: int = 0
    keys: tuple[str, ...] = ()
    every: str = ""
    workers: int = 1
    redis: bool = False
    markup: int = 25
    log_level: str = ""

    def file(self) -> str:
        """Return the owner's file."""
        names = list(self.panels)
        lines = ["currency: USD", f"markup: {self.markup}%", f"every: {{{self.every}}}"]
        lines.append("providers:")
        for name, panel in self.panels.items():
            lines += [
                f"  {name}:",
                "    adapter: api_v2",
                f"    url: http://127.0.0.1:{panel.port}/api/v2",
                "    key: ${PANEL_KEY}",
                "    limits: {concurrency: 256, per_second: 10000}",
            ]
        lines.append("services:")
        for number in range(self.services):
            name = names[number % len(names)]
            lines.append(f"  {number + 1}: {{routes: [{name}/{number // len(names) + 1}]}}")
        return "\n".join(lines) + "\n"


class Stage:
    """Everything that measurements share, started when it is first asked for."""

    def __init__(self, folder: Path, *, quick: bool, open_: ExitStack) -> None:
        self.folder = folder
        self.quick = quick
        self.cores = Cores.of_this_machine()
        self.load = Load(folder, self.cores)
        self.rounds = 2 if quick else 4
        self.seconds = 1 if quick else 2
        self._open = open_
        self._numbers = count(1)

    def place(self) -> Path:
        """Return a new folder."""
        folder = self.folder / f"{next(self._numbers)}"
        folder.mkdir()
        return folder

    def panels(self, *, services: int = 1, delay: int = 0) -> Panels:
        """Start a panel."""
        return self.kept(Panels(self.place(), self.cores.beside, services=services, delay=delay))

    def kept(self, process: P) -> P:
        """Stop a process at the end, if nobody does so before."""
        self._open.callback(process.stop)
        return process

    @cached_property
    def constant(self) -> "Served":
        """The Starlette application that answers a constant."""
        port = free_port()
        words = [sys.executable, "-m", "benchmarks.constant", str(port)]
        process = Process(
            "constant", words, self.place(), self.cores.serving, environment=environment()
        )
        process.wait(lambda: ask(port, "/api/v2").status == OK)
        return Served(self.kept(process), port)

    def nginx(self, folder: Path) -> "Served":
        """Start a web server that serves a folder's files."""
        port = free_port()
        folder.chmod(0o755)
        (folder / "index.txt").write_text("ready")
        file = _NGINX.replace("PORT", str(port)).replace("FOLDER", str(folder))
        file = file.replace("USER", "user root;" if os.geteuid() == 0 else "")
        (folder / "nginx.conf").write_text(file)
        words: list[str | Path] = [
            program("nginx"),
            "-p",
            folder,
            "-c",
            "nginx.conf",
            "-e",
            "stderr",
        ]
        process = Process("nginx", words, folder, self.cores.serving)
        process.wait(lambda: ask(port, "/index.txt").status == OK)
        return Served(self.kept(process), port)

    @cached_property
    def redis(self) -> "Served":
        """A Redis that keeps nothing on disk."""
        port = free_port()
        words = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
        words += ["--save", "", "--appendonly", "no"]
        process = Process("redis", words, self.place(), self.cores.beside)
        process.wait(lambda: "ready to accept" in process.log.read_text().lower())
        return Served(self.kept(process), port)

    @cached_property
    def postgres(self) -> "Served":
        """A PostgreSQL that keeps its promises: nothing is acknowledged before it is on disk."""
        base = self.place()
        nobody = pwd.getpwnam("nobody")
        whose = (nobody.pw_uid, nobody.pw_gid) if os.geteuid() == 0 else None
        if whose:
            self.folder.chmod(0o755)
            os.chown(base, *whose)
        plain = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        init: list[str | Path] = [
            program("initdb"),
            "-D",
            base / "data",
            "-U",
            "postgres",
            "-A",
            "trust",
        ]
        init += ["-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"]
        made = Process("initdb", init, base, self.cores.beside, environment=plain, whose=whose)
        if made.run.wait():
            raise made.trouble("failed")
        port = free_port()
        start: list[str | Path] = [
            program("postgres"),
            "-D",
            base / "data",
            "-p",
            str(port),
            "-k",
            base,
        ]
        start += ["-h", "127.0.0.1", *(f"--{option}" for option in _POSTGRES)]
        process = Process(
            "postgres", start, base, self.cores.beside, environment=plain, whose=whose, end=_FAST
        )
        pid_file = base / "data" / "postmaster.pid"
        process.wait(lambda: pid_file.exists() and "ready" in pid_file.read_text())
        return Served(self.kept(process), port)

    def database(self, kind: str) -> str:
        """Return the URL of a new database, ``sqlite`` or ``postgres``."""
        if kind == "sqlite":
            return f"sqlite:///{self.place()}/gateway.db"
        server = f"postgresql://postgres@127.0.0.1:{self.postgres.port}"
        name = f"bench_{next(self._numbers)}"

        async def make() -> None:
            db = await asyncpg.connect(f"{server}/postgres")
            await db.execute(f"CREATE DATABASE {name}")
            await db.close()

        asyncio.run(make())
        return f"{server}/{name}"

    def databases(self, names: Mapping[str, str]) -> Mapping[str, str]:
        """Return the kinds of databases that a row is measured on: in a quick run the first."""
        return dict(list(names.items())[: 1 if self.quick else None])

    def beside(self, url: str) -> Process | None:
        """Return the process that a database is in, if it is not the gateway's own."""
        return self.postgres.process if url.startswith("postgresql") else None

    @contextmanager
    def gateway(
        self, plan: Plan, url: str, cores: str = "", *, audited: bool = True
    ) -> Iterator[Gateway]:
        """Run a gateway on a database, and have its books proved when it has stopped.

        Every order that the panels have must be in the books, and nothing else.
        """
        keys = list(plan.keys) or filled(url, plan.customers)
        redis = f"redis://127.0.0.1:{self.redis.port}/0" if plan.redis else ""
        core = cores or self.cores.serving
        panels = set(plan.panels.values())  # one may stand for several
        before = sum(panel.ask()["orders"] for panel in panels)
        gateway = Gateway(self.place(), core, plan, url, redis, keys)
        try:
            yield gateway
        finally:
            gateway.stop()
        placed = sum(panel.ask()["orders"] for panel in panels) - before
        if audited:
            # A top-up of each customer; of each order what is held, captured, and what it costs.
            expected = len(keys) + 3 * (plan.orders + placed)
            if (found := self.audit(plan, url)) != expected:
                raise Trouble(f"the books have {found} transfers instead of {expected}")

    def audit(self, plan: Plan, url: str) -> int:
        """Have the books proved by the program itself; returns the number of transfers."""
        folder = self.place()
        (folder / "providers.yaml").write_text(plan.file())
        run = subprocess.run(
            [sys.executable, "-m", "gateway", "audit", "--json"],
            cwd=folder,
            env=environment(GATEWAY_DATABASE_URL=url, PANEL_KEY="none"),
            capture_output=True,
            check=False,
        )
        if run.returncode:
            said = (run.stdout + run.stderr).decode(errors="replace")[-2000:]
            raise Trouble(f"the books do not add up: {said}")
        return int(msgspec.json.decode(run.stdout)["transfers"])

    def sample(self, program: str, *words: str) -> Sample:
        """Run one of our programs on the serving core, and return what it measured."""
        run = subprocess.run(
            [*on(self.cores.serving), sys.executable, "-m", f"benchmarks.{program}", *words],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            check=False,
        )
        if run.returncode:
            raise Trouble(f"{program}: {run.stderr.decode(errors='replace')[-2000:]}")
        return msgspec.json.decode(run.stdout, type=Sample)


class Served(msgspec.Struct, frozen=True):
    """A server and its port."""

    process: Process
    port: int


def environment(**more: str) -> dict[str, str]:
    """Return what our own programs are started with: nothing of an owner's settings."""
    kept = {name: value for name, value in os.environ.items() if "GATEWAY" not in name}
    return kept | {"PYTHONPATH": str(ROOT)} | more


def filled(url: str, customers: int, orders: int = 0, *, due: int | None = None) -> list[str]:
    """Bring the schema and customers into a new database, and orders of the first of them.

    Returns the customers' keys; ``due``: see ``history.fill``.
    """

    async def run() -> list[str]:
        store = await open_store(url)
        try:
            return await _add_customers(store, customers)
        finally:
            await store.close()

    keys = asyncio.run(run())
    if orders:
        history.fill(url, orders, due=due)
    return keys


async def _add_customers(store: Store, number: int) -> list[str]:
    """Add customers as the command does, with money and no limit to speak of."""
    pepper = await store.pepper()
    keys = [auth.new_key() for _ in range(number)]
    for index, key in enumerate(keys):
        draft = Customer(id=0, name=f"customer {index}", per_second=1_000_000, created_at=1)
        customer = await store.add_customer(draft, auth.digest(pepper, key))
        if customer is None:
            raise Trouble("there are customers already")
        await store.post([ledger.top_up(customer.id, Money.of(CREDIT, "USD"), "opening", 1)])
    return keys
