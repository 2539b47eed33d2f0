"""``gateway serve`` and ``gateway background``; and ``gateway check``."""

import asyncio
import ctypes
import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import structlog
import typer
import uvicorn
from uvicorn.supervisors import Multiprocess

from gateway import logs
from gateway.app import DRAIN, Application, at_work, find_config, open_store, read_config
from gateway.commands.start import Json, command, fail, load_settings, show_json
from gateway.errors import ConfigError, StoreUnavailable
from gateway.front import Connection
from gateway.message import Message, Receive, Scope, Send
from gateway.settings import Settings

log = structlog.get_logger()

ANSWERED = 30
"""Seconds that customers' requests get to be answered when a server stops."""
STOPPED = ANSWERED + DRAIN + 30.0
"""Seconds after which a process has ended that was told to stop, whatever hangs in it."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""What glibc's ``malloc.h`` calls them."""
_LARGE = 128 * 1024
"""Bytes from which a piece of memory stands apart, and goes when it is done with."""


class Served(Application):
    """The application as a server runs it: what keeps it from starting is said in a sentence."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or live for as long as the server does."""
        if scope["type"] == "lifespan":
            stop_in_time()  # here, for by now the server has put its own handlers in
            await super().__call__(scope, receive, partial(_say, send))
        else:
            await super().__call__(scope, receive, send)


async def _say(send: Send, message: Message) -> None:
    """Say how it begins or ends; the message of a failure would be its traceback."""
    if message["type"] == "lifespan.startup.complete":
        settle_memory()
    error = sys.exc_info()[1]
    if isinstance(error, ConfigError | StoreUnavailable):
        message = {**message, "message": str(error)}
    await send(message)


class Worker:
    """Makes the application inside a process that serves; it travels there, so it holds no more."""

    def __init__(self, found: Settings, *, background: bool) -> None:
        self._settings = found
        self._background = background

    def __call__(self) -> Application:
        """Read the owner's file, and put everything together."""
        keep_little()
        logs.configure(self._settings.log_format, self._settings.log_level)
        application = Served(self._settings, background=self._background)
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        return application


def _end_with(parent: int) -> None:
    """Stop this process in order when the one that started it is gone without having said so."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def stop_in_time(seconds: float = STOPPED) -> None:
    """Have whatever stops this process end it for certain, so many seconds later.

    Tasks end within bounds, but a thread cannot be told to end, and the interpreter waits for all
    of them: one may wait for a disk or a server that does not answer any more. So what is still
    there then is shown on stderr, names and no value, and the process is gone with status 1. It
    gives up what a power failure would: nothing that anybody was promised, for that is durable.
    An order whose answer is not written down is found as left over by whoever is there next.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(_insist, signal.getsignal(number), seconds))


def _insist(stop: Any, seconds: float, number: int, frame: FrameType | None) -> None:  # noqa: ANN401
    signal.signal(number, stop)  # asking again gives it no more time
    faulthandler.dump_traceback_later(seconds, exit=True)
    stop(number, frame)


def keep_little() -> None:
    """Have glibc give back what it is done with; before anything large is read.

    By itself it keeps more the larger the pieces that it was once asked for, and a catalog is a
    large one; and it has a heap for each thread, though the interpreter lets one run at a time.
    """
    with suppress(AttributeError, OSError):  # another C library has no such word
        choose = ctypes.CDLL(None).mallopt
        choose(_M_ARENA_MAX, 1)
        choose(_M_MMAP_THRESHOLD, _LARGE)
        choose(_M_TRIM_THRESHOLD, _LARGE)


def settle_memory() -> None:
    """Spare the collector what is there when all has started: it lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def serve(
    config: Annotated[Path | None, typer.Option(help="The owner's file.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that serve.")] = 1,
    no_background: Annotated[  # noqa: FBT002
        bool, typer.Option("--no-background", help="Only answer requests.")
    ] = False,
) -> None:
    """Serve customers, and keep catalogs and statuses fresh in the background."""
    keep_little()
    try:
        found = load_settings(config=config, host=host, port=port)
        warnings = asyncio.run(_prepared(found))
        family = socket.AF_INET6 if ":" in found.host else socket.AF_INET
        listening = socket.create_server((found.host, found.port), family=family, backlog=2048)
    except (ConfigError, StoreUnavailable) as error:
        fail(str(error), 1)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        fail(f"{found.host}:{found.port}: {reason}; choose another with --port", 1)
    for warning in warnings:
        log.warning(warning)
    address = f"http://{found.host}:{listening.getsockname()[1]}/api/v2"
    log.info("serving", address=address, workers=workers)
    background = not no_background
    several = workers > 1
    options = uvicorn.Config(
        Worker(found, background=background) if several else Served(found, background=background),
        factory=several,
        workers=workers,
        loop="uvloop",
        http=Connection,
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=ANSWERED,
    )
    if several:
        # It starts a worker anew that has died or does not answer, and ends them in order.
        Multiprocess(options, sockets=[listening]).run()
        return
    server = uvicorn.Server(options)
    # The server raises the signal that stopped it once more, when everything is closed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        server.run(sockets=[listening])
    except SystemExit as end:
        if not end.code:
            raise
    if not server.started:
        fail("the gateway did not start; the log says why", 1)


@command
async def background(
    config: Annotated[Path | None, typer.Option(help="The owner's file.")] = None,
) -> None:
    """Do the background work alone; any number of these share it among them."""
    keep_little()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):  # not the loop's, which nobody can call
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    stop_in_time()
    async with at_work(load_settings(config=config)):
        log.info("working")
        await stop.wait()


async def _prepared(found: Settings) -> list[str]:
    """Open the database and read the file once, so that what is wrong is said in a sentence.

    Returns the file's warnings, and no more of it: it would be kept for as long as we serve.
    """
    store = await open_store(found.database_url)
    try:
        config, _ = await find_config(found, store)
    finally:
        await store.close()
    return list(config.warnings)


def check(
    file: Annotated[Path | None, typer.Argument(help="The file; else the one in force.")] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Say whether the owner's file is right, and every mistake in it."""
    mistakes: tuple[str, ...] = ()
    warnings: list[str] = []
    try:
        found = load_settings(config=file)
        config = read_config(found)
    except ConfigError as error:
        mistakes = error.mistakes
    else:
        warnings = list(config.warnings)
    if json:
        show_json({"ok": not mistakes, "mistakes": list(mistakes), "warnings": warnings})
    else:
        for line in (*mistakes, *warnings):
            typer.echo(line, err=True)
        if not mistakes:
            counted = {
                "provider": len(config.providers),
                "service": len(config.services),
                "import": len(config.imports),
            }
            said = (f"{many} {one}{'s' * (many != 1)}" for one, many in counted.items())
            typer.echo(f"{found.config}: right; {', '.join(said)}")
    if mistakes:
        raise typer.Exit(1)
