"""What an incarnation was spawned by, to be told from anything else without being said.

Pure. A mark for each key, salted: it goes into the journal, where no value may stand. Four bytes
tell that a value is another one, and fit too many to say which; who may read them may read the
environment of the process itself.
"""

from __future__ import annotations

import hashlib
from posixpath import normpath
from typing import TYPE_CHECKING, Final

from telemetry.mode import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config import SessionSpec

_MARK_BYTES: Final = 4
# How they are made. What another ptsup marked otherwise says nothing, and not that all has changed.
_KIND: Final = "3-"


def build_marks(spec: SessionSpec, salt: str) -> dict[str, str]:
    """Mark each key of a spec whose change takes another incarnation.

    A key of which nobody says anything has none: most are so, and each mark takes its time.
    """
    values = {"command": "\0".join(spec.command), "cwd": normpath(spec.cwd)}
    if spec.mode is not Mode.B:
        values["mode"] = str(spec.mode)
    if spec.port is not None:
        values["port"] = str(spec.port)
    if spec.limits:
        values["limits"] = str(sorted(spec.limits.items()))
    values |= {f"env.{name}": value for name, value in spec.env.items()}
    secret = salt.encode()[:64]
    return {key: _mark(secret, value) for key, value in values.items()}


def _mark(key: bytes, value: str) -> str:
    data = value.encode(errors="surrogatepass")  # it may be in no encoding at all
    return _KIND + hashlib.blake2b(data, key=key, digest_size=_MARK_BYTES).hexdigest()


def diff_marks(spawned: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Name the keys that differ; none where nobody knows what it was spawned by."""
    known = spawned and all(mark.startswith(_KIND) for mark in spawned.values())
    keys = dict.fromkeys((*wanted, *spawned)) if known else ()
    return tuple(key for key in keys if spawned.get(key) != wanted.get(key))
