"""A base image made of this machine's own Python: no registry, no package manager, no network.

Its interpreter, the parts of the standard library that a node can use, the shared libraries that these need (as the dynamic
loader resolves them here), and the compiled packages of this environment. What is in it ran on this machine a moment
ago, so versions fit by construction, and it holds no shell, no package manager and no set-uid file. Linux only.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from harness.errors import ImageFailed

PACKAGES_DIR = "opt/kadstorm/packages"
LEFT_OUT = frozenset(
    (
        "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "distutils", "venv",
        "site-packages", "dist-packages", "wsgiref", "xmlrpc", "curses", "dbm", "unittest",
    )
)  # fmt: skip  # parts of the standard library that no node imports
LEFT_OUT_MODULES = re.compile(
    r"(_test|_ctypes_test|_xx|xx|_tkinter|_curses|_dbm|_gdbm|nis|readline|_codecs_(?:cn|hk|jp|kr|tw|iso2022))"
)
UNREAD = frozenset((".pyi", ".pyx", ".pxd", ".h", ".hpp", ".c", ".a", ".cmake", "tests", "include"))
FOLDERS = ("tmp", "etc", "proc", "sys", "dev", "opt", "data", "usr", "usr/bin")
USERS = "root:x:0:0::/:/none\nnode:x:65532:65532::/data:/none\n"
LOADER_CACHE = Path("/etc/ld.so.cache")
ARROW = re.compile(r"=>\s+(/\S+)|^\s+(/\S+)\s+\(")


def can_be_made() -> bool:
    """Whether this machine can make the base; elsewhere an image with Python has to come from a registry."""
    return sys.platform == "linux" and _interpreter().exists()


def digest(files: dict[str, Path]) -> str:
    """Of what would go in: paths, sizes and times of change, the interpreter's version, what `archive` adds. 12 hex digits."""
    made = hashlib.sha256(f"{sys.version} {platform.machine()} {FOLDERS} and all others {USERS}".encode())
    for inside, path in sorted(files.items()):
        seen = path.stat()
        made.update(f"{inside} {seen.st_size} {int(seen.st_mtime)}\n".encode())
    return made.hexdigest()[:12]


def collect(packages: Sequence[str], *, whole: bool = False) -> dict[str, Path]:
    """Everything that goes in, with these ``packages`` of this environment: path inside, without the leading slash -> file here.

    Of packages modules and extensions only, or with ``whole`` all that they may read: bundled libraries, pages, compiled files.

    Raises:
        ImageFailed: a package or the dynamic loader's answer is missing.
    """
    files = {str(path).lstrip("/"): path for path in _standard_library()}
    files |= dict(_packages(packages, whole=whole))
    binaries = [_interpreter(), *(path for path in files.values() if ".so" in path.name)]
    files[str(_interpreter()).lstrip("/")] = _interpreter()
    bundled = {os.path.realpath(path) for path in files.values()}
    for library in _shared_libraries(binaries):
        if os.path.realpath(library) in bundled:
            continue  # found beside the extension that needs it, here and there
        files[str(library).lstrip("/")] = library
    if LOADER_CACHE.exists():
        files["etc/ld.so.cache"] = LOADER_CACHE
    return files


def archive(files: dict[str, Path]) -> bytes:
    """A root file system as a tar, owned by root; links are followed, so each path holds what it led to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (*FOLDERS, *sorted(folders_of(files) - set(FOLDERS))):
            add_folder(tar, name, 0o1777 if name == "tmp" else 0o755)
        _add_text(tar, "etc/passwd", USERS)
        for inside, path in sorted(files.items()):
            content = path.read_bytes()
            info = tarfile.TarInfo(inside)
            info.size, info.mode = len(content), 0o755 if os.access(path, os.X_OK) else 0o644
            info.mtime = int(path.stat().st_mtime)  # compiled files are valid only beside sources of their time
            tar.addfile(info, io.BytesIO(content))
        if "usr/bin/python3" not in files:
            link = tarfile.TarInfo("usr/bin/python3")
            link.type, link.linkname = tarfile.SYMTYPE, str(_interpreter())
            tar.addfile(link)
    return buffer.getvalue()


def folders_of(files: Iterable[str]) -> set[str]:
    """All folders above these paths. A tar has to name them: a rootless Docker makes what it does not for nobody but root."""
    return {str(folder) for path in files for folder in PurePosixPath(path).parents if folder.name}


def add_folder(tar: tarfile.TarFile, name: str, mode: int = 0o755) -> None:
    """Put an empty folder into a tar."""
    folder = tarfile.TarInfo(name)
    folder.type, folder.mode = tarfile.DIRTYPE, mode
    tar.addfile(folder)


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(text), 0o644
    tar.addfile(info, io.BytesIO(text.encode()))


def _interpreter() -> Path:
    """The real binary behind a virtual environment's."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))


def _standard_library() -> Iterator[Path]:
    folders = {Path(sysconfig.get_path(name, vars=_base())) for name in ("stdlib", "platstdlib")}
    for folder in sorted(folders):
        yield from _files(folder)


def _base() -> dict[str, str]:
    return {"base": sys.base_prefix, "platbase": sys.base_exec_prefix, "installed_base": sys.base_prefix}


def _files(folder: Path) -> Iterator[Path]:
    for here, inner, names in os.walk(folder):
        inner[:] = sorted(
            name for name in inner if name not in LEFT_OUT and not name.startswith(("config-", "idle", "LICENSE"))
        )
        for name in sorted(names):
            wanted = name.endswith((".py", ".so", ".pyc")) and ".opt-" not in name
            if wanted and not (here.endswith("lib-dynload") and LEFT_OUT_MODULES.match(name)):
                yield Path(here) / name


def _packages(names: Sequence[str], *, whole: bool) -> Iterator[tuple[str, Path]]:
    for name in names:
        try:
            its_files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise ImageFailed(f"the package {name} is not installed here, and the image needs it") from error
        for file in its_files:
            path = Path(str(file.locate()))
            wanted = path.suffix in (".py", ".so") if not whole else not UNREAD & {path.suffix, *file.parts}
            if wanted and path.exists() and ".." not in file.parts:
                yield f"{PACKAGES_DIR}/{file}", path


def _shared_libraries(binaries: Iterable[Path]) -> list[Path]:
    """What the dynamic loader would load for these, and the loader itself."""
    try:
        said = subprocess.run(
            ["/usr/bin/env", "ldd", *map(str, binaries)], capture_output=True, text=True, check=False, timeout=60
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageFailed(f"ldd, which tells the libraries of this Python, does not run: {error}") from error
    found = {Path(match[1] or match[2]) for line in said.splitlines() if (match := ARROW.search(line))}
    if not found:
        raise ImageFailed("ldd names no libraries of this Python; build the image with `kadstorm images build`")
    return sorted(found)
