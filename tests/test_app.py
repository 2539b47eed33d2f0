"""What is opened, and what is not."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, sys
from pathlib import Path
from gateway.app import open_store

async def main():
    await (await open_store(sys.argv[1])).close()

asyncio.run(main())
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_an_installation_on_sqlite_does_without_postgresqls_driver(tmp_path: Path) -> None:
    """It would take megabytes of memory in every process."""
    words = [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path}/gateway.db"]
    loaded = subprocess.run(words, capture_output=True, check=True, text=True).stdout.split()

    assert {"apsw"} == {"apsw", "asyncpg"} & set(loaded)


COMMAND = """
import sys
import typer
from gateway.commands.main import app

typer.main.get_command(app).get_command(None, "serve")
print(*(name for name in sys.modules if name.startswith("gateway.commands.")))
print(*({"rich", "pygments", "httpx"} & set(sys.modules)))
"""


def test_a_server_does_without_the_other_commands_and_what_they_print_with() -> None:
    """They would take megabytes of memory, and time at each start."""
    words = [sys.executable, "-c", COMMAND]
    loaded = subprocess.run(words, capture_output=True, check=True, text=True).stdout.split()

    ours = {f"gateway.commands.{name}" for name in ("lean", "main", "serve", "start")}
    assert ours | {"httpx"} == set(loaded)
