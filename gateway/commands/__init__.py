"""The command line: a file a noun. Exit 0: done; 1: something is wrong; 2: called wrongly."""

import gateway.commands.lean  # noqa: F401  # before whatever looks for what it hides
from gateway.commands.main import main

__all__ = ["main"]
