"""Run once while the image is built: installs what the node imports, compiles it, and makes its data folder.

Kadstorm puts a requirements.txt beside this file, with the versions that it runs with itself; by hand there is none.
A base that has the packages already (Kadstorm's own, made without a registry) needs neither pip nor a network.
"""

import compileall
import importlib
import os
import subprocess
import sys

ROOT = "/opt/kadstorm"
PACKAGES = os.path.join(ROOT, "packages")  # noqa: PTH118  this runs with -I -S, and nothing is worth a slower start
NEEDED, WANTED = "msgspec>=0.20", "uvloop>=0.21"  # without uvloop a node is slower, and works
EXACTLY = os.path.join(ROOT, "node", "requirements.txt")  # noqa: PTH118
NOBODY = 65532
DATA = "/data"


def main() -> None:
    """Provision the image that this runs in."""
    sys.path.insert(0, PACKAGES)
    try:
        importlib.import_module("msgspec")
    except ImportError:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--target", PACKAGES]
        wanted = ["--requirement", EXACTLY] if os.path.exists(EXACTLY) else [NEEDED, WANTED]  # noqa: PTH110
        subprocess.run([*pip, *wanted], check=True)
    compileall.compile_dir(ROOT, quiet=1)
    os.makedirs(DATA, exist_ok=True)  # noqa: PTH103
    os.chown(DATA, NOBODY, NOBODY)


if __name__ == "__main__":
    main()
