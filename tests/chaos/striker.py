"""Strikes a process when its fold is at what is aimed at. Says when that was, and at what.

    striker.py PIDFD SIGNAL RETIRED AIM MOMENT_SECONDS TIMEOUT_SECONDS

A process of its own: what is aimed at lasts for less than a millisecond, and a thread among
others would come too late. What never comes is not waited for longer than the timeout.
"""

import os
import signal
import sys
import time
from contextlib import suppress


def list_names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names, as fast as can be
    except OSError:
        return []


def read_inode(path: str) -> int:
    try:
        return os.stat(path).st_ino  # noqa: PTH116
    except OSError:
        return 0


class Aim:
    """Looks whether the fold is at `aim`, since when it began to look."""

    def __init__(self, aim: str, retired: str) -> None:
        self._aim = aim
        self._retired = retired
        self._base = read_inode(f"{retired}/base")
        self._seen: dict[str, int] = {}

    def is_reached(self) -> bool:
        match self._aim:
            case "a claim is there":
                return bool(self._list_claims())
            case "a base is being written":
                return bool(read_inode(f"{self._retired}/base.tmp"))
            case "a base was published":
                return read_inode(f"{self._retired}/base") != self._base
            case "claims are being removed":
                return self._is_removing()
            case _:
                return True

    def _list_claims(self) -> list[str]:
        return [name for name in list_names(self._retired) if name.startswith("claim-")]

    def _is_removing(self) -> bool:
        now = {name: len(list_names(f"{self._retired}/{name}")) for name in self._list_claims()}
        before, self._seen = self._seen, now
        return any(now.get(name, 0) < files for name, files in before.items())


def main(descriptor: str, number: str, retired: str, name: str, moment: str, timeout: str) -> None:
    aim = Aim(name, retired)
    deadline = time.monotonic() + float(timeout)
    while not (reached := aim.is_reached()) and time.monotonic() < deadline:
        time.sleep(0.00005)
    if float(moment):
        time.sleep(float(moment))
    struck_at = time.monotonic()  # the same clock for all processes
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(int(descriptor), int(number))
    print(struck_at, name if reached else "any moment")


if __name__ == "__main__":
    main(*sys.argv[1:])
