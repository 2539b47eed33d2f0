#!/usr/bin/env python3
"""Run docker-compose.yml once, for real: buy through it, kill it piece by piece, read the books.

Needs root, podman with netavark and aardvark-dns, and uv or podman-compose; for base images that
cannot be pulled also debootstrap and Debian's packages. Takes its own name, port and password, and
removes what it started; stand-ins for base images stay for the next time, under localhost/stand-in.
"""

# ruff: noqa: S603, S607 -- a script; it runs the programs of whoever starts it

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UVX = (ROOT / ".venv/bin/uv", "tool", "run", "podman-compose==1.6.0")
STAND_IN = "localhost/stand-in/"
LIMITS = {"nofile": 16384, "nproc": 4096}
SERVICES = ("postgres", "redis", "sandbox", "gateway", "background")
CREDIT = Decimal(25)
SOLD = 501
"""A plain service of the practice catalog, whose provider may be silent for longer than we are."""
PATIENCE = 120.0
"""Seconds that anything may take to come back."""

# What the official image does with a fresh volume, as far as docker-compose.yml asks for it.
POSTGRES_ENTRYPOINT = """#!/bin/sh
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" >/tmp/password
    # shellcheck disable=SC2086  # a list of words
    initdb -U "$POSTGRES_USER" --pwfile=/tmp/password -E UTF8 --locale=C.UTF-8 \\
        --auth-host=scram-sha-256 --auth-local=trust $POSTGRES_INITDB_ARGS
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    pg_ctl -w start -o "-c listen_addresses=''"
    [ "$POSTGRES_DB" = postgres ] || createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -w stop
fi
exec "$@"
"""


def say(what: str) -> None:
    """Tell whoever watches, at once."""
    sys.stderr.write(f"rehearse: {what}\n")


def run(*command: str | Path, check: bool = True, **environment: str) -> str:
    """Run a program in the checkout; returns what it printed, ends the rehearsal when it fails."""
    done = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    if check and done.returncode:
        words = " ".join(str(word) for word in command)
        raise SystemExit(f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout if check else done.stdout + done.stderr


def until(what: str, look: Callable[[], object]) -> float:
    """Wait until this is true; returns the seconds that it took."""
    begun = time.monotonic()
    while not look():
        if time.monotonic() - begun > PATIENCE:
            raise SystemExit(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.5)
    return time.monotonic() - begun


def expect(what: str, expected: object, actual: object) -> None:
    """Tell that it is so, or end the rehearsal."""
    if expected != actual:
        raise SystemExit(f"FAILED: {what}: expected {expected!r}, found {actual!r}")
    say(f"ok: {what}: {actual}")


# --- images -----------------------------------------------------------------------------------


def base_images() -> list[str]:
    """Return the images that the Dockerfile and the compose file begin with."""
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    compose = (ROOT / "docker-compose.yml").read_text()
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    return sorted({*bases, *re.findall(r"^ +image: (\S+:\S+)$", compose, re.MULTILINE)})


@contextlib.contextmanager
def images() -> Iterator[None]:
    """Have every base image: one that is here, or pulled, or else a stand-in made by Debian."""
    lent = []
    try:
        for name in base_images():
            if not run("podman", "images", "-q", name) and not pulled(name):
                stand_in(name)
                run("podman", "tag", STAND_IN + name, f"localhost/{name}")
                lent.append(f"localhost/{name}")
        yield
    finally:
        for name in lent:
            run("podman", "untag", STAND_IN + name.removeprefix("localhost/"), name)


def pulled(name: str) -> bool:
    """Pull an image from where podman looks for it, if it can be had there."""
    done = subprocess.run(["podman", "pull", "-q", name], check=False, capture_output=True)
    return not done.returncode


def stand_in(name: str) -> None:
    """Make an image of Debian's packages that does what this official one is used for here."""
    if run("podman", "images", "-q", STAND_IN + name):
        return
    say(f"{name} cannot be pulled; making a stand-in, which takes a minute or more")
    program, _, tag = name.partition(":")
    release = tag.rpartition("-")[2]
    version = tag.split("-")[0]
    packages, changes = {
        "python": ("python3,python3-venv,python-is-python3,ca-certificates", []),
        "redis": ("redis-server", []),
        "postgres": (
            f"postgresql-{version}",
            [
                f"ENV PATH=/usr/lib/postgresql/{version}/bin:/usr/local/bin:/usr/bin:/bin",
                "ENV PGDATA=/var/lib/postgresql/data",
                'ENTRYPOINT ["docker-entrypoint.sh"]',
                'CMD ["postgres"]',
                "STOPSIGNAL SIGINT",
            ],
        ),
    }[program]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        run("debootstrap", "--variant=minbase", f"--include={packages}", release, root, *mirror())
        shutil.rmtree(root / "var/cache/apt/archives")
        if program == "postgres":
            entrypoint = root / "usr/local/bin/docker-entrypoint.sh"
            entrypoint.write_text(POSTGRES_ENTRYPOINT)
            entrypoint.chmod(0o755)
            run("chroot", root, "usermod", "-o", "-u", "999", "postgres")
            run("chroot", root, "groupmod", "-o", "-g", "999", "postgres")
            # As in the official one: whoever it runs as may put its socket there.
            run("chroot", root, "install", "-d", "-m", "3777", "/var/run/postgresql")
            data = "/var/lib/postgresql/data"
            run("chroot", root, "install", "-d", "-m", "1777", "-o", "999", "-g", "999", data)
        archive = Path(folder) / "root.tar"
        run("tar", "-C", root, "-cf", archive, ".")
        changed = [f"--change={change}" for change in changes]
        run("podman", "import", *changed, archive, STAND_IN + name)


def mirror() -> list[str]:
    """Return where this machine's own packages come from, if it is a Debian's."""
    said = run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages")
    return [next(site for site in said.split() if "debian" in site)]


@contextlib.contextmanager
def built() -> Iterator[None]:
    """Build the gateway's image, trusting and asking whom this machine trusts and asks."""
    there = run("podman", "images", "-q", "smm-gateway")
    lent = [Path("/etc/ssl/certs"), Path("/etc/pip.conf")]
    volumes = [f"--volume={path}:{path}:ro" for path in lent if path.exists()]
    options = ("--network=host", "--layers=false", "--file=deploy/Dockerfile", "--tag=smm-gateway")
    say("building")
    run("podman", "build", *options, *volumes, ".")
    try:
        yield
    finally:
        if not there:
            run("podman", "rmi", "smm-gateway")


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Ask for few files and processes: podman's defaults are more than a small machine gives."""
    asked = [f"{name}={most}:{most}" for name, most in LIMITS.items()]
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(f"[containers]\ndefault_ulimits = {json.dumps(asked)}\n")
        file.flush()
        os.environ["CONTAINERS_CONF"] = file.name
        yield


# --- the installation -------------------------------------------------------------------------


class Installation:
    """What docker-compose.yml makes, under a name of its own."""

    def __init__(self) -> None:
        self.name = f"rehearsal-{secrets.token_hex(3)}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._given = {
            "POSTGRES_PASSWORD": f"{secrets.token_hex(8)}:/@ #?%",
            "PORT": str(self.port),
            "COMPOSE_PROJECT_NAME": self.name,
        }
        found = shutil.which("podman-compose")
        self._program: tuple[str | Path, ...] = (found,) if found else UVX

    def compose(self, *words: str, check: bool = True, **environment: str) -> str:
        """Speak to podman-compose as the owner speaks to Compose."""
        # As with Docker, nothing is writable but what the file says.
        strict = "--podman-run-args=--read-only-tmpfs=false"
        settings = ("--env-file", "deploy/sandbox.env", "--profile", "sandbox")
        options = ("-p", self.name, *settings, strict)
        return run(*self._program, *options, *words, check=check, **{**self._given, **environment})

    def container(self, service: str) -> str:
        """Return the id of a service's container, running or not."""
        labels = (
            f"com.docker.compose.project={self.name}",
            f"com.docker.compose.service={service}",
        )
        filters = [f"--filter=label={label}" for label in labels]
        return run("podman", "ps", "-aq", *filters).strip()

    def inspect(self, service: str, field: str) -> str:
        """Return one field of what podman knows of a service's container."""
        return run(
            "podman", "inspect", "--format", f"{{{{{field}}}}}", self.container(service)
        ).strip()

    def healthy(self, service: str) -> bool:
        """Do the health check of the compose file, once; nobody else does it under podman."""
        done = subprocess.run(
            ["podman", "healthcheck", "run", self.container(service)],
            check=False,
            capture_output=True,
        )
        return not done.returncode

    def kill(self, service: str) -> None:
        """Let a container die as if its machine had: at once, and without being asked to."""
        os.kill(int(self.inspect(service, ".State.Pid")), 9)

    def tell(self, *words: str) -> Any:  # noqa: ANN401 -- whatever the command has
        """Give the gateway a command inside its container; returns its JSON."""
        command = ("python", "-m", "gateway", *words, "--json")
        return json.loads(run("podman", "exec", self.container("gateway"), *command))

    def ask(self, **parameters: object) -> tuple[int, Any]:
        """Ask the endpoint as a customer's program does; returns the HTTP status and the answer."""
        form = urllib.parse.urlencode(parameters).encode()
        url = f"http://127.0.0.1:{self.port}/api/v2"
        try:
            with urllib.request.urlopen(url, form, timeout=15) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError as error:
            return 0, str(error)

    def catalog(self, key: str) -> dict[int, Any]:
        """Return what is sold to a customer, by its number."""
        return {one["service"]: one for one in self.ask(key=key, action="services")[1]}

    def remove(self) -> None:
        """Remove the containers, the networks and the volumes of this name."""
        for service in SERVICES:
            if found := self.container(service):
                run("podman", "unpause", found, check=False)
        self.compose("down", "--volumes", "--timeout", "5")


# --- the story --------------------------------------------------------------------------------


def unknown(here: Installation) -> list[int]:
    """Return the orders whose outcome nobody knows."""
    return [row["id"] for row in here.tell("order", "list", "--status", "unknown")]


def bought(here: Installation, **order: object) -> bool:
    """Place an order; returns whether its provider has it at once."""
    _, answer = here.ask(**order)
    return "order" in answer and here.tell("order", "show", str(answer["order"]))["upstream_id"]


def guarded(here: Installation) -> None:
    """See that no container runs as root, can do what root can, or write to its own files."""
    look = "id -u; grep CapEff /proc/self/status; touch /planted 2>&1; :"
    for service in SERVICES:
        found = run("podman", "exec", here.container(service), "sh", "-c", look).split()
        account = (found[0] != "0", found[2], found[-3:])
        harmless = (True, "0" * 16, ["Read-only", "file", "system"])
        expect(f"{service} is not root, has no capabilities, writes nowhere", harmless, account)


def books(here: Installation, when: str) -> None:
    """Prove the books, and that the customer's money is all there."""
    expect(f"the audit {when}", [], here.tell("audit")["problems"])
    facts = here.tell("customer", "show", "alice")
    parts = {name: Decimal(facts[name]) for name in ("balance", "held", "spent")}
    say(f"{when}: {', '.join(f'{name} {amount}' for name, amount in parts.items())}")
    expect(f"her money {when}", CREDIT, sum(parts.values()))


def rehearse(here: Installation) -> None:
    """Start it in the wrong order, buy, kill, and read the books."""
    refused = here.compose("config", check=False, POSTGRES_PASSWORD="")
    expect("without a password it says what to write", True, "POSTGRES_PASSWORD=..." in refused)  # noqa: FBT003

    here.compose("up", "-d", "--no-build", "--no-deps", "redis", "sandbox", "gateway", "background")
    time.sleep(5)
    expect("without a database the gateway serves nobody", 0, here.ask(action="balance")[0])
    here.compose("up", "-d", "--no-build", "--no-deps", "postgres")
    for service in SERVICES:
        until(f"{service} healthy", partial(here.healthy, service))
        say(f"ok: {service} is healthy")
    guarded(here)

    key = here.tell("customer", "add", "alice", "--credit", str(CREDIT))["key"]
    until("a catalog", lambda: SOLD in here.catalog(key))
    order = {"key": key, "action": "add", "service": SOLD, "link": "https://example.com/p"}
    _, answer = here.ask(**order, quantity=1000)
    first = answer.get("order")
    expect("an order gets its id", {"order": first}, answer)
    until("the order is placed", lambda: here.tell("order", "show", str(first))["upstream_id"])
    before = here.tell("order", "show", str(first))
    say(f"ok: order {first} is placed, for {before['charge']}")

    # From here on nobody can know whether the provider has taken an order.
    run("podman", "pause", here.container("sandbox"))
    second = here.ask(**order, quantity=500)[1]["order"]
    here.kill("gateway")
    say(f"killed the gateway while its provider was silent about order {second}")
    took = until("the gateway is back", lambda: here.healthy("gateway"))
    say(f"ok: the gateway is back by itself after {took:.0f} s")
    until("its outcome is unknown", lambda: unknown(here) == [second])
    held = here.tell("customer", "show", "alice")["held"]
    story = here.tell("order", "show", str(first))
    expect("the first order is the same", before["upstream_id"], story["upstream_id"])
    books(here, "after the gateway was killed")

    run("podman", "unpause", here.container("sandbox"))
    took = until("its provider takes orders again", lambda: bought(here, **order, quantity=50))
    took += until("and takes more of them", lambda: bought(here, **order, quantity=60))
    say(f"ok: its provider speaks, and is trusted again after {took:.0f} s")
    process = here.inspect("gateway", ".State.Pid")
    here.kill("postgres")
    status, said = here.ask(**order, quantity=100)
    sorry = (503, {"error": "Service is unavailable"})
    expect("the answer to an order that cannot be made durable", sorry, (status, said))
    took = until("the database is back", lambda: here.healthy("postgres"))
    took += until("the gateway is ready", lambda: here.healthy("gateway"))
    say(f"ok: the database is back after {took:.0f} s, and the gateway with it")
    expect("the gateway is the same process", process, here.inspect("gateway", ".State.Pid"))
    expect("what is held is held", held, here.tell("customer", "show", "alice")["held"])
    books(here, "after the database was killed")


def main() -> None:
    """Build, rehearse, and remove what was made."""
    here = Installation()
    with limits(), images(), built():
        try:
            rehearse(here)
        except BaseException:
            for service in SERVICES:
                if found := here.container(service):
                    log = run("podman", "logs", "--tail", "15", found, check=False)
                    say(f"the last words of {service}:\n{log}")
            raise
        finally:
            here.remove()
    say("all of it came out right")


if __name__ == "__main__":
    main()
