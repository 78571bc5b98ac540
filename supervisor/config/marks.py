"""What an incarnation was spawned by, to be told from anything else without being said.

Pure. A mark for each key, salted: it goes into a state file, where no value may stand. Four bytes
tell that a value is another one; of what it is they leave a million million candidates.
"""

from __future__ import annotations

import hashlib
import json
from posixpath import normpath
from typing import TYPE_CHECKING, Any, Final

from supervisor.config.keys import SETTINGS, build_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config import SessionSpec

_MARK_BYTES: Final = 4


def build_marks(spec: SessionSpec, salt: str) -> dict[str, str]:
    """Mark each key of a spec whose change takes another incarnation."""
    values: dict[str, Any] = {"command": spec.command, "cwd": normpath(spec.cwd)}
    values |= {key: value for key, value in build_settings(spec).items() if not SETTINGS[key].live}
    values |= {f"env.{name}": value for name, value in spec.env.items()}
    return {key: _mark(salt, value) for key, value in values.items()}


def _mark(salt: str, value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(
        text.encode(), key=salt.encode()[:64], digest_size=_MARK_BYTES
    ).hexdigest()


def diff_marks(spawned: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Name the keys that differ; none where nobody knows what it was spawned by."""
    keys = dict.fromkeys((*wanted, *spawned)) if spawned else ()
    return tuple(key for key in keys if spawned.get(key) != wanted.get(key))
