"""What a store remembers of imported services: the ids and names that were given out."""

from collections.abc import Sequence
from typing import Protocol

from gateway.imports import Given, Wanted


class Imports(Protocol):
    """A part of ``Store``."""

    async def imported(self) -> Given:
        """Return every id and every name that was ever given out."""
        ...

    async def give(self, wanted: Sequence[Wanted], owners: Sequence[int]) -> Given:
        """Give ids and names, each once and for ever; return those of what was asked for.

        ``owners``: ids that the owner has given himself; they are given to nothing else. An id
        that was given before stays what it was. When several ask at the same moment, all get the
        same.
        """
        ...
