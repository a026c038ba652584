"""The code in docs/analysis-guide.md, run from top to bottom as readers would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.unit.test_report_files import storm

GUIDE = Path("docs/analysis-guide.md")


def test_every_analysis_of_the_guide_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    names: dict[str, Any] = {"RUN": storm(tmp_path)}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{GUIDE}, block {number}", "exec"), names)
    assert "by_fault" in names
