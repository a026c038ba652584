"""Types for the fields of experiment files: pydantic around `quantities` and `selectors`.

Every model forbids unknown keys. A validator raises ValueError with a text for people; `experiment.py` puts the
place before it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from harness import quantities, selectors
from harness.selectors import Selector


class Section(BaseModel):
    """Base of everything in an experiment file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, populate_by_name=True, strict=True
    )


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"a whole number is expected, not {value!r}")
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a text is expected, not {value!r}")
    return value


def _positive_time(value: Any) -> int:
    parsed = quantities.parse_time(value)
    if not parsed:
        raise ValueError(f"a time above zero is expected, not {value!r}")
    return parsed


Whole = Annotated[int, BeforeValidator(_whole)]
AtLeastOne = Annotated[Whole, Field(ge=1)]
Text = Annotated[str, BeforeValidator(_text)]
Time = Annotated[int, BeforeValidator(quantities.parse_time)]  # µs
PositiveTime = Annotated[int, BeforeValidator(_positive_time)]  # µs
Share = Annotated[int, BeforeValidator(quantities.parse_share)]  # millionths
Rate = Annotated[int, BeforeValidator(quantities.parse_rate)]  # thousandths per second
Size = Annotated[int, BeforeValidator(quantities.parse_size)]  # bytes
Bandwidth = Annotated[int, BeforeValidator(quantities.parse_bandwidth)]  # bytes per second
Select = Annotated[Selector, BeforeValidator(selectors.parse)]


def whole_ms(microseconds: int) -> int:
    """Milliseconds, rounded up: Toxiproxy takes whole ones."""
    return -(-microseconds // 1000)
