"""What a CI job shows of its chaos runs: `python -m harness.ci RUNS` prints the job summary (Markdown) to standard output,
and an annotation for each failure to standard error, in GitHub's form, where GitHub Actions runs it.

Reads `junit.xml` as pytest wrote it and each run's `summary.md`; what is not there is left out, since a job that broke off early
still has a page.
"""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from harness.records import MARKDOWN_FILE

JUNIT = "junit.xml"
SHOWN = 20  # failures in the summary
LONGEST = 3000  # characters of one failure


def failures(junit: Path) -> Iterator[tuple[str, str]]:
    """(test, what it said) of each failed or broken test. Nothing if the file is missing or cut short."""
    try:
        root = ET.parse(junit).getroot()  # noqa: S314
    except (OSError, ET.ParseError):
        return
    for case in root.iter("testcase"):
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is not None:
                name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
                yield name, (found.text or found.get("message") or "").strip()


def counts(junit: Path) -> str:
    """One line: how many tests, and how they went."""
    try:
        suites = list(ET.parse(junit).getroot().iter("testsuite"))  # noqa: S314
    except (OSError, ET.ParseError):
        return "pytest left no result: it did not start, or was ended"
    total = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    return ", ".join(f"{number} {key}" for key, number in total.items())


def summary(runs: Path) -> Iterator[str]:
    """The job summary, line by line."""
    yield f"## Kadstorm: {counts(runs / JUNIT)}"
    for name, said in list(failures(runs / JUNIT))[:SHOWN]:
        yield f"\n<details><summary>❌ {name}</summary>\n\n```text\n{said[-LONGEST:].replace('```', '` ` `')}\n```\n</details>"
    for path in sorted(runs.glob(f"*/{MARKDOWN_FILE}")):
        yield f"\n{path.read_text(errors='replace')}"


def notes(runs: Path) -> Iterator[str]:
    """GitHub's workflow commands, one a failure: newlines and percent signs are escaped as it asks for."""
    for name, said in failures(runs / JUNIT):
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "failed")
        yield f"::error title={_escaped(name, title=True)}::{_escaped(last)}"


def _escaped(text: str, *, title: bool = False) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return escaped.replace(":", "%3A").replace(",", "%2C") if title else escaped


def main() -> None:
    """See the module."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    for line in summary(runs):
        sys.stdout.write(f"{line}\n")
    if os.environ.get("GITHUB_ACTIONS"):
        for line in notes(runs):
            sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
