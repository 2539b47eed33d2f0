"""What is deployed is well-formed: checked without a container engine, so everywhere."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from databases import database
from gateway.commands.serve import STOPPED
from gateway.store import PRESENT
from gateway.store.postgres import PostgresStore

ROOT = Path(__file__).parent.parent
TOOLS = Path(sys.executable).parent


def say(*command: str | Path, **environment: str) -> tuple[int, str]:
    """Run a command in the checkout; returns its exit code and all that it said."""
    done = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    return done.returncode, done.stdout + done.stderr


def judge_compose(file: Path) -> tuple[int, str]:
    """Hold a compose file against the specification that ships with the tool."""
    schema = ("--builtin-schema", "vendor.compose-spec")
    return say(sys.executable, "-m", "check_jsonschema", *schema, file)


def judge_dockerfile(file: Path) -> tuple[int, str]:
    """Read a Dockerfile as hadolint reads it."""
    return say(TOOLS / "hadolint", file)


def judge_shell(file: Path) -> tuple[int, str]:
    """Read a script as shellcheck reads it."""
    return say(TOOLS / "shellcheck", file)


def test_the_compose_file_is_one() -> None:
    """Every key stands where Compose looks for it."""
    code, said = judge_compose(ROOT / "docker-compose.yml")

    assert code == 0, said


def test_the_dockerfile_is_well_made() -> None:
    """No layer that hadolint knows better."""
    code, said = judge_dockerfile(ROOT / "deploy/Dockerfile")

    assert code == 0, said


@pytest.mark.parametrize("script", ["run", ".ci/run"])
def test_a_script_is_well_made(script: str) -> None:
    """POSIX where it says sh, and quoted throughout."""
    code, said = judge_shell(ROOT / script)

    assert code == 0, said


@pytest.mark.parametrize(
    ("judge", "name", "text"),
    [
        (judge_compose, "compose.yml", "services: {gateway: {imagine: smm-gateway}}\n"),
        (judge_dockerfile, "Dockerfile", "FROM python\nRUN cd /tmp && pip install x\n"),
        (judge_shell, "script", "#!/bin/sh\nif [[ $1 == a ]]; then rm -rf $2; fi\n"),
    ],
)
def test_a_judge_judges(
    judge: Callable[[Path], tuple[int, str]], name: str, text: str, tmp_path: Path
) -> None:
    """A planted mistake is found, so that silence means something."""
    file = tmp_path / name
    file.write_text(text)

    code, _ = judge(file)

    assert code != 0


def compose() -> dict[str, Any]:
    """Return the compose file."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def containers() -> dict[str, dict[str, Any]]:
    """Return the services of the compose file."""
    services: dict[str, dict[str, Any]] = compose()["services"]
    return services


def instructions() -> list[list[str]]:
    """Return the Dockerfile's instructions, word by word."""
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def practice() -> dict[str, str]:
    """Return what the practice settings give."""
    lines = (ROOT / "deploy/sandbox.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_everything_is_there() -> None:
    """What serves apart from what works in the background, the databases, and panels on demand."""
    found = containers()

    assert {"gateway", "background", "postgres", "redis", "sandbox"} == set(found)
    assert ["serve", "--no-background"] == found["gateway"]["command"]
    assert ["background"] == found["background"]["command"]
    assert ["sandbox"] == [name for name, one in found.items() if one.get("profiles")]


@pytest.mark.parametrize("name", containers())
def test_a_container_can_do_little_harm(name: str) -> None:
    """A read-only root, no capabilities, nothing to be gained; watched, and started again."""
    container = containers()[name]
    account, group = container["user"].split(":")

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["healthcheck"]["test"][0] == "CMD"
    assert container["restart"] == "unless-stopped"
    assert int(account) > 0
    assert int(group) > 0
    assert {"privileged", "cap_add", "pid", "network_mode", "devices"}.isdisjoint(container)


@pytest.mark.parametrize("name", containers())
def test_a_container_writes_only_to_named_volumes(name: str) -> None:
    """What is taken from the owner's disk is read only."""
    for volume in containers()[name].get("volumes", []):
        source, mode = volume.split(":")[0], volume.split(":")[-1]

        assert source in compose()["volumes"] or mode == "ro", volume


@pytest.mark.parametrize("name", containers())
def test_an_image_is_of_a_known_version(name: str) -> None:
    """Built here, or of a named version on a named Debian."""
    container = containers()[name]

    assert "build" in container or re.fullmatch(r"\w+:\d+[\d.]*-[a-z]+", container["image"])


def test_the_image_does_not_run_as_root() -> None:
    """And says so by number, which an orchestrator can check; no syntax is fetched to build it."""
    (account,) = [words[1] for words in instructions() if words[0] == "USER"]

    assert account == containers()["gateway"]["user"]
    assert int(account.partition(":")[0]) > 0
    assert "# syntax=" not in (ROOT / "deploy/Dockerfile").read_text()


def test_the_image_is_built_in_two_stages_of_a_known_version() -> None:
    """What installs packages stays behind."""
    found = instructions()
    bases = [at for at, words in enumerate(found) if words[0] == "FROM"]
    last = found[bases[-1] :]

    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim-[a-z]+", found[at][1]) for at in bases)
    assert not any("pip" in word for words in last for word in words)


def test_the_image_holds_what_is_locked_and_nothing_else() -> None:
    """Each package is of one version, with its hashes, and pip insists on them."""
    (install,) = [words for words in instructions() if "install" in words]
    lock = (ROOT / "deploy/requirements.lock").read_text().replace("\\\n", " ")
    packages = [line for line in lock.splitlines() if line and not line.startswith("#")]

    assert {"--require-hashes", "--no-deps", "requirements.lock"} <= set(install)
    assert "asyncpg" in {package.partition("==")[0] for package in packages}
    assert all(re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", one) for one in packages)


def test_the_books_outlive_their_container() -> None:
    """They are on PostgreSQL, whose files lie on a named volume."""
    found = containers()

    assert ["postgres:/var/lib/postgresql/data"] == found["postgres"]["volumes"]
    for name in ("gateway", "background"):
        url = found[name]["environment"]["GATEWAY_DATABASE_URL"]

        assert url == "postgresql://gateway@postgres/gateway"


@pytest.mark.parametrize("name", ["gateway", "background"])
def test_who_works_waits_for_the_database(name: str) -> None:
    """Until it is healthy, at the first start."""
    condition = containers()[name]["depends_on"]["postgres"]["condition"]

    assert condition == "service_healthy"


@pytest.mark.parametrize("name", ["gateway", "background"])
def test_orders_under_way_get_their_answer(name: str) -> None:
    """Nobody is killed sooner than he may need to stop in order."""
    assert int(containers()[name]["stop_grace_period"].removesuffix("s")) > STOPPED


def test_only_the_gateway_is_reached_and_only_from_this_machine() -> None:
    """The databases are in a network that leads nowhere."""
    found = containers()
    published = {name: one["ports"] for name, one in found.items() if "ports" in one}
    outside = {name for name, one in found.items() if one["networks"] != ["inside"]}

    assert {"gateway": ["127.0.0.1:${PORT:-8000}:8000"]} == published
    assert outside == {"gateway", "background"}
    assert compose()["networks"]["inside"] == {"internal": True}


async def test_the_background_is_healthy_while_somebody_does_the_work(postgres_url: str) -> None:
    """Its check asks the database, and believes nobody who has been silent for long."""
    program, *arguments = containers()["background"]["healthcheck"]["test"][1:]
    assert program == "python"

    async def check() -> bool:
        code, _ = await asyncio.to_thread(say, sys.executable, *arguments, GATEWAY_DATABASE_URL=url)
        return code == 0

    async with database(postgres_url) as url:
        store = await PostgresStore.open(url)
        nobody = await check()
        now = int(time.time() * 1000)
        await store.lease([f"{PRESENT}one"], "one", now, now + 60_000)
        somebody = await check()
        await store.release("one")
        gone = await check()
        await store.close()

    assert (nobody, somebody, gone) == (False, True, False)


def test_the_practice_settings_are_right() -> None:
    """The gateway itself says so of the file that they name, with the keys that they give."""
    settings = practice()
    command = (sys.executable, "-m", "gateway", "check", settings["PROVIDERS"])
    code, said = say(*command, **settings)

    assert code == 0, said


def test_practice_has_books_of_its_own() -> None:
    """Containers and volumes of another name, beside the real ones; and it lacks nothing."""
    needed = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    settings = practice()

    assert settings["COMPOSE_PROJECT_NAME"] != ROOT.name
    assert settings["PORT"] != "8000"
    assert needed <= set(settings)


def test_no_secret_stands_in_the_compose_file() -> None:
    """They come from the environment, and without the database's password nothing starts."""
    text = (ROOT / "docker-compose.yml").read_text()
    secret = re.compile(r"PASSWORD|KEY|TOKEN|SECRET")
    given = {
        value
        for container in containers().values()
        for name, value in container.get("environment", {}).items()
        if secret.search(name)
    }

    assert {"${POSTGRES_PASSWORD:?write POSTGRES_PASSWORD=... into .env}"} == given
    assert not re.search(r"://[^/\s]*:[^/\s]*@", text)
    assert ".env" in (ROOT / ".gitignore").read_text().split()
    assert (ROOT / ".dockerignore").read_text().split("\n")[1] == "*"
