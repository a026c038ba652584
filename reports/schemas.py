"""The published JSON Schemas (2020-12) of what we write for programs: `python -m reports.schemas [FOLDER]` writes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from reports.compare import Comparison
from reports.summary import Summary

PUBLISHED: Final[dict[str, type[msgspec.Struct]]] = {
    "summary.schema.json": Summary,
    "comparison.schema.json": Comparison,
}
FOLDER: Final = Path("docs") / "schemas"


def schema(of: type[msgspec.Struct]) -> dict[str, Any]:
    """The schema of one structure."""
    made = msgspec.json.schema(of)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": of.__name__, **made}


def encoded(of: type[msgspec.Struct]) -> bytes:
    """The bytes that are published."""
    return msgspec.json.format(msgspec.json.encode(schema(of)), indent=2) + b"\n"


def main() -> None:
    """Write all of them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, structure in PUBLISHED.items():
        (folder / name).write_bytes(encoded(structure))


if __name__ == "__main__":
    main()
