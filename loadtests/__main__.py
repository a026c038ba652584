"""`python -m loadtests CONFIG`: one load worker. See `worker.py`."""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()  # before anything that opens a socket or a thread

import sys  # noqa: E402

from loadtests.worker import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
