"""YAML as text with places: every key and value knows its line and column.

PyYAML's events are put together here rather than by its composer, because that one recurses as
deep as the file is nested (its C half crashes the process), lets the last of two equal keys win,
and follows aliases without end. Scalars stay text, so that 12.10 never passes through a float;
``true`` and ``false`` are read by whoever wants them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
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

    text: str
    environment: Mapping[str, str]
    data: object = None
    mistakes: list[Mistake] = field(default_factory=list)

    @classmethod
    def read(cls, text: str, environment: Mapping[str, str]) -> Self:
        """Read one YAML document; ``Unreadable`` when it cannot be told apart into parts."""
        document = cls(text, environment)
        document.data = _Reader(environment, document.mistakes).document(text)
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

    @cached_property
    def _places(self) -> dict[Steps, _Place]:
        # Read once more, by need: in a file without a mistake nobody asks, and of one with ten
        # thousand services they take more memory than all that is made of it.
        places: dict[Steps, _Place] = {}
        _Reader(self.environment, [], places).document(self.text)
        return places


def is_variable(text: str) -> bool:
    """Say whether a value came out of the environment as a whole, from one ``${VAR}``."""
    return isinstance(text, Expanded) and _VARIABLE.fullmatch(text.written) is not None


# --- from text to data ----------------------------------------------------------------------

Events: TypeAlias = Iterator[yaml.Event]


class _Reader:
    """Puts plain data together, event by event.

    Args:
        environment: where ``${VAR}`` comes from.
        mistakes: what is found on the way is added to these.
        places: so is where each part stands, if anybody wants to know.

    """

    def __init__(
        self,
        environment: Mapping[str, str],
        mistakes: list[Mistake],
        places: dict[Steps, _Place] | None = None,
    ) -> None:
        self._environment = environment
        self._mistakes = mistakes
        self._places = places
        self._anchors: dict[str | None, list[yaml.Event]] = {}
        self._aliased = 0
        self._repeating = False

    def document(self, text: str) -> object:
        """Read the one document of a text."""
        unseen = yaml.reader.Reader.NON_PRINTABLE.search(text)
        if unseen is not None:
            before = text[: unseen.start()]
            spot = Spot(before.count("\n") + 1, len(before) - before.rfind("\n"))
            said = f"the character U+{ord(unseen[0]):04X} can't be seen; remove it"
            raise Unreadable(spot, said)
        hidden = _VARIABLE.sub(lambda found: found[0].translate(_HIDE), text)
        found: list[object] = []
        # Taken one by one: the parser needs minutes for a nesting that we refuse at its 21st level.
        events: Events = yaml.parse(hidden, Loader=_LOADER)
        try:
            for event in events:
                if not isinstance(event, yaml.DocumentStartEvent):
                    continue
                if found:
                    spot = _spot(event.start_mark)
                    raise Unreadable(spot, "a second document begins here; remove the `---`")
                found.append(self._value(next(events), events, (), 0))
        except yaml.MarkedYAMLError as error:
            raise _reworded(error, text) from None
        return found[0] if found else None

    def _value(
        self,
        event: yaml.Event,
        events: Events,
        path: Steps | None,
        depth: int,
        key: Spot | None = None,
    ) -> object:
        """Return the value that begins with ``event``, and consume all of its events.

        ``path``: where it belongs; ``None`` for a key, and for what belongs nowhere: these are
        as they are written, and no mistake is found in them.
        """
        spot = _spot(event.start_mark)
        if depth > DEEPEST:
            raise Unreadable(spot, f"nested more than {DEEPEST} deep; no part of the file is")
        if isinstance(event, yaml.AliasEvent):
            return self._again(event, path, depth, key)
        begun = cast("yaml.ScalarEvent | yaml.CollectionStartEvent", event)
        if begun.tag not in {None, "!", *_TAGS}:
            raise Unreadable(spot, _NO_TAGS)
        if path is not None and self._places is not None:
            self._places[path] = _Place(key or spot, spot)
        kept = [event]
        if begun.anchor is not None and not self._repeating:
            events = self._remembered(events, kept)
        value: object
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path, spot)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._list(events, path, depth)
        else:
            value = self._block(events, path, depth)
        if begun.anchor is not None and not self._repeating:
            self._anchors[begun.anchor] = kept
        return value

    def _scalar(self, event: yaml.ScalarEvent, path: Steps | None, spot: Spot) -> object:
        if event.implicit[0] and event.value in _NULLS:
            return None
        text = event.value.translate(_SHOW)
        return text if path is None else self._expanded(text, spot)

    def _list(self, events: Events, path: Steps | None, depth: int) -> list[object]:
        return [
            self._value(event, events, None if path is None else (*path, index), depth + 1)
            for index, event in enumerate(_until(yaml.SequenceEndEvent, events))
        ]

    def _block(self, events: Events, path: Steps | None, depth: int) -> dict[str, object]:
        block: dict[str, object] = {}
        lines: dict[str, int] = {}
        for event in _until(yaml.MappingEndEvent, events):
            spot = _spot(event.start_mark)
            key = self._value(event, events, None, depth + 1)
            if path is None or not self._fits(key, spot, lines):
                self._value(next(events), events, None, depth + 1)
            else:
                inside = (*path, str(key))
                block[str(key)] = self._value(next(events), events, inside, depth + 1, spot)
        return block

    def _fits(self, key: object, spot: Spot, lines: dict[str, int]) -> bool:
        """Tell whether a key can stand in a block whose others are on these lines."""
        if not isinstance(key, str):
            self._at(spot, "this is no key; a key is a word or a number")
        elif key == "<<":
            self._at(spot, "blocks are not merged with `<<`; write their keys out")
        elif key in lines:
            said = f"key `{key}` is given twice, first on line {lines[key]}"
            self._at(spot, f"{said}; remove one of them")
        else:
            lines[key] = spot.line
            return True
        return False

    def _expanded(self, text: str, spot: Spot) -> str | Unset:
        names = _VARIABLE.findall(text)
        if not names:
            return text
        wrong = len(self._mistakes)
        for name in dict.fromkeys(names):
            if not _NAME.fullmatch(name):
                self._at(spot, "this is no variable; write one such as ${PANEL_KEY}")
            elif not self._environment.get(name):
                where = "in the environment, or in .env beside the file"
                self._at(spot, f"the variable {name} is not set; set it {where}")
        if len(self._mistakes) > wrong:
            return Unset()
        value = _VARIABLE.sub(lambda found: self._environment[found[1]], text)
        return Expanded.of(value, text)

    def _at(self, spot: Spot, text: str) -> None:
        self._mistakes.append(Mistake(spot, text))

    # --- anchors and aliases ------------------------------------------------------------------

    def _again(
        self, event: yaml.AliasEvent, path: Steps | None, depth: int, key: Spot | None
    ) -> object:
        """Return what an alias stands for, by the events of its anchor."""
        kept = self._anchored(event)
        self._aliased += sum(not isinstance(one, yaml.CollectionEndEvent) for one in kept)
        if self._aliased > MOST_ALIASED:
            said = "the aliases of this file repeat too much; write it out"
            raise Unreadable(_spot(event.start_mark), said)
        events = iter(kept)
        self._repeating = True
        value = self._value(next(events), events, path, depth, key)
        self._repeating = False
        return value

    def _anchored(self, event: yaml.AliasEvent) -> list[yaml.Event]:
        kept = self._anchors.get(event.anchor)
        if kept is None:
            said = "nothing above has this name; a text that begins with * needs quotes"
            raise Unreadable(_spot(event.start_mark), said)
        return kept

    def _remembered(self, events: Events, kept: list[yaml.Event]) -> Events:
        """Yield events, and keep them: in the place of an alias what it stands for."""
        for event in events:
            kept += self._anchored(event) if isinstance(event, yaml.AliasEvent) else [event]
            yield event


def _until(end: type[yaml.Event], events: Events) -> Events:
    for event in events:
        if isinstance(event, end):
            return
        yield event


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
