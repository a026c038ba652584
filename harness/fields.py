"""The types of values in an experiment file, for pydantic models: each reads one plain value, or says in the product's
words what is wrong with it.

A model of options is a `Block`: keys that it does not know are mistakes. Rules between keys of one block go where the
data is: `conflicts` for what depends on which keys are given, field validators (with ``info.data``) for what depends on
values. So one wrong key never hides another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, PlainValidator, model_validator

from harness import quantities, selectors
from harness.document import meant
from harness.quantities import duration_text, shown

Number = TypeVar("Number", int, float, Decimal, Fraction)


class Block(BaseModel):
    """Base of all models of the experiment file. A key whose value is null counts as not given.

    ``shorthand`` names the key that a plain value stands for (`partition: halves`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)
    shorthand: ClassVar[str] = ""

    @classmethod
    def known_keys(cls) -> dict[str, str]:
        """Key in the file -> name of the field."""
        return {field.alias or name: name for name, field in cls.model_fields.items()}

    @classmethod
    def given(cls, data: object) -> dict[str, Any] | None:
        """The data as a map without nulls and shorthands; None if it cannot be one."""
        if isinstance(data, Mapping):
            return {key: value for key, value in data.items() if value is not None or key not in cls.known_keys()}
        if data is None:
            return {}
        return {cls.shorthand: data} if cls.shorthand and not isinstance(data, list) else None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: object) -> object:
        given = cls.given(data)
        return data if given is None else given

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:  # noqa: ARG003 - for those that have some
        """Keys that do not go together, whatever their values: (key, what is wrong). ``given`` holds no nulls."""
        return iter(())


class UnfitValueError(ValueError):
    """A value that can be read, but not used here."""


def at_least(least: Number, text: str) -> Callable[[Number], Number]:
    """A check: the value is at least ``least``; ``text`` says so."""

    def check(value: Number) -> Number:
        if value < least:
            raise UnfitValueError(text)
        return value

    return check


def whole(least: int, most: int) -> PlainValidator:
    """Reads a whole number from ``least`` to ``most``."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UnfitValueError(f"`{shown(value)}` is no whole number: write one from {least} to {most}")
        if not least <= value <= most:
            raise UnfitValueError(
                f"`{value}` is {'below' if value < least else 'above'} {least if value < least else most}"
            )
        return value

    return PlainValidator(read)


def decimal_between(least: float, most: float) -> PlainValidator:
    """Reads a plain number (it has no unit) from ``least`` to ``most``."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnfitValueError(f"`{shown(value)}` is no number: write one from {least:g} to {most:g}")
        if not least <= value <= most:
            side, bound = ("below", least) if value < least else ("above", most)
            raise UnfitValueError(f"`{value}` is {side} {bound:g}")
        return float(value)

    return PlainValidator(read)


def choice(*names: str) -> PlainValidator:
    """Reads one of some words."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            listed = " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
            raise UnfitValueError(f"`{shown(value)}` is none of the choices{meant(str(value), names) or f': {listed}'}")
        return value

    return PlainValidator(read)


def _positive_duration(value: object) -> int:
    return at_least(1, f"`{value}`: must be longer than 0")(quantities.duration(value))


def _milliseconds_positive(value: object) -> int:
    return at_least(1, f"`{value}`: must be longer than 0")(quantities.milliseconds(value))


def _whole_milliseconds(value: object) -> int:
    result = _positive_duration(value)
    if result % 1_000:
        raise UnfitValueError(
            f"`{value}` is finer than a millisecond: write {duration_text(-(-result // 1000) * 1000)}"
        )
    return result


def _positive_rate(value: object) -> Decimal:
    result = at_least(Decimal("0.01"), f"`{value}`: at least 0.01/s")(quantities.rate(value))
    if result > 1_000_000:
        raise UnfitValueError(f"`{value}`: at most 1000000/s")
    return result


def _positive_size(value: object) -> int:
    return at_least(1, f"`{value}`: at least 1B")(quantities.size(value))


def _toxicity(value: object) -> int:
    thousandths = quantities.share(value) * 1000
    if thousandths.denominator != 1 or thousandths < 1:
        raise UnfitValueError(f"`{value}`: the toxicity is from 0.1% to 100%, in steps of 0.1%")
    return thousandths.numerator


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise UnfitValueError(f"`{shown(value)}` is neither true nor false")
    return value


def _line(value: object) -> str:
    text = "" if isinstance(value, bool | list | dict) or value is None else str(value).strip()
    if not text or len(text) > 80 or not text.isprintable():
        raise UnfitValueError(f"`{shown(value)}` is no name: write one line of at most 80 characters")
    return text


def _prose(value: object) -> str:
    if isinstance(value, list | dict):
        raise UnfitValueError("expected text")
    return str(value)


Duration = Annotated[int, PlainValidator(quantities.duration)]  # µs, 0 or more
PositiveDuration = Annotated[int, PlainValidator(_positive_duration)]  # µs
NodeDuration = Annotated[
    int, PlainValidator(_whole_milliseconds)
]  # µs, whole ms: the node's command line knows no finer
Milliseconds = Annotated[int, PlainValidator(quantities.milliseconds)]  # ms, 0 or more
PositiveMilliseconds = Annotated[int, PlainValidator(_milliseconds_positive)]  # ms
Share = Annotated[Fraction, PlainValidator(quantities.share)]
Rate = Annotated[Decimal, PlainValidator(_positive_rate)]  # per second
Size = Annotated[int, PlainValidator(_positive_size)]  # bytes
Bandwidth = Annotated[int, PlainValidator(quantities.bandwidth)]  # KB/s
Toxicity = Annotated[int, PlainValidator(_toxicity)]  # thousandths of all connections
Flag = Annotated[bool, PlainValidator(_boolean)]
Line = Annotated[str, PlainValidator(_line)]
Prose = Annotated[str, PlainValidator(_prose)]
SelectorField = Annotated[selectors.Selector, PlainValidator(selectors.parse)]
