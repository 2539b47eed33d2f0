"""The reference of the front: Starlette routes with a constant answer, on the gateway's server."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = (
    b'{"charge":"0.1125","start_count":"10","status":"Completed","remains":"0","currency":"USD"}'
)


async def answer(_: Request) -> Response:
    """Answer what an order's status looks like."""
    return Response(ANSWER, media_type="application/json")


app = Starlette(routes=[Route("/api/v2", answer, methods=["GET", "POST"])])


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
        backlog=2048,
    )
