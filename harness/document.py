"""YAML with the place of everything in it, so that each mistake can be told with line and column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.errors import ExperimentError

Path_ = tuple[str | int, ...]  # from the root to a value: mapping keys and list indices
TAGS = "tag:yaml.org,2002:"


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
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ExperimentError([f"{source}: the value is no YAML: {_problem(error)}"]) from error
        self._set(tuple(steps), value, source)

    def _set(self, path: Path_, value: Any, source: str) -> None:
        here = self.data
        for index, step in enumerate(path[:-1]):
            try:
                here = here.setdefault(step, {}) if isinstance(here, dict) else here[step]
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
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExperimentError([f"{source}:1:1: the file is not UTF-8 text"]) from error
    except OSError as error:
        raise ExperimentError([f"{source}: cannot be read: {error.strerror}"]) from error
    return parse(text, source)


def parse(text: str, source: str) -> Document:
    """See `read`, for text that is there already."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ExperimentError([f"{where}: not YAML: {_problem(error)}"]) from error
    except yaml.YAMLError as error:
        raise ExperimentError([f"{source}: not YAML: {_problem(error)}"]) from error
    document = Document(source, None)
    if root is not None:
        document.data = _build(root, (), document)
    return document


def _problem(error: yaml.YAMLError) -> str:
    parts = [getattr(error, name, None) for name in ("context", "problem")]
    return ", ".join(part for part in parts if part) or " ".join(str(error).split())


def _build(node: yaml.Node, path: Path_, document: Document) -> Any:
    document.values[path] = _mark(node, document)
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(node, path, document))
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), document) for index, item in enumerate(node.value)]
    return _scalar(node, document)


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


def _scalar(node: yaml.Node, document: Document) -> Any:
    """Only what experiments need: text, whole numbers, fractions, true, false and null. No dates, no base 60."""
    loader = yaml.SafeLoader("")
    if node.tag in (f"{TAGS}int", f"{TAGS}float") and ":" in node.value:
        return node.value
    if node.tag in (f"{TAGS}int", f"{TAGS}float", f"{TAGS}bool", f"{TAGS}null"):
        return loader.construct_object(node)
    if node.tag not in (f"{TAGS}str", f"{TAGS}timestamp"):
        document.mistakes.append((_mark(node, document), f"the tag {node.tag} has no meaning here"))
    return node.value


def _mark(node: yaml.Node, document: Document) -> Mark:
    return Mark(document.source, node.start_mark.line + 1, node.start_mark.column + 1)
