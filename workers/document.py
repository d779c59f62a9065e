"""A strictly read YAML file: plain data, and the line on which every key stands.

YAML's surprises are refused rather than interpreted: aliases (a few hundred bytes of
them can stand for millions of nodes), duplicate keys, tags, several documents. Of the
words that YAML 1.1 turns into something else only `true`, `false` and `null` are left;
`no`, `on` and `12:30:45` stay text. Nothing here knows what the file is about.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_NODES = 50_000
MAX_DEPTH = 20

Place = tuple[str | int, ...]
"""Where a value stands: the keys and list indices that lead to it."""

_TAG = "tag:yaml.org,2002:"
_STR, _INT, _FLOAT, _BOOL, _NULL = (_TAG + kind for kind in ("str", "int", "float", "bool", "null"))


class DocumentError(Exception):
    """The file cannot be read. `line` counts from 1; 0 when the whole file is meant."""

    def __init__(self, line: int, text: str, place: Place = ()) -> None:
        super().__init__(text)
        self.line = line
        self.text = text
        self.place = place


@dataclass(frozen=True, slots=True)
class Document:
    """The file's content as dicts, lists and scalars."""

    data: Any
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int:
        """Return the line of `place`, or of the nearest thing around it that exists."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place, 1)


def read(path: Path) -> Document:
    """Read one YAML file. Raises DocumentError, also when it is missing, too large or not UTF-8."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DocumentError(0, f"cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise DocumentError(0, f"larger than {MAX_BYTES:,} bytes; that cannot be meant")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(raw.count(b"\n", 0, error.start) + 1, "not UTF-8 text") from None
    return parse(text)


def parse(text: str) -> Document:
    if tab := re.search(r"^ *\t", text, re.MULTILINE):
        raise DocumentError(text.count("\n", 0, tab.start()) + 1, "indented with a tab; YAML wants spaces")
    try:
        _check_bounds(text)
        root = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DocumentError(mark.line + 1 if mark else 0, f"not valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"not valid YAML: a character that may not stand here (#x{error.character:04x})"
        raise DocumentError(line, problem) from None
    lines: dict[Place, int] = {(): 1}
    return Document(None if root is None else _value(root, (), lines), lines)


def _check_bounds(text: str) -> None:
    """Refuse what would be costly to build. Events come one by one, however deep they nest."""
    nodes = depth = 0
    for event in yaml.parse(text, _Loader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise DocumentError(line, f"YAML aliases (*{event.anchor}) are not allowed; repeat the value")
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise DocumentError(line, f"more than {MAX_NODES} values or {MAX_DEPTH} levels; that cannot be meant")


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the few implicit types of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own interface


for _tag, _pattern, _first in (
    (_BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_INT, r"[-+]?[0-9]+", "-+0123456789"),
    (_FLOAT, r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    (_NULL, r"~|null|Null|NULL|", "~nN"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), [*_first, *([""] if _tag == _NULL else [])])


def _value(node: yaml.Node, place: Place, lines: dict[Place, int]) -> Any:
    """Turn a node into plain data, and note in `lines` where everything in it stands."""
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node, place, lines)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_value(child, (*place, i), lines) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, place)
    raise DocumentError(node.start_mark.line + 1, f"the tag {node.tag!r} is not allowed", place)


def _mapping(node: yaml.MappingNode, place: Place, lines: dict[Place, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _STR:
            raise DocumentError(line, "a key must be text; put it in quotes", place)
        key = key_node.value
        if key in found:
            first = lines[(*place, key)]
            raise DocumentError(line, f"given twice, first on line {first}", (*place, key))
        lines[(*place, key)] = line
        found[key] = _value(value_node, (*place, key), lines)
    return found


def _scalar(node: yaml.ScalarNode, place: Place) -> Any:
    text: str = node.value
    line = node.start_mark.line + 1
    match node.tag:
        case tag if tag == _STR:
            return text
        case tag if tag == _NULL:
            return None
        case tag if tag == _BOOL and text.lower() in {"true", "false"}:
            return text.lower() == "true"
        case tag if tag in {_INT, _FLOAT}:
            return _number(text, whole=tag == _INT, line=line, place=place)
        case _:
            raise DocumentError(line, f"the tag {node.tag!r} is not allowed", place)


def _number(text: str, *, whole: bool, line: int, place: Place) -> int | float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = math.inf
    if abs(number) > 1e18:
        raise DocumentError(line, "not a number we can use", place)
    return number
