"""A panel that is faster than the sandbox's: it answers at once, or after a given time.

It speaks the common dialect to any key, and answers a chat completion as an upstream of other
gateways. ``GET /`` tells what it was asked so far, and
``GET /set?…`` changes what it does: ``delay`` milliseconds before an answer, and ``news``, a
number that is in its rates and start counts, so that another one makes everything new.
"""

import asyncio
import socket
import sys
from typing import cast
from urllib.parse import parse_qs

import httptools
import msgspec
import uvloop

FIRST = 1_000_000_000
"""The first order's number; what is made in bulk has smaller ones."""
CHARGE = "0.09"
"""What each order costs, in USD: 100 of a service at 0.90 per 1000."""

_encode = msgspec.json.encode
CHAT = _encode(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Forty-two."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }
)


class Panel:
    """What is asked, and what is answered."""

    def __init__(self, services: int) -> None:
        self.delay = 0.0
        self.news = 0
        self.orders = 0
        self.calls: dict[str, int] = {}
        self.ids = 0
        self._services = services
        self._listed: tuple[int, bytes] = (-1, b"")

    def answer(self, body: bytes) -> bytes:
        """Answer a call of API v2."""
        form = dict(part.split(b"=", 1) for part in body.split(b"&") if b"=" in part)
        action = form.get(b"action", b"").decode()
        self.calls[action] = self.calls.get(action, 0) + 1
        if action == "add":
            self.orders += 1
            return b'{"order":%d}' % (FIRST + self.orders)
        if action == "status":
            return self._status(form)
        if action == "services":
            return self.listed()
        if action == "balance":
            return b'{"balance":"1000000000.00","currency":"USD"}'
        return b'{"error":"Incorrect request"}'

    def chat(self) -> bytes:
        """Answer a chat completion."""
        self.calls["chat"] = self.calls.get("chat", 0) + 1
        return CHAT

    def _status(self, form: dict[bytes, bytes]) -> bytes:
        row = (
            b'{"charge":"%s","start_count":"%d","status":"In progress","remains":"100",'
            b'"currency":"USD"}' % (CHARGE.encode(), 10 + self.news)
        )
        many = form.get(b"orders")
        if many is None:
            self.ids += 1
            return row
        ids = many.replace(b"%2C", b",").split(b",")
        self.ids += len(ids)
        return b"{%s}" % b",".join(b'"%s":%s' % (one, row) for one in ids)

    def listed(self) -> bytes:
        """Return the service list."""
        if self._listed[0] != self.news:
            rows = [self._service(number) for number in range(1, self._services + 1)]
            self._listed = self.news, _encode(rows)
        return self._listed[1]

    def _service(self, number: int) -> dict[str, object]:
        # The first is what is ordered, and keeps its rate.
        rate = f"{number % 900 / 100 + 0.9 + self.news / 1000:.3f}" if number > 1 else "0.90"
        return {
            "service": number,
            "name": f"Instagram Followers [Real] [Refill: 30 days] [Speed: 5K a day] {number}",
            "type": "Default",
            "category": f"Instagram | Followers {number % 200}",
            "rate": rate,
            "min": "50",
            "max": "10000",
            "refill": True,
            "cancel": True,
            "dripfeed": False,
            "desc": "",
        }

    def behind(self, url: str) -> bytes:
        """Answer what is asked behind the counter."""
        for name, (value, *_) in parse_qs(url.partition("?")[2]).items():
            setattr(self, name, float(value) / 1000 if name == "delay" else int(value))
        return _encode({"orders": self.orders, "calls": self.calls, "ids": self.ids})


class Connection(asyncio.Protocol):
    """One client's connection; it may ask the next thing when it was answered."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take up a connection."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Begin with a request."""
        self._url, self._body = url, b""

    def on_body(self, part: bytes) -> None:
        """Take in a part of the form."""
        self._body += part

    def on_message_complete(self) -> None:
        """Answer, when it is time."""
        if self._parser.get_method() == b"GET":
            self._write(self._panel.behind(self._url.decode()))
            return
        chat = self._url.endswith(b"/chat/completions")
        answer = self._panel.chat() if chat else self._panel.answer(self._body)
        if self._panel.delay:
            asyncio.get_running_loop().call_later(self._panel.delay, self._write, answer)
        else:
            self._write(answer)

    def _write(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


async def serve(port: int, services: int) -> None:
    """Serve until the process is told to stop."""
    panel = Panel(services)
    listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(panel), sock=listening
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
