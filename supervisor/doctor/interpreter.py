"""Asks a session's own interpreter whether it can import prometheus_client.

The same program with the same options, directory and environment, less what is secret and what
would make it a session or a writer of shards; for some seconds, and with no input.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.doctor.facts import Library
from supervisor.environ import SESSION_VARIABLE, SPAWN_VARIABLE
from supervisor.gates import strip_credentials
from telemetry.masking import looks_secret
from telemetry.mode import LIBRARY_DIR_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LIMIT_SECONDS: Final = 10.0
_DROPPED: Final = frozenset({SESSION_VARIABLE, SPAWN_VARIABLE, *LIBRARY_DIR_VARIABLES})
# Options that change where modules come from; all others are the program's affair.
_OPTIONS: Final = frozenset("EIPSs")
_MISSING: Final = 3
_QUESTION: Final = f"""
import importlib.util, sys
sys.exit(0 if importlib.util.find_spec("prometheus_client") else {_MISSING})
"""


def find_python(words: Sequence[str], executable: str, cwd: str, path: str) -> str:
    """Find the interpreter of a process, as it was called: its name leads to its packages.

    "" for a program that is no Python.
    """
    if "python" not in Path(executable).name:
        return ""
    called = words[0] if words else ""
    if "python" not in Path(called).name:
        return executable  # it calls itself otherwise
    if "/" in called:
        return str(Path(cwd) / called)
    return shutil.which(called, path=path or os.defpath) or executable


def ask_python(python: str, words: Sequence[str], environ: Mapping[str, str], cwd: str) -> Library:
    """Ask whether prometheus_client can be found."""
    kept, _ = strip_credentials(environ)
    plain = {n: v for n, v in kept.items() if n not in _DROPPED and not looks_secret(n)}
    command = [python, *_find_options(words), "-c", _QUESTION]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=plain,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return Library.UNKNOWN
    found = {0: Library.THERE, _MISSING: Library.MISSING}
    return found.get(done.returncode, Library.UNKNOWN)


def _find_options(words: Sequence[str]) -> list[str]:
    """Find the interpreter's own options before the program: -S, -I and their like."""
    options = []
    for word in words[1:]:
        if not word.startswith("-") or word in {"-", "-c", "-m"}:
            break
        options += [f"-{letter}" for letter in word[1:] if letter in _OPTIONS]
    return options
