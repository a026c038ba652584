"""Everything that node/ raises, in one tree.

NodeError
├── ConfigurationError     the command line is wrong; nothing was started (exit code 2)
├── ListenError            the address cannot be listened on (exit code 1)
├── StorageError           the folder for records cannot be used (exit code 1)
├── WireError              bytes that are no frame of ours: that connection is closed, nothing else is hurt
├── RpcError               an RPC to a contact did not get its answer
│   ├── RpcTimeout             no answer before the deadline
│   ├── RpcRefused             the contact could not be dialled
│   ├── RpcDisconnected        the connection was lost while waiting
│   └── RpcLeaving             the contact is about to be gone
└── ClientError            a client's request to its gateway did not get its answer
    ├── ClientTimeout
    ├── ClientRefused
    ├── ClientDisconnected
    └── ClientProtocolError    the answer is of another cluster, or cannot be understood; or the request does not fit
"""

from __future__ import annotations


class NodeError(Exception):
    """Base of all errors that node/ raises on purpose."""


class ConfigurationError(NodeError):
    """The command line is wrong; the text names the option, what was expected and what was given."""


class ListenError(NodeError):
    """The node's address cannot be listened on."""


class StorageError(NodeError):
    """The folder in which records are to be kept cannot be used."""


class WireError(NodeError):
    """A frame is too long, of another cluster, or cannot be decoded."""


class RpcError(NodeError):
    """An RPC to a contact failed. ``outcome`` is the word that reports use."""

    outcome = "error"


class RpcTimeout(RpcError):
    """No answer before the deadline."""

    outcome = "timeout"


class RpcRefused(RpcError):
    """The contact could not be dialled. ``dead`` says whether that shows that nobody is there."""

    outcome = "refused"

    def __init__(self, text: str, *, dead: bool = True) -> None:
        super().__init__(text)
        self.dead = dead


class RpcDisconnected(RpcError):
    """The connection was lost before the answer came."""

    outcome = "disconnected"


class RpcLeaving(RpcError):
    """The contact answered that it is leaving."""


class ClientError(NodeError):
    """A client's request to its gateway failed."""


class ClientTimeout(ClientError):
    """The gateway did not answer in time."""


class ClientRefused(ClientError):
    """The gateway could not be connected to."""


class ClientDisconnected(ClientError):
    """The connection was lost before the answer came."""


class ClientProtocolError(ClientError):
    """The answer belongs to another cluster or is no message of ours, or the request is too long for one."""
