"""What all pages share: the templates, how figures are worded in them, the style sheet."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from reports import wording

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> Environment:
    """Templates that escape everything but what is marked as ours, and fail on a name that they do not know."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"duration": wording.duration, "share": wording.share, "number": wording.number}
    made.filters |= {"milliseconds": wording.milliseconds, "rate": wording.rate, "plain": wording.plain}
    made.filters["labelled"] = wording.labelled
    return made


def asset(name: str) -> str:
    """A file beside the templates."""
    return files("reports").joinpath("templates", name).read_text(encoding="utf-8")


def stylesheet() -> str:
    """The style sheet of all pages."""
    return asset("report.css")
