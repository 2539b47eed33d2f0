"""The command line: a file a noun. Exit 0: done; 1: something is wrong; 2: called wrongly."""

from gateway.commands.main import main

__all__ = ["main"]
