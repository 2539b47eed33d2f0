"""What is deployed is well-formed: checked without a container engine, so everywhere."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

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


def containers() -> dict[str, dict[str, object]]:
    """Return the services of the compose file."""
    found: dict[str, dict[str, object]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
        "services"
    ]
    return found


@pytest.mark.parametrize("name", containers())
def test_a_container_can_do_little_harm(name: str) -> None:
    """A read-only root, no capabilities, nothing to be gained; and somebody watches it."""
    container = containers()[name]

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["healthcheck"]


def test_the_image_does_not_run_as_root() -> None:
    """And says so by number, which an orchestrator can check; no syntax is fetched to build it."""
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    (account,) = [line.split()[1] for line in lines if line.startswith("USER ")]

    assert int(account) > 0
    assert not any(line.startswith("# syntax=") for line in lines)


def test_the_books_outlive_their_container() -> None:
    """The database that the gateway is told of lies on a named volume."""
    gateway = containers()["gateway"]
    environment, volumes = gateway["environment"], gateway["volumes"]
    assert isinstance(environment, dict)
    assert isinstance(volumes, list)

    assert environment["GATEWAY_DATABASE_URL"].startswith("sqlite:////var/lib/gateway/")
    assert "gateway:/var/lib/gateway" in volumes


def test_the_practice_settings_are_right() -> None:
    """The gateway itself says so of the file that they name, with the keys that they give."""
    settings = dict(
        line.split("=", 1)
        for line in (ROOT / "deploy/sandbox.env").read_text().splitlines()
        if not line.startswith("#")
    )
    command = (sys.executable, "-m", "gateway", "check", settings["PROVIDERS"])
    code, said = say(*command, **settings)

    assert code == 0, said


def test_no_secret_stands_in_the_compose_file() -> None:
    """They come from the environment, by a file that is not in the repository."""
    text = (ROOT / "docker-compose.yml").read_text()

    assert "KEY:" not in text
    assert ".env" in (ROOT / ".gitignore").read_text().split()
