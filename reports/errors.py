"""What `reports/` raises on purpose.

    ReportError                  the text is shown to the user as it is; exit code 3
    ├── RunFolderError           2: the folder is no run folder, or something in it cannot be read; the file is named
    ├── ReportUsageError         2: a tolerance, filter or format that there is not
    └── ReportWriteError         3: the disk is full, or the folder cannot be written

Foreign errors of pyarrow, msgspec and the operating system become these where files are opened, and keep their cause.
"""

from __future__ import annotations


class ReportError(Exception):
    """Base of all errors of this package."""

    exit_code = 3


class RunFolderError(ReportError):
    """Not a run folder, or a file in it that is foreign, broken or of a newer version."""

    exit_code = 2


class ReportWriteError(ReportError):
    """A result could not be written; what was there before is as it was."""


class ReportUsageError(ReportError):
    """An option that means nothing; the text says what would."""

    exit_code = 2
