"""``python -P -m loadtests CONFIG.json``: one load worker, driven over stdin and stdout (see `control`)."""

import sys

from gevent import monkey

monkey.patch_all()  # before anything else is imported that makes sockets, locks or threads

from loadtests.worker import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
