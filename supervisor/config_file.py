"""Reads the configuration file, and the files it names."""

from __future__ import annotations

import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from supervisor.config.toml import FileConfig, Unreadable, find_env_files, parse_toml
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

# Nothing sensible is larger.
_LIMIT_BYTES: Final = 16 << 20


def read_config_file(path: Path, *, again: bool = False) -> FileConfig:
    """Read and check the file (absolute); raises UsageError with its line and key.

    A pipe can be read once: `again` refuses it, and afterwards there is no file to go back to.
    """
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
        if again and not regular:
            raise UsageError(f"cannot read {path}: not a regular file")
        text = _read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {_find_reason(error)}") from None
    found = parse_toml(text, path, {each: _read_env(each) for each in find_env_files(text, path)})
    return found if regular else replace(found, path=None)


def _find_reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8 text"


def _read_text(path: Path) -> str:
    """Read a whole text, of a pipe too (`-f <(…)`)."""
    with path.open("rb") as file:
        data = file.read(_LIMIT_BYTES + 1)
    if len(data) > _LIMIT_BYTES:
        raise OSError(0, f"larger than {_LIMIT_BYTES >> 20} MB")
    return data.decode("utf-8")


def _read_env(path: Path) -> str | Unreadable:
    """Read a file that is read again at each reload: no pipe, which might never answer."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Unreadable("not a regular file")
        return _read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        return Unreadable(_find_reason(error))
