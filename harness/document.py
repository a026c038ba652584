"""A YAML file as plain values, with the place of every key and value kept for messages.

Nothing here knows what an experiment is. Scalars are read by the rules of YAML 1.2's core schema, by ourselves: in
PyYAML's YAML 1.1, `12:30` is a number and `on` is true. Whatever can be wrong with the text itself (syntax, keys given
twice, foreign tags, anchors that contain themselves) is collected as mistakes; only what leaves no tree at all raises.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from harness.errors import ExperimentError

PathTo = tuple[str | int, ...]  # keys and list positions from the root

LARGEST_FILE: Final = 4 << 20  # bytes
MOST_NODES: Final = 200_000  # after anchors are followed; bounds what a small file can blow up to
OVERRIDE: Final = "--set "
OPTIONS: Final = {"--nodes": "cluster.nodes", "--seed": "seed", "--backend": "cluster.backend"}

_STR, _MAP, _SEQ = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))
_NULL = re.compile(r"~|null|Null|NULL|", re.ASCII)
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE", re.ASCII)
_INT = re.compile(r"[-+]?\d{1,40}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.\d{1,40}|\d{1,40}(\.\d{0,40})?)([eE][-+]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True, order=True)
class Mistake:
    """One thing that is wrong. Sorted by place: the file first, top to bottom, then overrides by name."""

    override: str  # empty: in the file
    line: int  # both from 1
    column: int
    text: str

    def shown(self, file: str) -> str:
        """`file:line:column: what is wrong`, or `--set path: what is wrong`."""
        return f"{self.override or f'{file}:{self.line}:{self.column}'}: {self.text}"


def meant(word: str, choices: Iterable[str]) -> str:
    """`, did you mean `x`?` if one of the choices is near, else nothing."""
    close = difflib.get_close_matches(word, list(choices), 1)
    return f", did you mean `{close[0]}`?" if close else ""


@dataclass
class Document:
    """A file's tree. ``data`` holds plain values: dict, list, str, int, float, bool, None."""

    name: str
    text: str
    root: yaml.Node
    mistakes: list[Mistake] = field(default_factory=list)
    overridden: list[str] = field(default_factory=list)

    def values(self) -> Any:
        """The plain values; mistakes of the text are noted on the way."""
        return _Reader(self).value(self.root, ())

    def note(self, path: PathTo, text: str, *, at_key: bool = False) -> None:
        """Note a mistake at the value under ``path`` (or at its key; or at what there is of the path)."""
        self.mistakes.append(self.mistake(self._mark(path, at_key=at_key), text))

    def mistake(self, mark: yaml.Mark, text: str) -> Mistake:
        """A mistake at a mark; marks made by overrides carry their name."""
        override = "" if mark.name == self.name else mark.name
        return Mistake(override, 0 if override else mark.line + 1, 0 if override else mark.column + 1, text)

    def place(self, path: PathTo) -> str:
        """`file:line:column` of a value."""
        mark = self._mark(path, at_key=False)
        return f"{mark.name}:{mark.line + 1}:{mark.column + 1}" if mark.name == self.name else mark.name

    def fail(self) -> None:
        """Raise ExperimentError if there are mistakes, all of them, in order."""
        if self.mistakes:
            found = dict.fromkeys(mistake.shown(self.name) for mistake in sorted(self.mistakes))
            raise ExperimentError(list(found))

    def dumped(self) -> str:
        """The document as YAML: as it was written, or with the overrides applied, keys in their order."""
        if not self.overridden:
            return self.text
        head = "".join(f"# {option}\n" for option in self.overridden)
        body = yaml.serialize(self.root, Dumper=yaml.Dumper, allow_unicode=True, width=110)
        return head + str(body)

    def _mark(self, path: PathTo, *, at_key: bool) -> yaml.Mark:
        node = self.root
        for step in path[:-1] if at_key and path else path:
            inside = _child(node, step)
            if inside is None:
                return node.start_mark
            node = inside
        key = _key(node, path[-1]) if at_key and path else None
        return (key or node).start_mark

    # --- overrides -------------------------------------------------------------------------------

    def override(self, path: str, text: str) -> None:
        """Put the YAML value ``text`` where ``path`` points (`load.rate`, `timeline.0.at`), before all checks."""
        label = path if path in OPTIONS else f"{OVERRIDE}{path}"
        try:
            value = _compose(text, label)
        except yaml.YAMLError:
            self.mistakes.append(Mistake(label, 0, 0, f"`{text}` is no YAML value: quote it if it is text"))
            return
        steps = OPTIONS.get(path, path).split(".")
        problem = _put(self.root, steps, value or _scalar("null", label), label)
        if problem:
            self.mistakes.append(Mistake(label, 0, 0, problem))
        else:
            self.overridden.append(f"{label} {text}" if path in OPTIONS else f"{label}={text}")


def read(path: Path, overrides: Mapping[str, str]) -> Document:
    """A YAML file with the overrides applied (keys: `load.rate`, or one of OPTIONS).

    Raises:
        ExperimentError: it cannot be read, or is not one YAML map; says where.
    """
    name = str(path)
    text = _decoded(path)
    try:
        root = _compose(text, name)
    except yaml.MarkedYAMLError as error:
        raise ExperimentError([_syntax(name, error)]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        what = f"the character U+{ord(str(error.character)):04X} is not allowed in YAML"
        raise ExperimentError([f"{name}:{line}:{column}: {what}"]) from error
    except RecursionError as error:
        raise ExperimentError([f"{name}:1:1: lists and maps are nested too deeply to be read"]) from error
    if root is None:
        raise ExperimentError(
            [f"{name}:1:1: the file is empty: an experiment has at least name, cluster, load, duration"]
        )
    if not isinstance(root, yaml.MappingNode):
        where = f"{name}:{root.start_mark.line + 1}:{root.start_mark.column + 1}"
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "plain text"
        raise ExperimentError([f"{where}: the file holds {kind}: an experiment is a map, as in `name: first-storm`"])
    document = Document(name, text, root)
    for target, value in overrides.items():
        document.override(target, value)
    return document


def _decoded(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > LARGEST_FILE:
            raise ExperimentError([f"{path}: larger than {LARGEST_FILE >> 20} MiB: this is no experiment file"])
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise ExperimentError([f"{path}: no such file"]) from error
    except IsADirectoryError as error:
        raise ExperimentError([f"{path}: this is a folder: name an experiment file in it"]) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ExperimentError([f"{path}: cannot be read: {reason}"]) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise ExperimentError([f"{path}:{line}:{column}: this is not UTF-8 text: save the file as UTF-8"]) from error


def _compose(text: str, name: str) -> yaml.Node | None:
    loader = yaml.BaseLoader(text)
    loader.name = name  # marks carry it: this is how a value knows that an override made it
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _syntax(name: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else f"{name}:1:1"
    if error.context == "expected a single document in the stream":
        return f"{where}: a second document starts here: one file holds one experiment"
    parts = [part for part in (error.problem, error.context) if part]
    return f"{where}: no valid YAML: {', '.join(parts)}"


# --- trees --------------------------------------------------------------------------------------


def _pairs(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    return iter(node.value) if isinstance(node, yaml.MappingNode) else iter(())


def _key(node: yaml.Node, step: str | int) -> yaml.Node | None:
    found = [key for key, _ in _pairs(node) if isinstance(key, yaml.ScalarNode) and key.value == step]
    return found[-1] if found else None


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode):
        inside = isinstance(step, int) and step < len(node.value)
        return node.value[step] if inside else None
    found = [value for key, value in _pairs(node) if isinstance(key, yaml.ScalarNode) and key.value == step]
    return found[-1] if found else None


def _scalar(text: str, label: str) -> yaml.ScalarNode:
    mark = yaml.Mark(label, 0, 0, 0, None, 0)
    return yaml.ScalarNode(_STR, text, mark, mark)


def _put(node: yaml.Node, steps: Sequence[str], value: yaml.Node, label: str) -> str:
    """Set the value; maps that are missing on the way are made. Returns what is wrong, or nothing."""
    for number, step in enumerate(steps[:-1]):
        inside = _child(node, _step(node, step))
        if inside is None or _is_null(inside):
            mark = yaml.Mark(label, 0, 0, 0, None, 0)
            inside = yaml.MappingNode(_MAP, [], mark, mark, flow_style=True)
            if problem := _assign(node, step, inside, label):
                return problem
        elif isinstance(inside, yaml.ScalarNode):
            return f"`{'.'.join(steps[: number + 1])}` is `{inside.value}`, which has nothing inside"
        node = inside
    return _assign(node, steps[-1], value, label)


def _assign(node: yaml.Node, step: str, value: yaml.Node, label: str) -> str:
    if isinstance(node, yaml.SequenceNode):
        index = _step(node, step)
        if not isinstance(index, int) or index >= len(node.value):
            return f"no item `{step}`: the list has {len(node.value)}, counted from 0"
        node.value[index] = value
        return ""
    if not step:
        return "a key is missing: write it as in load.rate=50/s"
    key = _key(node, step)
    pairs = list(_pairs(node))
    position = next((i for i, (old, _) in enumerate(pairs) if old is key), None)
    if position is None:
        node.value.append((_scalar(step, label), value))
    else:
        node.value[position] = (pairs[position][0], value)
    return ""


def _step(node: yaml.Node, step: str) -> str | int:
    return int(step) if isinstance(node, yaml.SequenceNode) and re.fullmatch(r"\d{1,6}", step, re.ASCII) else step


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and _NULL.fullmatch(node.value) is not None


@dataclass
class _Reader:
    """Turns nodes into plain values, noting what is wrong with the text."""

    document: Document
    seen: int = 0
    inside: list[yaml.Node] = field(default_factory=list)

    def value(self, node: yaml.Node, path: PathTo) -> Any:
        self.seen += 1
        if any(node is outer for outer in self.inside):
            self._note(node, "an anchor that contains itself has no end")
            return None
        if self.seen > MOST_NODES:
            if self.seen == MOST_NODES + 1:
                self._note(node, f"more than {MOST_NODES} values once all anchors are followed")
            return None
        if node.tag not in (_STR, _MAP, _SEQ):
            self._note(node, f"the tag `{node.tag}` means nothing here: write the plain value")
        self.inside.append(node)
        try:
            return self._plain(node, path)
        finally:
            self.inside.pop()

    def _plain(self, node: yaml.Node, path: PathTo) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._map(node, path)
        assert isinstance(node, yaml.ScalarNode)
        return str(node.value) if node.style else plain_scalar(node.value)

    def _map(self, node: yaml.MappingNode, path: PathTo) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._note(key, "a key is plain text, not a list or a map")
                continue
            if key.value in lines:
                self._note(key, f"`{key.value}` is given twice; the first one is in line {lines[key.value]}")
            lines.setdefault(key.value, key.start_mark.line + 1)
            result[key.value] = self.value(value, (*path, key.value))
        return result

    def _note(self, node: yaml.Node, text: str) -> None:
        self.document.mistakes.append(self.document.mistake(node.start_mark, text))


def plain_scalar(text: str) -> str | int | float | bool | None:
    """An unquoted scalar by YAML 1.2's core schema; octal, hexadecimal, infinities and NaN stay text."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
