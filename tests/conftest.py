"""What tests of several modules share: real servers, started once a run and only when asked for."""

from collections.abc import Iterator

import pytest

from pgtmp import postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Return the URL of a real PostgreSQL, there for this run alone."""
    with postgres() as url:
        yield url
