"""The house's own law: what ruff, the type checkers and the import contracts do not know of.

A law looks at one module of ``gateway`` and says what is against it and what to do instead.
Every law is tried on a planted breach, so that none of them is silent by mistake.
"""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gateway.adapters import ADAPTERS

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "gateway"
COMMON = "api_v2"
Law = Callable[[str, str], Iterator[str]]
"""From a module's path inside ``gateway/`` and its source to what is wrong with it."""

# --- what the laws know -----------------------------------------------------------------------

DOORS = {
    "aiohappyeyeballs": ("dial.py",),
    "httpx": ("upstream.py", "simulation/panels.py"),  # the wire, and what stands in for it
    "redis": ("cache_redis.py",),
    "apsw": ("store/",),
    "sqlite3": (),  # the system's has a bug that loses data; apsw brings its own
    "asyncpg": ("store/postgres.py",),
}
EXACT = ("money.py", "pricing.py", "firewall.py", "ledger.py", "adapters/")
PURE = ("money.py", "pricing.py", "firewall.py", "model.py", "errors.py", "adapters/")
PURE_IMPORTS = {
    *("abc", "bisect", "collections", "decimal", "enum", "fractions", "functools", "html"),
    *("itertools", "json", "operator", "re", "string", "types", "typing", "unicodedata"),
    *("gateway", "msgspec"),
}
SPEAKS = ("commands/", "demo.py", "demo/", "sandbox/")
NAMES_PROVIDERS = ("adapters/__init__.py", "demo.py", "demo/", "sandbox/")
WORDS = {
    "vendor": "provider",
    "connector": "adapter",
    "user": "customer",
    "mapping": "what it maps, like `renames`",
    "payload": "fields, body or answer",
    "manager": "what it does",
    "helper": "what it does",
    "util": "what it does",
}
LONG_MODULE = 450
LONG_FUNCTION = 70
LONG = {
    "store/__init__.py": "one protocol, whose operations are to be seen together",
    "upstream.py": "the transport, its pool and its clock know each other's states",
}


@cache
def _tree(source: str) -> ast.Module:
    return ast.parse(source)


def _imports(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


def _at(path: str, line: int, words: str) -> str:
    return f"gateway/{path}:{line}: {words}"


# --- the laws ---------------------------------------------------------------------------------


def one_door(path: str, source: str) -> Iterator[str]:
    """Each wire and each database has one module that speaks to it."""
    for line, name in _imports(source):
        doors = DOORS.get(name.partition(".")[0])
        if doors is not None and not path.startswith(doors or "\0"):
            where = " or ".join(f"gateway/{door}" for door in doors) or "nowhere"
            yield _at(
                path, line, f"{name} is imported in {where}; ask that module for what you need"
            )


def exact(path: str, source: str) -> Iterator[str]:
    """Money is whole millionths or an exact Decimal."""
    if not path.startswith(EXACT):
        return
    for node in ast.walk(_tree(source)):
        if (isinstance(node, ast.Name) and node.id == "float") or (
            isinstance(node, ast.Constant) and isinstance(node.value, float)
        ):
            yield _at(
                path,
                node.lineno,
                "a float cannot hold 0.1, and a thousand orders would show it; "
                "write an int of millionths or a Decimal from text",
            )


def pure(path: str, source: str) -> Iterator[str]:
    """What decides has no wire, clock, disk or framework, so it can be tested by values alone."""
    if not path.startswith(PURE):
        return
    for line, name in _imports(source):
        if name.partition(".")[0] not in PURE_IMPORTS:
            yield _at(
                path,
                line,
                f"{name} is not known to be pure; pass in what it would fetch, or, if it touches "
                "no wire, clock or disk, add it to PURE_IMPORTS",
            )
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.AsyncFunctionDef):
            yield _at(path, node.lineno, f"{node.name} waits for something; that is the router's")
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"open", "input"}:
            yield _at(path, node.lineno, "it reads from outside; pass in what it would read")


def no_provider_by_name(path: str, source: str) -> Iterator[str]:
    """What knows a provider by name is changed whenever a provider is added."""
    if path.startswith(NAMES_PROVIDERS):
        return
    for name in sorted(ADAPTERS.keys() - {COMMON}):
        if path == f"adapters/{name}.py":
            continue
        spelled = re.compile(name.replace("_", "[-_. ]?"), re.IGNORECASE)
        for line, text in enumerate(source.splitlines(), 1):
            if spelled.search(text):
                yield _at(path, line, f"{name} is named; declare the difference in its adapter")


def only_readers(path: str, source: str) -> Iterator[str]:
    """A dialect is declarations, and readers where answers differ; one deep from the common one."""
    if path.removeprefix("adapters/").removesuffix(".py") not in ADAPTERS.keys() - {COMMON}:
        return
    for node in _tree(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        bases = [ast.unparse(base) for base in node.bases]
        if bases != ["ApiV2"]:
            yield _at(path, node.lineno, f"{node.name} is one deep: its only base is ApiV2")
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("read_"):
                yield _at(
                    path,
                    part.lineno,
                    f"{part.name}: only read_* is overridden; what we send is declared, and if "
                    "it cannot be, the common dialect lacks a declaration",
                )


def room_to_read(path: str, source: str) -> Iterator[str]:
    """A long module or function usually wants to become two."""
    lines = len(source.splitlines())
    if lines > LONG_MODULE and path not in LONG:
        yield _at(path, 1, f"{lines} lines; make it two, or give the reason why not in LONG")
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONG_FUNCTION:
                yield _at(path, node.lineno, f"{node.name} has {length} lines; tell it in steps")


def plain_words(path: str, source: str) -> Iterator[str]:
    """One word a thing, and the field's own."""
    given = [(1, part) for part in path.removesuffix(".py").split("/")]
    for node in ast.walk(_tree(source)):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                given.append((node.lineno, name))
            case ast.AsyncFunctionDef(name=name):
                given.append((node.lineno, name))
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                given.append((node.lineno, name))
            case ast.Attribute(attr=name, ctx=ast.Store()):
                given.append((node.lineno, name))
            case _:
                pass
    for line, name in given:
        for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name):
            plain = word.casefold().removesuffix("s")
            if plain in WORDS:
                yield _at(path, line, f"{name}: say {WORDS[plain]}, not {plain}")


def results_on_stdout(path: str, source: str) -> Iterator[str]:
    """Only what a person started may write to the terminal; the rest logs."""
    if path.startswith(SPEAKS):
        return
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            yield _at(path, node.lineno, "log it with structlog, with fields")


def said_what_for(path: str, source: str) -> Iterator[str]:
    """Whoever meets a public name is told what it is."""
    tree = _tree(source)
    if ast.get_docstring(tree) is None and source.strip():
        yield _at(path, 1, "the module says nothing of itself; begin with a docstring")
    for node in tree.body:
        if (
            isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("_")
            and ast.get_docstring(node) is None
        ):
            yield _at(path, node.lineno, f"{node.name} has no docstring: shape, unit, errors")


def sandbox_alone(path: str, source: str) -> Iterator[str]:
    """The sandbox is written from the providers' documentation, to contradict what we believe."""
    if not path.startswith("sandbox/"):
        return
    for line, name in _imports(source):
        if name == "gateway" or (
            name.startswith("gateway.") and not name.startswith("gateway.sandbox")
        ):
            yield _at(path, line, f"{name}: what both sides share, they get wrong together")


LAWS: tuple[Law, ...] = (
    one_door,
    exact,
    pure,
    no_provider_by_name,
    only_readers,
    room_to_read,
    plain_words,
    results_on_stdout,
    said_what_for,
    sandbox_alone,
)


@pytest.mark.parametrize("law", LAWS)
def test_the_house_keeps_its_law(law: Law) -> None:
    """Each law, over every module."""
    broken = [
        words
        for file in sorted(HOUSE.rglob("*.py"))
        for words in law(file.relative_to(HOUSE).as_posix(), file.read_text())
    ]

    assert broken == [], "\n" + "\n".join([law.__doc__ or "", *broken])


SAID = '"""What it is."""\n'


@pytest.mark.parametrize(
    ("law", "path", "source"),
    [
        (one_door, "orders.py", "import httpx"),
        (one_door, "orders.py", "def f():\n    from redis.asyncio import Redis"),
        (one_door, "cache.py", "from redis.asyncio import Redis"),
        (one_door, "cache.py", "import apsw"),
        (one_door, "store/sqlite.py", "import sqlite3"),
        (one_door, "store/sqlite.py", "import asyncpg"),
        (exact, "money.py", "def f(x: float): ..."),
        (exact, "pricing.py", "markup = 0.25"),
        (exact, "ledger.py", "share = float(remains) / size"),
        (exact, "adapters/smmai.py", "rate = 1e3"),
        (pure, "model.py", "import time"),
        (pure, "errors.py", "from pathlib import Path"),
        (pure, "adapters/wild.py", "import structlog"),
        (pure, "adapters/smmai.py", "async def read_add(): ..."),
        (pure, "pricing.py", "rates = open('rates')"),
        (no_provider_by_name, "router.py", 'if provider == "smmai": ...'),
        (no_provider_by_name, "catalog.py", "# as smm-panel.in does it"),
        (no_provider_by_name, "adapters/api_v2.py", "class SmmPanelIn: ..."),
        (no_provider_by_name, "adapters/smmai.py", "from x import Instasmm"),
        (only_readers, "adapters/smmai.py", "class A(ApiV2):\n    def write(self): ..."),
        (only_readers, "adapters/smmai.py", "class A(Smm1st):\n    batch = {}"),
        (room_to_read, "router.py", "x = 1\n" * (LONG_MODULE + 1)),
        (room_to_read, "router.py", "def f():\n" + "    x = 1\n" * LONG_FUNCTION),
        (plain_words, "router.py", "class CallManager: ..."),
        (plain_words, "router.py", "def f(raw_payload): ..."),
        (plain_words, "router.py", "self.vendors = 1"),
        (plain_words, "utils.py", ""),
        (results_on_stdout, "router.py", "print('sent')"),
        (said_what_for, "router.py", "x = 1"),
        (said_what_for, "router.py", SAID + "def f(): ..."),
        (said_what_for, "router.py", SAID + "class F: ..."),
        (sandbox_alone, "sandbox/panel.py", "from gateway.order_types import table"),
        (sandbox_alone, "sandbox/panel.py", "from gateway import money"),
    ],
)
def test_a_law_bites(law: Law, path: str, source: str) -> None:
    """A planted breach is found, and told with its place."""
    found = list(law(path, source))

    assert found
    assert all(words.startswith(f"gateway/{path}:") for words in found)


@pytest.mark.parametrize(
    ("law", "path", "source"),
    [
        (one_door, "upstream.py", "import httpx"),
        (one_door, "cache_redis.py", "from redis.asyncio import Redis"),
        (one_door, "store/writer.py", "import apsw"),
        (exact, "upstream.py", "timeout = 0.5"),
        (pure, "upstream.py", "import time"),
        (pure, "adapters/smmai.py", "import re\nfrom gateway.model import Action"),
        (no_provider_by_name, "sandbox/panels.py", "# smmai"),
        (no_provider_by_name, "adapters/smmai.py", "# smmai"),
        (only_readers, "adapters/smmai.py", "class A(ApiV2):\n    def read_add(self): ..."),
        (only_readers, "adapters/api_v2.py", "class ApiV2:\n    def write(self): ..."),
        (room_to_read, "upstream.py", "x = 1\n" * (LONG_MODULE + 1)),
        (plain_words, "router.py", "from contextlib import asynccontextmanager"),
        (plain_words, "order_form.py", "username = 1"),
        (results_on_stdout, "commands/order.py", "print(1)"),
        (said_what_for, "router.py", SAID + "def _f(): ..."),
        (sandbox_alone, "sandbox/panel.py", "from gateway.sandbox import clock"),
    ],
)
def test_a_law_does_not_bite_the_innocent(law: Law, path: str, source: str) -> None:
    """It would be switched off soon."""
    found = list(law(path, source))

    assert found == []


# --- the rest of the checkout -----------------------------------------------------------------

_PATH = re.compile(r"`([\w./-]+(?:\.(?:py|md|yaml|yml|toml|lock)|/))`")


def missing_paths(document: Path, root: Path) -> list[str]:
    """Return the files and folders that a document names and nobody finds.

    A path begins at the root or beside the document; a bare name may be anywhere in
    ``gateway/``, since a table names a folder only once.
    """
    return [
        path
        for path in _PATH.findall(document.read_text())
        if not (root / path).exists()
        and not (document.parent / path).exists()
        and not any((root / "gateway").rglob(path.rstrip("/").rpartition("/")[2]))
    ]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "deploy/README.md"])
def test_what_the_documents_name_is_there(name: str) -> None:
    """A map with houses that were torn down leads astray."""
    missing = missing_paths(ROOT / name, ROOT)

    assert missing == []


def test_a_path_that_is_not_there_is_found(tmp_path: Path) -> None:
    """In each way that a document writes one."""
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "there.py").touch()
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "beside.lock").touch()
    document = tmp_path / "deploy" / "README.md"
    document.write_text(
        "`there.py` `gateway/there.py` `beside.lock` `deploy/` `a word` "
        "`gone.py` `gateway/gone/` `gone_too.yaml`"
    )

    missing = missing_paths(document, tmp_path)

    assert ["gone.py", "gateway/gone/", "gone_too.yaml"] == missing


def faults_of_lock(lock: str, wanted: list[str]) -> list[str]:
    """Return what is wrong with a lock: addresses, pins without hashes, requirements not met."""
    faults = [f"an address: {line}" for line in lock.splitlines() if "://" in line]
    pins = {}
    for entry in re.split(r"\n(?=\S)", lock.strip()):
        name, _, rest = entry.partition("==")
        pins[canonicalize_name(name)] = rest.split()[0] if rest else ""
        if "--hash=sha256:" not in entry:
            faults.append(f"no hash: {name}")
    for line in wanted:
        requirement = Requirement(line)
        pinned = pins.get(canonicalize_name(requirement.name))
        if not pinned or not requirement.specifier.contains(pinned):
            faults.append(f"{line} is not met by {pinned}: compile the lock again")
    return faults


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_a_lock_names_no_host_and_meets_what_is_asked(name: str) -> None:
    """Locks with a registry's address fail behind a mirror; stale ones install something else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"])
    if name.endswith("-dev"):
        wanted += project["dependency-groups"]["dev"]

    faults = faults_of_lock((ROOT / "deploy" / f"{name}.lock").read_text(), wanted)

    assert faults == []


def test_both_locks_pin_the_same() -> None:
    """What is tested is what is deployed."""
    deployed, tested = (
        set(re.findall(r"(?m)^\S+==\S+", (ROOT / "deploy" / f"{name}.lock").read_text()))
        for name in ("requirements", "requirements-dev")
    )

    assert deployed - tested == set()


@pytest.mark.parametrize(
    ("lock", "fault"),
    [
        ("a==1 \\\n    --hash=sha256:0\n--index-url https://example.net\n", "an address"),
        ("a==1\n", "no hash"),
        ("b==1 \\\n    --hash=sha256:0\n", "a>=1 is not met"),
        ("a==0.9 \\\n    --hash=sha256:0\n", "a>=1 is not met"),
    ],
)
def test_a_bad_lock_is_found(lock: str, fault: str) -> None:
    """Each thing that can be wrong with one."""
    faults = faults_of_lock(lock, ["a>=1"])

    assert any(one.startswith(fault) for one in faults)


def test_the_builder_is_pinned() -> None:
    """It runs on every machine that builds, and no lock names it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert all("==" in one for one in project["build-system"]["requires"])
