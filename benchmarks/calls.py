"""What a call to a panel costs, so many in flight: a program of its own.

``python -m benchmarks.calls PORT httpx|gateway IN_FLIGHT SECONDS``
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

import httpx
import msgspec
import uvloop

from benchmarks.load import Sample
from gateway.upstream import Upstream

FIELDS = {
    "action": "add",
    "service": "1",
    "link": "https://instagram.com/p/1",
    "quantity": "100",
}


def _httpx(url: str) -> Callable[[], Awaitable[object]]:
    client = httpx.AsyncClient()

    async def call() -> object:
        answer = await client.post(url, data={**FIELDS, "key": "none"})
        return answer.content

    return call


def _gateway(url: str) -> Callable[[], Awaitable[object]]:
    upstream = Upstream()
    return lambda: upstream.post(url, FIELDS, key="none", timeout=30)


async def main(port: str, how: str, in_flight: str, seconds: str) -> None:
    """Measure, and print the sample as JSON."""
    url = f"http://127.0.0.1:{port}/api/v2"
    call = {"httpx": _httpx, "gateway": _gateway}[how](url)
    took: list[float] = []
    clock = time.perf_counter

    async def ask(until: float) -> None:
        while (began := clock()) < until:
            await call()
            took.append(clock() - began)

    async def together(lasting: float) -> None:
        took.clear()
        await asyncio.gather(*(ask(clock() + lasting) for _ in range(int(in_flight))))

    await together(0.3)
    spent, began = sum(os.times()[:2]), clock()
    await together(float(seconds))
    lasted, spent = clock() - began, sum(os.times()[:2]) - spent
    took.sort()
    sample = Sample(
        requests=len(took),
        rate=len(took) / lasted,
        size=0,
        p50=took[len(took) // 2] * 1000,
        p99=took[len(took) * 99 // 100] * 1000,
        cpu=spent * 1000 / len(took),
    )
    print(msgspec.json.encode(sample).decode())


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
