"""``gateway serve``: the endpoint and the background work; and ``gateway check``."""

import asyncio
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvicorn

from gateway.app import Application, open_store
from gateway.commands.terminal import (
    Json,
    err,
    fail,
    load_config,
    load_settings,
    out,
    show_json,
)
from gateway.errors import ConfigError, StoreUnavailable

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
        asyncio.run(_prepared(found.database_url))
        family = socket.AF_INET6 if ":" in found.host else socket.AF_INET
        listening = socket.create_server((found.host, found.port), family=family, backlog=2048)
    except (ConfigError, StoreUnavailable) as error:
        fail(str(error), 1)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        fail(f"{found.host}:{found.port}: {reason}; choose another with --port", 1)
    for warning in owner.warnings:
        log.warning(warning)
    log.info("serving", address=f"http://{found.host}:{listening.getsockname()[1]}/api/v2")
    server = uvicorn.Server(
        uvicorn.Config(
            Application(owner, found, background=not no_background),
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
    )
    # What start-up leaves behind lives as long as the process; the collector need not look at it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    # The server raises the signal that stopped it once more, when everything is closed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    server.run(sockets=[listening])
    if not server.started:
        fail("the gateway did not start; the log says why", 1)


async def _prepared(database_url: str) -> None:
    """Open the database once, so that what is wrong with it is said in a sentence."""
    await (await open_store(database_url)).close()


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
