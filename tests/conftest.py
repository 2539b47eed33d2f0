"""What tests of several modules share: real servers, started once a run and only when asked for."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest

from pgtmp import postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Return the URL of a real PostgreSQL, there for this run alone."""
    with postgres() as url:
        yield url


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests of a module on each of its ``LOOPS``, by default on asyncio's own."""
    module = item.getparent(pytest.Module)
    loops: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = getattr(
        module and module.obj, "LOOPS", {"asyncio": asyncio.new_event_loop}
    )
    return loops
