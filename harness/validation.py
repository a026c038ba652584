"""From pydantic's errors to mistakes at their places, in the product's words; and what can still be used of wrong data.

Pydantic's own messages never reach a user: fields read their values themselves (`fields.py`), what remains is
rewritten here. Extensions may use pydantic's own constraints: "Input should be …" is turned into "must be …".
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from harness.document import Document, PathTo, meant
from harness.fields import Block
from harness.quantities import shown

AnyBlock = TypeVar("AnyBlock", bound=Block)


def validate(model: type[AnyBlock], data: object, document: Document, path: PathTo) -> AnyBlock | None:
    """The model of ``data``, found at ``path``; None after all its mistakes have been noted."""
    clashes = list(_conflicts(model, data, path))
    for where, text in clashes:
        document.note(where, text)
    try:
        result = model.model_validate(data)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _note(document, model, path, detail)
        return None
    return None if clashes else result


def salvage(model: type[Block], data: object) -> dict[str, Any]:
    """Whatever is right in ``data``: field name -> value, defaults where keys are absent; wrong ones are left out."""
    given = model.given(data) or {}
    result: dict[str, Any] = {}
    for key, name in model.known_keys().items():
        field = model.model_fields[name]
        if key not in given:
            if not field.is_required():
                result[name] = field.get_default(call_default_factory=True)
            continue
        try:
            result[name] = _adapter(model, name).validate_python(given[key])
        except ValidationError:
            continue  # its mistake has been noted already
    return result


@functools.cache
def _adapter(model: type[Block], name: str) -> TypeAdapter[Any]:
    field = model.model_fields[name]
    kind: Any = field.annotation
    return TypeAdapter(Annotated[kind, *field.metadata] if field.metadata else kind)


def listed(path: PathTo) -> str:
    """A path for people: `load.rate`, `groups[0][1]`; in the timeline, from the entry on."""
    text = ""
    for step in path[2:] if path[:1] == ("timeline",) else path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")


def block_of(model: type[Block], steps: PathTo) -> type[Block]:
    """The block that ``steps`` lead to within ``model``."""
    for step in steps:
        inner = _inner_block(model, str(step))
        model = inner or model
    return model


def _conflicts(model: type[Block], data: object, path: PathTo) -> Iterator[tuple[PathTo, str]]:
    given = model.given(data)
    if given is None:
        return
    for key, text in model.conflicts(given):
        yield (*path, key) if key else path, text
    for key, value in given.items():
        if inner := _inner_block(model, key):
            yield from _conflicts(inner, value, (*path, key))


def _inner_block(model: type[Block], key: str) -> type[Block] | None:
    name = model.known_keys().get(key)
    annotation = model.model_fields[name].annotation if name else None
    candidates = [annotation, *get_args(annotation)]
    return next((part for part in candidates if isinstance(part, type) and issubclass(part, Block)), None)


def _note(document: Document, model: type[Block], path: PathTo, detail: ErrorDetails) -> None:
    where = (*path, *detail["loc"])
    named = listed(where)
    match detail["type"]:
        case "extra_forbidden":
            block = block_of(model, detail["loc"][:-1])
            document.note(where, no_key(str(where[-1]), listed(where[:-1]), block.known_keys()), at_key=True)
        case "missing":
            document.note(where, f"`{named}` is missing")
        case "model_type" | "dict_type" | "model_attributes_type":
            keys = ", ".join(block_of(model, detail["loc"]).known_keys())
            document.note(where, f"{named}: `{shown(detail['input'])}` is no map of {keys}")
        case "list_type" | "tuple_type":
            document.note(where, f"{named}: `{shown(detail['input'])}` is no list")
        case "value_error":
            document.note(where, f"{named}: {detail['ctx']['error']}")
        case _:
            text = detail["msg"].removeprefix("Input ").replace("should be", "must be")
            document.note(where, f"{named}: `{shown(detail['input'])}` {text}")


def no_key(key: str, block: str, known: Mapping[str, str]) -> str:
    """What to say of a key that nobody knows."""
    inside = f" in {block}" if block else ""
    listed = ", ".join(known)
    return f"no key `{key}`{inside}{meant(key, known) or f' (keys: {listed})'}"
