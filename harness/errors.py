"""Everything that the harness raises, in one tree; whose fault it is decides the exit code.

    KadstormError                 exit code 3 unless a branch says otherwise
    ├── UsageError                2: the command line or an experiment file is wrong; nothing was started
    │   └── ExperimentError       2: carries every mistake of the file, each with line and column
    ├── HarnessError              3: the harness or the machine failed
    │   ├── ToxiproxyUnavailable      no binary could be found or built
    │   ├── ToxiproxyFailed           the server died, or its API answered with an error or not at all
    │   │   └── ToxiproxySilent           its API took the request and did not answer in time
    │   ├── PortsTaken                no free block of ports or addresses
    │   ├── MemberFailed              a node did not start, or did not become ready
    │   ├── EngineUnavailable         no container engine answers
    │   ├── EngineFailed              the engine refused a request, or stopped answering
    │   │   └── ImageFailed               an image could not be built
    │   ├── LoadFailed                a load worker did not start, died, or broke the protocol
    │   └── RunFolderExists           a result would have been overwritten
    └── TargetError               3: a node answered something that its protocol does not allow, or not at all

Foreign errors (sockets, HTTP, subprocesses, YAML, pydantic) are translated where they enter, once, and keep their
cause. Nobody else in the harness catches them.
"""

from __future__ import annotations


class KadstormError(Exception):
    """Base of all errors that Kadstorm raises on purpose. Its text is shown to the user as it is."""

    exit_code = 3


class UsageError(KadstormError):
    """The command line or a file that the user wrote is wrong. Nothing was started."""

    exit_code = 2


class ExperimentError(UsageError):
    """One or more mistakes in an experiment or plan file. ``mistakes`` holds one line of text for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class HarnessError(KadstormError):
    """The harness or the machine failed; the experiment says nothing about the system under test."""


class ToxiproxyUnavailable(HarnessError):
    """No usable Toxiproxy binary could be found, built or downloaded; the text says what was tried."""


class ToxiproxyFailed(HarnessError):
    """Toxiproxy died, or its API refused a request or did not answer in time."""


class ToxiproxySilent(ToxiproxyFailed):
    """Toxiproxy's API did not answer in time. It is frozen or overloaded, so trying again at once only waits again."""


class PortsTaken(HarnessError):
    """No free loopback address or block of ports for a session."""


class MemberFailed(HarnessError):
    """A node could not be started or never became ready; the text has its exit code and the end of its log."""


class EngineUnavailable(HarnessError):
    """No container engine answers; the text says what was tried and what to do."""


class EngineFailed(HarnessError):
    """The container engine refused a request, or stopped answering."""


class ImageFailed(EngineFailed):
    """An image could not be built; the text has the end of the build's output."""


class LoadFailed(HarnessError):
    """A load worker could not be started, died, or did not keep to the control protocol."""


class RunFolderExists(HarnessError):
    """The run folder asked for exists already; nothing was overwritten."""


class TargetError(KadstormError):
    """A node's answer could not be had or could not be understood."""
