"""Every command, in one table; the file of one is read when it is wanted.

So a command starts without all the others, and a process that serves does not carry them about.
"""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway.commands.start import FLAGS

TABLE = {
    "demo": "demo:demo",
    "serve": "serve:serve",
    "sandbox": "sandbox:serve_sandbox",
    "simulate": "simulate:simulate",
    "background": "serve:background",
    "check": "serve:check",
    "plan": "plan:plan",
    "sync": "provider:sync",
    "audit": "books:audit",
    "customer": "customer:app",
    "order": "order:app",
    "provider": "provider:app",
    "store": "store:app",
    "catalog": "catalog:app",
}
"""Each command or group of them, with the file it is in and what it is called there."""


class Table(TyperGroup):
    """The commands of the table, in its order."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  # typer's
        attributes["commands"] = dict.fromkeys(TABLE)  # their names, for whoever mistypes one
        super().__init__(**attributes)

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002  # typer's
        """Return the names."""
        return list(TABLE)

    def get_command(self, ctx: object, cmd_name: str) -> Any:  # noqa: ANN401, ARG002  # typer's
        """Return a command; ``None`` when there is none of this name."""
        if cmd_name not in TABLE:
            return None
        file, _, name = TABLE[cmd_name].partition(":")
        found = getattr(import_module(f"gateway.commands.{file}"), name)
        alone = typer.Typer()
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=cmd_name)
        else:
            alone.command(cmd_name)(found)
        return typer.main.get_group(alone).commands[cmd_name]


app = typer.Typer(
    cls=Table,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An API v2 gateway for resellers: many providers, one endpoint, books that add up.",
)


@app.callback()
def flags(
    database_url: Annotated[
        str | None, typer.Option(help="Overrides GATEWAY_DATABASE_URL.")
    ] = None,
    redis_url: Annotated[str | None, typer.Option(help="Overrides GATEWAY_REDIS_URL.")] = None,
    config: Annotated[str | None, typer.Option(help="Overrides GATEWAY_CONFIG.")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
) -> None:
    """Take the flags that all commands share."""
    FLAGS.update(
        database_url=database_url,
        redis_url=redis_url,
        config=config,
        log_format=log_format,
        log_level=log_level,
    )


def main() -> None:
    """Run the command line."""
    app()
