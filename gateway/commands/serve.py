"""``gateway serve``: the endpoint and the background work; and ``gateway check``."""

import gc
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvicorn

from gateway.app import Application
from gateway.commands.terminal import (
    Json,
    err,
    fail,
    load_config,
    load_settings,
    out,
    show_json,
)
from gateway.errors import ConfigError

log = structlog.get_logger()


def serve(
    config: Annotated[Path | None, typer.Option(help="The owner's file.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port.")] = None,
    no_background: Annotated[  # noqa: FBT002
        bool, typer.Option("--no-background", help="Only answer requests.")
    ] = False,
) -> None:
    """Serve customers, and keep catalogs and statuses fresh in the background."""
    try:
        found = load_settings(config=config, host=host, port=port)
        owner = load_config(found)
    except ConfigError as error:
        fail(str(error), 1)
    for warning in owner.warnings:
        log.warning(warning)
    app = Application(owner, found, background=not no_background)
    # What start-up leaves behind lives as long as the process; the collector need not look at it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    uvicorn.run(
        app,
        host=found.host,
        port=found.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=30,
    )


def check(
    file: Annotated[Path | None, typer.Argument(help="The file; else the one in force.")] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Say whether the owner's file is right, and every mistake in it."""
    mistakes: tuple[str, ...] = ()
    warnings: list[str] = []
    try:
        found = load_settings(config=file)
        config = load_config(found)
    except ConfigError as error:
        mistakes = error.mistakes
    else:
        warnings = list(config.warnings)
    if json:
        show_json({"ok": not mistakes, "mistakes": list(mistakes), "warnings": warnings})
    else:
        for line in (*mistakes, *warnings):
            err.print(line, markup=False, soft_wrap=True)
        if not mistakes:
            out.print(
                f"{found.config}: right; {len(config.providers)} providers, "
                f"{len(config.services)} services",
                markup=False,
            )
    if mistakes:
        raise typer.Exit(1)
