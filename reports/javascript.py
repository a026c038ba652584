"""Vega, for the charts of a page that makes no network request: put together from what vl-convert carries.

Only Vega itself: specifications are compiled from Vega-Lite when the page is made, and tooltips are our own. That saves
a third of the size.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

SNIPPET = "window.vega = vega;"


class Bundle:
    """Bundles the JavaScript on a thread while the caller does something else."""

    def __init__(self) -> None:
        self._text = ""
        self._thread = threading.Thread(target=self._bundle, name="kadstorm-bundle", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join()

    @property
    def text(self) -> str:
        """The JavaScript, when it is there. Empty if it could not be made: the page then has static charts only."""
        self._thread.join()
        return self._text

    def _bundle(self) -> None:
        import vl_convert

        try:
            self._text = vl_convert.javascript_bundle(SNIPPET)
        except Exception:  # a page without scripts is better than none
            self._text = ""
