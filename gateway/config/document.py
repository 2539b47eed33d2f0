"""YAML as text with places: every key and value knows its line and column.

PyYAML's events are put together here rather than by its composer, because that one recurses as
deep as the file is nested (its C half crashes the process), lets the last of two equal keys win,
and follows aliases without end. Scalars stay text, so that 12.10 never passes through a float;
``true`` and ``false`` are read by whoever wants them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeAlias, cast

import yaml

DEEPEST = 20
"""Levels of nesting; the owner's file needs six."""
MOST_ALIASED = 100_000
"""Nodes that aliases may add to a file."""

_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)
_VARIABLE = re.compile(r"\$\{([^{}\s]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# ${VAR} is no YAML inside {…}: its braces are hidden from the parser behind two characters of
# the same width, so that columns stay what they were.
_HIDE = str.maketrans("{}", "\ue000\ue001")
_SHOW = str.maketrans("\ue000\ue001", "{}")
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "map", "seq")}
_NULLS = {"", "~", "null", "Null", "NULL"}

Steps: TypeAlias = tuple[str | int, ...]
"""The way from the file's top to a part of it: keys, and indices in lists."""


class Expanded(str):
    """A value that the environment had a part in; ``written`` is what the file says instead."""

    __slots__ = ("written",)
    written: str

    @classmethod
    def of(cls, value: str, written: str) -> Self:
        """Return ``value`` with the text that may be shown for it."""
        text = cls(value)
        text.written = written
        return text


class Unset:
    """Stands for a value whose variable is not set: already a mistake, so none is made of it."""


def written(text: str) -> str:
    """Return a value as the file has it, never what a variable holds."""
    return text.written if isinstance(text, Expanded) else str(text)


def shown(text: str) -> str:
    """Quote a value as the file has it."""
    whole = written(text)
    return repr(whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]}…")


_LONGEST = 60


class Spot(NamedTuple):
    """A place in the file; line and column count from 1."""

    line: int
    column: int


def _spot(mark: Any) -> Spot:  # noqa: ANN401 -- both parsers' marks, which share no type
    return Spot(mark.line + 1, mark.column + 1)


@dataclass(frozen=True, order=True)
class Mistake:
    """One mistake, and where it is."""

    spot: Spot
    text: str


class Unreadable(Exception):
    """The text is no YAML, or none that we take; carries the one mistake that stopped us."""

    def __init__(self, spot: Spot, text: str) -> None:
        super().__init__(text)
        self.mistake = Mistake(spot, text)


@dataclass(slots=True)
class _Node:
    spot: Spot
    text: str | None = None
    pairs: list[tuple["_Node", "_Node"]] | None = None
    items: list["_Node"] | None = None
    size: int = 1


@dataclass(slots=True)
class _Place:
    key: Spot
    value: Spot


@dataclass
class Document:
    """A file as plain data, with the places of its parts.

    Attributes:
        data: dicts with text keys, lists, texts, ``None``, and ``Unset``.
        mistakes: duplicate keys, unset variables and the like, found on the way.

    """

    environment: Mapping[str, str]
    data: object = None
    mistakes: list[Mistake] = field(default_factory=list)
    _places: dict[Steps, _Place] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str, environment: Mapping[str, str]) -> Self:
        """Read one YAML document; ``Unreadable`` when it cannot be told apart into parts."""
        root = _compose(text)
        document = cls(environment)
        if root is not None:
            document.data = document._plain(root, (), root.spot)
        return document

    def blame(self, path: Steps, text: str, *, key: bool = False) -> None:
        """Note a mistake at the value under ``path``, or at its key.

        A path that the file does not have is blamed on the nearest block around it that has.
        """
        while path and path not in self._places:
            path, key = path[:-1], True
        place = self._places.get(path)
        spot = Spot(1, 1) if place is None else place.key if key else place.value
        self.mistakes.append(Mistake(spot, text))

    def _plain(self, node: _Node, path: Steps, key: Spot) -> object:
        self._places[path] = _Place(key, node.spot)
        if node.pairs is not None:
            return self._block(node.pairs, path)
        if node.items is not None:
            return [self._plain(n, (*path, i), n.spot) for i, n in enumerate(node.items)]
        return None if node.text is None else self._expanded(node.text, path)

    def _block(self, pairs: list[tuple[_Node, _Node]], path: Steps) -> dict[str, object]:
        block: dict[str, object] = {}
        lines: dict[str, int] = {}
        for key, value in pairs:
            if key.text is None:
                self._at(key.spot, "this is no key; a key is a word or a number")
            elif key.text == "<<":
                self._at(key.spot, "blocks are not merged with `<<`; write their keys out")
            elif key.text in block:
                said = f"key `{key.text}` is given twice, first on line {lines[key.text]}"
                self._at(key.spot, f"{said}; remove one of them")
            else:
                lines[key.text] = key.spot.line
                block[key.text] = None
                block[key.text] = self._plain(value, (*path, key.text), key.spot)
        return block

    def _expanded(self, text: str, path: Steps) -> str | Unset:
        names = _VARIABLE.findall(text)
        if not names:
            return text
        wrong = len(self.mistakes)
        for name in dict.fromkeys(names):
            if not _NAME.fullmatch(name):
                self.blame(path, "this is no variable; write one such as ${PANEL_KEY}")
            elif not self.environment.get(name):
                where = "in the environment, or in .env beside the file"
                self.blame(path, f"the variable {name} is not set; set it {where}")
        if len(self.mistakes) > wrong:
            return Unset()
        value = _VARIABLE.sub(lambda found: self.environment[found[1]], text)
        return Expanded.of(value, text)

    def _at(self, spot: Spot, text: str) -> None:
        self.mistakes.append(Mistake(spot, text))


def is_variable(text: str) -> bool:
    """Say whether a value came out of the environment as a whole, from one ``${VAR}``."""
    return isinstance(text, Expanded) and _VARIABLE.fullmatch(text.written) is not None


# --- from text to nodes ---------------------------------------------------------------------


def _compose(text: str) -> _Node | None:
    unseen = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if unseen is not None:
        before = text[: unseen.start()]
        spot = Spot(before.count("\n") + 1, len(before) - before.rfind("\n"))
        said = f"the character U+{ord(unseen[0]):04X} can't be seen; remove it"
        raise Unreadable(spot, said)
    hidden = _VARIABLE.sub(lambda found: found[0].translate(_HIDE), text)
    root: _Node | None = None
    # Taken one by one: the parser needs minutes for a nesting that we refuse at its 21st level.
    events: Iterator[yaml.Event] = yaml.parse(hidden, Loader=_LOADER)
    try:
        for event in events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            if root is not None:
                spot = _spot(event.start_mark)
                raise Unreadable(spot, "a second document begins here; remove the `---`")
            root = _Composer(events).node(next(events), 0)
    except yaml.MarkedYAMLError as error:
        raise _reworded(error, text) from None
    return root


@dataclass
class _Composer:
    events: Iterator[yaml.Event]
    anchors: dict[str | None, _Node] = field(default_factory=dict)
    aliased: int = 0

    def node(self, event: yaml.Event, depth: int) -> _Node:
        """Return the node that begins with ``event``, and consume all of its events."""
        spot = _spot(event.start_mark)
        if depth > DEEPEST:
            raise Unreadable(spot, f"nested more than {DEEPEST} deep; no part of the file is")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        begun = cast("yaml.ScalarEvent | yaml.CollectionStartEvent", event)
        if begun.tag not in {None, "!", *_TAGS}:
            raise Unreadable(spot, _NO_TAGS)
        node = _Node(spot)
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and event.value in _NULLS
            node.text = None if plain else event.value.translate(_SHOW)
        elif isinstance(event, yaml.SequenceStartEvent):
            node.items = list(self._children(yaml.SequenceEndEvent, depth))
            node.size += sum(item.size for item in node.items)
        else:
            flat = list(self._children(yaml.MappingEndEvent, depth))
            node.pairs = list(zip(flat[::2], flat[1::2], strict=True))
            node.size += sum(child.size for child in flat)
        if begun.anchor is not None:
            self.anchors[begun.anchor] = node
        return node

    def _children(self, end: type[yaml.Event], depth: int) -> Iterator[_Node]:
        for event in self.events:
            if isinstance(event, end):
                return
            yield self.node(event, depth + 1)

    def _alias(self, event: yaml.AliasEvent) -> _Node:
        spot = _spot(event.start_mark)
        node = self.anchors.get(event.anchor)
        if node is None:
            said = "nothing above has this name; a text that begins with * needs quotes"
            raise Unreadable(spot, said)
        self.aliased += node.size
        if self.aliased > MOST_ALIASED:
            raise Unreadable(spot, "the aliases of this file repeat too much; write it out")
        return node


_NO_TAGS = "tags are not taken; write the value without its `!`"
_WORDS = (
    (
        r"mapping values are not allowed",
        "a second `: ` in one value, or a key that is indented wrongly; use quotes, or line it up",
    ),
    (r"found unknown escape", "an unknown escape in double quotes; use single quotes"),
    (
        r"document start",
        "this does not line up with the first key; begin both in one column",
    ),
    (
        r"block end|expected key|'-' indicator",
        "this does not line up with what stands above; begin it in the same column",
    ),
    (
        r"node content",
        "a value is missing here; give one, or remove what stands around it",
    ),
    (r"\btag\b", _NO_TAGS),
    (r"anchor", "an anchor needs a name of letters and digits, once"),
    (r"alias", "* begins an alias; put the text in quotes"),
)
_UNCLOSED = (
    (r"',' or '\]'", "this list is not closed; end it with ]"),
    (r"',' or '\}'", "this block is not closed; end it with }"),
    (r"end of stream|document separator", "this quote is not closed; end it with the same quote"),
)


def _reworded(error: yaml.MarkedYAMLError, text: str) -> Unreadable:
    """Say a parser's complaint in the owner's words, where the cause is rather than the effect."""
    problem = f"{error.problem} {error.context}"
    spot = _spot(error.problem_mark) if error.problem_mark else Spot(1, 1)
    line = (text.splitlines() + [""] * spot.line)[spot.line - 1]
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent:
        return Unreadable(Spot(spot.line, indent.index("\t") + 1), "a tab; indent with spaces")
    if "cannot start any token" in problem:
        found = line[spot.column - 1 : spot.column]
        return Unreadable(spot, f"a value can't begin with {found}; put it in quotes")
    for pattern, said in _UNCLOSED:
        if re.search(pattern, problem) and error.context_mark is not None:
            return Unreadable(_spot(error.context_mark), said)
    for pattern, said in _WORDS:
        if re.search(pattern, problem):
            return Unreadable(spot, said)
    return Unreadable(spot, f"this is not YAML: {error.problem}; see the example of the file")
