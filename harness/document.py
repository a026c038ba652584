"""YAML with the place of everything in it, so that each mistake can be told with line and column.

Scalars are read by YAML 1.2's core schema: in PyYAML's 1.1, `12:30` and `010` are other numbers, and `on` is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.errors import ExperimentError

Path_ = tuple[str | int, ...]  # from the root to a value: mapping keys and list indices
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq")}
MOST_VALUES = 200_000  # once anchors are followed; bounds what a small file can blow up to
NULL = re.compile(r"~|null|Null|NULL|")
TRUE, FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
WHOLE = re.compile(r"[-+]?[0-9]{1,40}")
FRACTION = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Mark:
    """A place in a file, counted from 1. ``source`` is shown before it; a mark of an override has no line."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass
class Document:
    """A YAML file as plain data, with the marks of its values and of its keys."""

    source: str
    data: Any
    values: dict[Path_, Mark] = field(default_factory=dict)
    keys: dict[Path_, Mark] = field(default_factory=dict)
    mistakes: list[tuple[Mark, str]] = field(default_factory=list)
    around: list[yaml.Node] = field(default_factory=list)  # while it is built: the nodes that hold the next one

    def mark(self, path: Path_, *, key: bool = False) -> Mark:
        """The mark of what lies at ``path``, or of the nearest thing around it."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Mark(self.source, 1, 1))

    def override(self, assignment: str) -> None:
        """Set one value: ``load.rate=50/s``. The value is read as YAML. Raises ExperimentError."""
        dotted, equals, text = assignment.partition("=")
        steps = [int(step) if step.isdecimal() else step for step in dotted.split(".")]
        source = f"--set {assignment}"
        if not equals or not all(str(step) for step in steps):
            raise ExperimentError([f"{source}: PATH=VALUE is expected, such as load.rate=50/s"])
        if not isinstance(self.data, dict):
            return  # the file is wrong as a whole, which is told anyway
        try:
            value = parse(text, source).data
        except ExperimentError as error:
            raise ExperimentError([f"{source}: the value is no YAML"]) from error
        self._set(tuple(steps), value, source)

    def _set(self, path: Path_, value: Any, source: str) -> None:
        here = self.data
        for index, step in enumerate(path[:-1]):
            try:
                if isinstance(here, dict) and here.get(step) is None:
                    here[step] = {}
                here = here[step]
            except (LookupError, TypeError) as error:
                around = ".".join(str(part) for part in path[: index + 1])
                raise ExperimentError([f"{source}: there is no {around}"]) from error
        try:
            here[path[-1]] = value
        except (LookupError, TypeError) as error:
            raise ExperimentError([f"{source}: there is no {'.'.join(str(part) for part in path)}"]) from error
        self.values[path] = self.keys[path] = Mark(source)


def read(path: Path) -> Document:
    """Read a file. What is wrong with it as YAML is in ``mistakes``, or raised if nothing can be made of it.

    Raises:
        ExperimentError: there is no such file, or it is not YAML.
    """
    source = str(path)
    try:
        raw = path.read_bytes()
        return parse(raw.decode("utf-8-sig"), source)
    except UnicodeDecodeError as error:
        line, column = _place(raw[: error.start].decode("utf-8-sig"))
        raise ExperimentError([f"{source}:{line}:{column}: the file is not UTF-8 text"]) from error
    except OSError as error:
        raise ExperimentError([f"{source}: cannot be read: {error.strerror}"]) from error


def _place(before: str) -> tuple[int, int]:
    """Line and column of what comes after ``before``."""
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def parse(text: str, source: str) -> Document:
    """See `read`, for text that is there already."""
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ExperimentError([f"{where}: not YAML: {_problem(error)}"]) from error
    except yaml.reader.ReaderError as error:
        line, column = _place(text[: error.position])
        what = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise ExperimentError([f"{source}:{line}:{column}: not YAML: {what}"]) from error
    except RecursionError as error:
        raise ExperimentError([f"{source}:1:1: lists and mappings are nested too deeply"]) from error
    document = Document(source, None)
    if root is not None:
        document.data = _build(root, (), document)
    return document


def _problem(error: yaml.YAMLError) -> str:
    parts = [getattr(error, name, None) for name in ("context", "problem")]
    return ", ".join(part for part in parts if part) or " ".join(str(error).split())


def _build(node: yaml.Node, path: Path_, document: Document) -> Any:
    if any(node is outer for outer in document.around):
        document.mistakes.append((_mark(node, document), "an anchor that contains itself has no end"))
        return None
    if len(document.values) >= MOST_VALUES:
        if not document.mistakes:
            document.mistakes.append((_mark(node, document), "too many values, once all anchors are followed"))
        return None
    if node.tag not in TAGS:
        document.mistakes.append((_mark(node, document), f"the tag {node.tag} has no meaning here"))
    document.values[path] = _mark(node, document)
    document.around.append(node)
    try:
        return _plain(node, path, document)
    finally:
        document.around.pop()


def _plain(node: yaml.Node, path: Path_, document: Document) -> Any:
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(node, path, document))
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), document) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return str(node.value) if node.style else plain_scalar(node.value)


def _pairs(node: yaml.MappingNode, path: Path_, document: Document) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for key_node, value_node in node.value:
        mark = _mark(key_node, document)
        if not isinstance(key_node, yaml.ScalarNode):
            document.mistakes.append((mark, "a key is a word, not a list or a mapping"))
            continue
        key = str(key_node.value)
        if key in seen:
            document.mistakes.append((mark, f"`{key}` is written twice"))
            continue
        seen.add(key)
        document.keys[(*path, key)] = mark
        yield key, _build(value_node, (*path, key), document)


def plain_scalar(text: str) -> str | int | float | bool | None:
    """What a scalar without quotes means. No dates, no base 60, no octal, no infinity."""
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text) or FALSE.fullmatch(text):
        return text.lower() == "true"
    if WHOLE.fullmatch(text):
        return int(text)
    return float(text) if FRACTION.fullmatch(text) else text


def _mark(node: yaml.Node, document: Document) -> Mark:
    return Mark(document.source, node.start_mark.line + 1, node.start_mark.column + 1)
