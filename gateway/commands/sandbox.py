"""``gateway sandbox``: the five practice panels alone."""

import os
import socket
from typing import Annotated

import typer

from gateway import sandbox
from gateway.commands.start import Json, fail, show_json
from gateway.commands.terminal import out


def serve_sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any.")] = 8100,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    speed: Annotated[float, typer.Option(min=0.01, help="At 1 an order takes ten minutes.")] = 60,
    seed: Annotated[int, typer.Option(help="Of what the panels leave to chance.")] = 0,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Serve five practice panels at /<provider>/api/v2, with the keys sandbox-<provider>."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # whoever reads the addresses may come at once
    except OSError as error:
        fail(f"{host}:{port}: {os.strerror(error.errno or 0)}; choose another with --port", 1)
    address = f"http://{host}:{listening.getsockname()[1]}"
    panels = {
        name: {"url": f"{address}/{name}/api/v2", "key": sandbox.key(name)}
        for name in sandbox.PANELS
    }
    if json:
        show_json(panels)
    else:
        for panel in panels.values():
            out.print(f"{panel['url']}  key {panel['key']}", soft_wrap=True)
    sandbox.serve(listening, speed=speed, seed=seed)
