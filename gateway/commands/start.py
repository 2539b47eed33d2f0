"""How every command starts and ends: its flags and settings, its exit code, and its JSON.

What a server needs of the command line is all here; what people look at is in ``terminal``, whose
library no server has to carry about.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Annotated, Any, NoReturn, ParamSpec

import typer

from gateway import logs, settings
from gateway.errors import ConfigError, GatewayError
from gateway.settings import Settings

P = ParamSpec("P")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
FLAGS: dict[str, Any] = {}
"""Flags that stand before the command; they override the environment."""


def fail(text: str, code: int = 2) -> NoReturn:
    """End the command with a reason; 2: it was called wrongly, 1: something is wrong."""
    typer.secho(text, fg="red", err=True)
    raise typer.Exit(code)


def command(work: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Make a command of a coroutine; what goes wrong becomes a sentence and an exit code."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            asyncio.run(_awaited(work(*args, **kwargs)))
        except (ConfigError, GatewayError) as error:
            fail(str(error), 1)

    return run


async def _awaited(work: Awaitable[None]) -> None:
    await work


def load_settings(**flags: Any) -> Settings:  # noqa: ANN401  # whatever the flags hold
    """Return the settings: flags before the environment before ``.env``."""
    given = {name: value for name, value in {**FLAGS, **flags}.items() if value is not None}
    found = settings.load(**given)
    logs.configure(found.log_format, found.log_level)
    return found


def show_json(value: object) -> None:
    """Print a result for programs, at once: a command that goes on serving keeps a pipe full."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
    sys.stdout.flush()
