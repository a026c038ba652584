"""A plan as text for people: a small Gantt chart, then every action in a line. Plain blocks, no colours, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from harness.quantities import duration_text
from harness.records import Action, Plan

NAME_WIDTH: Final = 18
IN_FORCE, MOMENT, GONE, IDLE = "█", "◆", "─", "·"


def describe(plan: Plan, width: int = 80) -> str:
    """The schedule as text, no line longer than ``width`` (at least 40)."""
    width = max(40, width)
    return "\n".join([*_head(plan, width), "", *_chart(plan, width), "", *_list(plan, width)]) + "\n"


def _head(plan: Plan, width: int) -> list[str]:
    experiment, cluster = plan.experiment, plan.experiment["cluster"]
    sites = len({node.site for node in plan.nodes})
    facts = [
        f"{len(plan.nodes)} nodes in {sites} sites",
        f"backend {cluster['backend']}",
        f"seed {plan.seed}",
        f"{experiment['duration_s']:g} s",
        f"{len(plan.actions)} action{'' if len(plan.actions) == 1 else 's'}",
    ]
    return [_cut(experiment["name"], width), _cut(", ".join(facts), width)]


def _chart(plan: Plan, width: int) -> list[str]:
    columns = width - NAME_WIDTH - 1
    end_us = max(1, round(plan.experiment["duration_s"] * 1e6))
    names = [entry["name"] for entry in plan.experiment["timeline"]]
    rows = [(name, [action for action in plan.actions if action.entry == index]) for index, name in enumerate(names)]
    axis = _axis(end_us, columns)
    return [
        " " * (NAME_WIDTH + 1) + axis,
        *(f"{_cut(name, NAME_WIDTH):<{NAME_WIDTH}} {_row(actions, end_us, columns)}" for name, actions in rows),
    ]


def _axis(end_us: int, columns: int) -> str:
    """Times at the quarters, the last one flush right."""
    line = [" "] * columns
    for quarter in range(5):
        text = duration_text(round(end_us * quarter / 4 / 100_000) * 100_000)
        start = min(columns * quarter // 4, columns - len(text))
        line[start : start + len(text)] = text
    return "".join(line)


def _row(actions: Sequence[Action], end_us: int, columns: int) -> str:
    cells = [IDLE] * columns
    for action in actions:
        first = min(columns - 1, action.at_us * columns // end_us)
        if action.until_us is None:
            cells[first:] = [MOMENT] + [GONE] * (columns - first - 1)
        else:
            last = min(columns, max(first + 1, -(-action.until_us * columns // end_us)))
            cells[first:last] = [IN_FORCE] * (last - first)
    return "".join(cells)


def _list(plan: Plan, width: int) -> list[str]:
    if not plan.actions:
        return ["nothing is injected"]
    return [_cut("      from       until  what", width), *(_cut(_line(action), width) for action in plan.actions)]


def _line(action: Action) -> str:
    until = "the end" if action.until_us is None else f"{action.until_us / 1e6:.3f}"
    title = action.name if action.name == action.fault else f"{action.name} ({action.fault})"
    return f"{action.at_us / 1e6:10.3f}  {until:>10}  {title}: {_targets(action.targets)}{_options(action)}"


def _targets(targets: Sequence[str]) -> str:
    return " ".join(targets) if len(targets) <= 4 else f"{' '.join(targets[:3])} and {len(targets) - 3} more"


def _options(action: Action) -> str:
    plain = {key: value for key, value in action.options.items() if isinstance(value, int | str) and value is not False}
    return "".join(f" {key}={str(value).lower() if value is True else value}" for key, value in plain.items())


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
