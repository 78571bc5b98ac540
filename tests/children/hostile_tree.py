"""A tree that does not want to go: each KIND in its own way, and every process says its pid.

    hostile_tree.py KIND [--gentle]

deaf: a leader and a worker that ignore TERM. escape: a worker that left by a double fork and
setsid. dying: forks another one at TERM, which leaves too. chain: each forks the next one, in a
session of its own, and then dies. log: a grandchild that holds the log open and nothing else.
newborn: forks one at TERM that hears nothing in its first half second, which Python does to the
signals between a fork and the child's first step. With --gentle they obey TERM, once the dying
have forked.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import NoReturn

KIND, GENTLE = sys.argv[1], "--gentle" in sys.argv


def say() -> None:
    os.write(1, f"pid {os.getpid()}\n".encode())


def stay() -> NoReturn:
    say()
    signal.signal(signal.SIGTERM, signal.SIG_DFL if GENTLE else signal.SIG_IGN)
    os.write(1, b"ready\n")
    while True:
        time.sleep(600)


def leave() -> None:
    """Go on in a process of another session whose parent is dead."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            stay()
        os._exit(0)


def fork_while_dying(_number: int, _frame: object) -> None:
    leave()
    if os.fork() == 0:
        stay()
    os._exit(3)


def fork_deaf_newborn(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        time.sleep(0.5)
        stay()
    os._exit(3)


def chain(length: int) -> None:
    if os.fork() == 0:
        os.setsid()
        if length:
            chain(length - 1)
        stay()


match KIND:
    case "deaf":
        if os.fork() == 0:
            stay()
    case "escape":
        leave()
    case "dying":
        signal.signal(signal.SIGTERM, fork_while_dying)
        say()
        os.write(1, b"ready\n")
        while True:
            time.sleep(600)
    case "newborn":
        signal.signal(signal.SIGTERM, fork_deaf_newborn)
        say()
        os.write(1, b"ready\n")
        while True:
            time.sleep(600)
    case "chain":
        chain(4)
    case "log":
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                stay()
            os._exit(0)
    case _:
        sys.exit(f"no such kind: {KIND}")
stay()
