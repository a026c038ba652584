"""All benchmarks, one after the other: ``python -m benchmarks [--quick] [--json FILE] [NAME…]``.

Each is a command of its own that measures both sides in one run and prints ratios. One that fails is told, and the others go on;
the exit code is 1 if any did. That a limit is missed is a figure and no failure: these are for people.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ORDER = ("peers", "virtual", "links", "injection", "boot", "containers", "load", "analysis", "compare")


def main() -> int:
    """Run them, print all figures in one table, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of {', '.join(ORDER)}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in ORDER]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there is: {', '.join(ORDER)}")
    rows: list[dict[str, Any]] = []
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or ORDER:
            print(f"--- {name}", flush=True)
            into = Path(folder) / f"{name}.json"
            command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(into)]
            subprocess.run(command + ["--quick"] * arguments.quick, check=False)  # some exit with 1 for a missed limit
            if not into.exists():
                failed.append(name)
            else:
                rows += [{"benchmark": name, **row} for row in json.loads(into.read_text())]
    tell(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    for name in failed:
        print(f"{name} failed")
    return 1 if failed else 0


def tell(rows: list[dict[str, Any]]) -> None:
    """One line a figure."""
    for row in rows:
        met = {True: "met", False: "MISSED"}.get(row["met"], "")
        limit = "" if row["limit"] in (None, "") else f"limit {row['limit']}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"{row['benchmark']:11} {row['name']:62} {ratio:>9}  {limit:14} {met}")


if __name__ == "__main__":
    sys.exit(main())
