"""Linux: the lock of a spawn is a name in the kernel, which nobody has to make a file for.

An abstract unix socket (unix(7)): it is bound as long as anybody holds it, and leaves nothing.
Nobody can send anything to a stream that does not listen.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SOCKETS: Final = Path("/proc/net/unix")
# As it says so there. Each type has its own names: any user may bind ours as another one.
_STREAM: Final = f"{socket.SOCK_STREAM:04x}"


@dataclass(frozen=True, slots=True)
class SpawnLock:
    """The lock of the one incarnation that is spawned with a nonce; it inherits it.

    Other users see the name, and are not to learn the nonce by it.
    """

    directory: Path  # of the state: nothing of it lies there
    nonce: str

    @property
    def name(self) -> str:
        """The name, as it is bound behind a null byte."""
        return f"ptsup-{hashlib.blake2b(self.nonce.encode(), digest_size=16).hexdigest()}"

    def take(self) -> int:
        """Take it, give back the descriptor to be inherited; raises OSError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
            lock.bind(f"\0{self.name}")
            return lock.detach()

    def is_held(self) -> bool:
        """Whether anybody lives who inherited it; for a moment we have it ourselves. OSError."""
        try:
            os.close(self.take())
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
        return False

    def find(self) -> tuple[int, int] | None:
        """Find its inode and device, for who holds it to be looked for; None if nobody does."""
        with socket.socket(socket.AF_UNIX) as other:
            device = os.fstat(other.fileno()).st_dev  # that of all sockets
        line = re.compile(rf"\S+: \S+ \S+ \S+ {_STREAM} \S+ +(\d+) @{self.name}")
        lines = _SOCKETS.read_text(errors="replace").split("\n")
        inodes = [int(found[1]) for found in map(line.fullmatch, lines) if found]
        # A line break may stand in a name: whoever has bound such a one may have written a line.
        return (inodes[0], device) if len(inodes) == 1 else None

    def remove(self) -> None:
        """Do nothing: it is gone with whoever had it."""

    def __str__(self) -> str:
        """Tell a person what it is, and by what to find who holds it."""
        return f"the unix socket @{self.name} (ss -xap)"
