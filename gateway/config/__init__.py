"""The owner's one file, ``providers.yaml``: text and environment in, a ``Config`` out.

Every mistake is found before any is told, each as ``providers.yaml:LINE:COLUMN: what is wrong and
what would be right``. A message quotes the file as it is written, never what a variable holds, and
of a key or a web address nothing at all.

``document`` reads YAML with places, ``values`` single values, ``models`` says which keys there
are, and ``rules`` what only the whole file can show.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.dataclasses import is_pydantic_dataclass

from gateway.config.document import Document, Mistake, Steps, Unreadable, Unset
from gateway.config.models import (
    Block,
    Config,
    Contents,
    Dialect,
    Every,
    Import,
    Limits,
    Orders,
    Parameters,
    Provider,
    RequestLimits,
    Route,
    Service,
    Tier,
)
from gateway.config.rules import check
from gateway.config.values import NOTHING, SAID, misfit, nearest
from gateway.errors import ConfigError

__all__ = [
    "Config",
    "Dialect",
    "Every",
    "Import",
    "Limits",
    "Orders",
    "Parameters",
    "Provider",
    "RequestLimits",
    "Route",
    "Service",
    "Tier",
    "load",
    "parse",
    "placed",
]

_BYTE_ORDER_MARK = "\ufeff"


def load(path: Path, environment: Mapping[str, str], adapters: Mapping[str, str]) -> Config:
    """Read the file at ``path``; arguments and errors are those of ``parse``."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        msg = f"{path}:1:1: there is no such file; write one, or name another as GATEWAY_CONFIG"
        raise ConfigError(msg) from None
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        msg = f"{path}:1:1: the file can't be read ({reason}); name one that can"
        raise ConfigError(msg) from None
    try:
        text = raw.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode().removeprefix(_BYTE_ORDER_MARK)
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        msg = f"{path}:{line}:{column}: this is not UTF-8; save the file in that encoding"
        raise ConfigError(msg) from None
    return parse(text, str(path), environment, adapters)


def parse(
    text: str, name: str, environment: Mapping[str, str], adapters: Mapping[str, str]
) -> Config:
    """Read the file's text.

    Args:
        text: the YAML.
        name: what messages call the file.
        environment: where ``${VAR}`` comes from.
        adapters: the adapters that exist, each with the currency that it charges in by default.

    Raises:
        ConfigError: with every mistake, in the order of the file.

    """
    try:
        document = Document.read(text, environment)
    except Unreadable as error:
        raise ConfigError(*_told(name, [error.mistake])) from None
    contents = _contents(document, adapters)
    if contents is None or document.mistakes:
        raise ConfigError(*_told(name, document.mistakes))
    return Config.model_construct(
        **dict(contents),
        text=text,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        warnings=_told(name, document.mistakes),
    )


def placed(config: Config, name: str, told: Iterable[tuple[Steps, str]]) -> list[str]:
    """Return what is to be said of parts of a file, each at its key, in the form of a mistake."""
    document = Document.read(config.text, {})
    document.mistakes.clear()  # it was read before, with its variables
    for path, text in told:
        document.blame(path, text, key=True)
    return _told(name, document.mistakes)


def _told(name: str, mistakes: list[Mistake]) -> list[str]:
    return [f"{name}:{m.spot.line}:{m.spot.column}: {m.text}" for m in sorted(set(mistakes))]


def _contents(document: Document, adapters: Mapping[str, str]) -> Contents | None:
    """Judge the document by rules and models, noting every mistake in it."""
    if document.data is None:
        document.blame((), "the file is empty; begin with the currency, such as currency: USD")
        return None
    if not isinstance(document.data, dict):
        document.blame((), "the file is no block of keys and values; begin with currency: USD")
        return None
    for path, text, key in check(document.data, adapters):
        document.blame(path, text, key=key)
    for path in _empty(document.data, ()):
        document.blame(path, NOTHING, key=True)
    try:
        contents = Contents.model_validate(document.data)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _reword(document, detail["type"], detail["loc"], detail["msg"])
        return None
    providers = {
        name: p if p.currency else p.model_copy(update={"currency": adapters.get(p.adapter, "")})
        for name, p in contents.providers.items()
    }
    return contents.model_copy(update={"providers": providers})


def _reword(document: Document, kind: str, steps: Steps, message: str) -> None:
    """Say one of pydantic's errors in our own words, at its place."""
    key = steps[-1:] == ("[key]",)
    path = steps[:-1] if key else steps
    found = _at(document.data, path)
    if isinstance(found, Unset):
        return
    if kind == SAID:
        document.blame(path, message, key=key or found is None)
    elif kind == "missing":
        name = str(path[-1])
        example = _EXAMPLES.get(name, "…")
        document.blame(path, f"`{name}` is missing; add it, such as {name}: {example}")
    elif kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        name, block = str(path[-1]), _type_at(path[:-1])
        known = _keys(block) if block is not None else ()
        document.blame(path, f"there is no key `{name}` here; {nearest(name, known)}", key=True)
    elif kind in {"model_type", "dataclass_type"}:
        wanted = "a block of keys and values"
        text = NOTHING if found is None else misfit(found, wanted).message()
        document.blame(path, text, key=found is None)
    else:
        document.blame(path, f"this does not fit here ({kind}); see the example of the file")


_EXAMPLES = {
    "currency": "USD",
    "adapter": "api_v2",
    "url": "https://panel.example/api/v2",
    "key": "${PANEL_KEY}",
    "routes": "[panel/1]",
    "provider": "panel",
    "ids_from": "10000",
    "markup": "10%",
    "required": "[link, quantity]",
    "size": "quantity",
}


def _at(data: object, path: Steps) -> object:
    for step in path:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int):
            data = data[step]
        else:
            return None
    return data


@cache
def _keys(block: Any) -> dict[str, Any]:  # noqa: ANN401 -- a model or a dataclass
    """Return the type of each key of a block, by its name in the file."""
    fields = block.__pydantic_fields__
    return {f.alias or name: f.annotation for name, f in fields.items()}


def _type_at(path: Steps) -> type | None:
    """Return the kind of block that belongs at a path of the file."""
    current: Any = Contents
    for step in path:
        if _is_block(current):
            current = _keys(current).get(str(step))
        else:  # a dict's value, or a list's item
            current = get_args(current)[-1] if get_args(current) else None
        if NoneType in get_args(current):
            current = next((a for a in get_args(current) if _is_block(a)), None)
    return current if _is_block(current) else None


def _is_block(kind: object) -> bool:
    return isinstance(kind, type) and (issubclass(kind, Block) or is_pydantic_dataclass(kind))


def _empty(data: object, path: Steps) -> Iterator[Steps]:
    """Yield the path of every key that is there without the single value it wants."""
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from _empty(item, (*path, index))
    elif isinstance(data, dict):
        block = _type_at(path)
        keys = _keys(block) if block is not None else {}
        for key, value in data.items():
            if value is None and NoneType in get_args(keys.get(key)):
                yield (*path, key)
            else:
                yield from _empty(value, (*path, key))
