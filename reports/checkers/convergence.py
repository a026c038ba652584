"""Convergence: after each heal every node comes to know its true closest nodes again.

Looked at are the routing tables, from a fault's heal to the next injection or the last look. A network that had LIMIT to
find together and did not fails. A heal after which there was less time, and which was not seen to be over, is told; if
there are only such heals, the verdict is unknown. Runs without tables (a target that has none) are not judged by this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reports.checkers import Case, Finding
from reports.neighbours import Look
from reports.windows import Window

LIMIT = 30.0  # s


class Convergence:
    """After each heal every node knows its closest nodes again."""

    def check(self, case: Case) -> Finding:
        """See `Checker.check`."""
        healed = [window for window in case.windows.faults if math.isfinite(window.healed)]
        if not healed:
            return Finding("pass", "no fault was healed", [])
        if not case.looks:
            return Finding("pass", "not judged: this run recorded no routing tables", [])
        details = [_detail(window, case) for window in healed]
        late = [one for one in details if one["converged_after_s"] is None and one["seen_s"] >= LIMIT]
        if late:
            names = ", ".join(f"{one['fault']} ({one['seen_s']:.0f} s)" for one in late)
            return Finding("fail", f"tables were not whole again after {names}", details)
        seen = any(one["converged_after_s"] is not None for one in details)
        return Finding("pass" if seen else "unknown", "; ".join(_told(one) for one in details), details)


def _detail(window: Window, case: Case) -> dict[str, Any]:
    following = [at for at in case.windows.injections if at > window.healed]
    after = [look for look in case.looks if window.healed <= look.t < min(following, default=math.inf)]
    seconds = converged_after(after, window.healed)
    return {
        "fault": window.name,
        "healed": round(window.healed, 3),
        "converged_after_s": None if seconds is None else round(seconds, 1),
        "seen_s": round(after[-1].t - window.healed, 1) if after else 0.0,
        "least_known": round(min((look.mean_share for look in after), default=1.0), 4),
    }


def converged_after(after: Sequence[Look], healed: float) -> float | None:
    """From the heal to the first of two whole looks in a row, or to the last look if that is whole; None if there is none.

    One timeout on a busy machine makes a neighbour a suspect for a moment: a single look that is not whole later on does
    not undo a convergence. How whole tables are on the whole is the routing checker's to judge.
    """
    for look, following in zip(after, (*after[1:], None), strict=False):  # without any look there is no next one
        if look.converged and (following is None or following.converged):
            return look.t - healed
    return None


def _told(one: dict[str, Any]) -> str:
    if one["converged_after_s"] is not None:
        return f"whole again {one['converged_after_s']:.1f} s after {one['fault']}"
    return f"not yet {one['seen_s']:.1f} s after {one['fault']}, when looking ended"
