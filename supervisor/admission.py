"""What a session passes before it is spawned: the gates first, then whether it can run.

Nothing is started here; a refusal is a PtsupError and leaves no trace.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.environ import build_session_environment
from supervisor.errors import GateError, UsageError
from supervisor.gates import (
    build_unchecked,
    find_refusal,
    find_refusal_in_file,
)
from supervisor.gates.files import FILES_LIMIT, find_config_names
from supervisor.gates.refusal import FILE_LIMIT_BYTES
from supervisor.spawn import check_command, check_limits

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from supervisor.config import SessionSpec
    from supervisor.environ import Starter
    from supervisor.gates import Refusal
    from supervisor.gates.files import ConfigName

# Where the interpreter lives that ptsup is installed in.
OWN_BIN: Final = str(Path(sys.executable).parent)
# The session could not open it either: it may be what it is going to write.
_ABSENT: Final = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}


@dataclass(frozen=True, slots=True)
class Passed:
    """How a session's command and environment, which never change, passed the gates."""

    denied: tuple[str, ...]  # under this list
    configs: tuple[ConfigName, ...]  # naming these files, which do change


@dataclass(frozen=True, slots=True)
class Admitted:
    """A session that may be spawned, and the environment it inherits."""

    spec: SessionSpec
    starter: Starter
    missing: tuple[str, ...] = ()  # what of it nobody could tell us after a crash
    # The keys by which it is otherwise than what it was spawned by, if it runs from before a crash.
    outdated: tuple[str, ...] = ()
    passed: Passed | None = None

    def build_environment(self, multiproc_dir: Path, nonce: str) -> dict[str, str]:
        """Build the environment of its next incarnation."""
        return build_session_environment(
            self.spec,
            self.starter,
            multiproc_dir=multiproc_dir,
            nonce=nonce,
            fallback_path=OWN_BIN,
        )


def check_gates(
    spec: SessionSpec, inherited: Mapping[str, str], denied: Collection[str] = ()
) -> None:
    """Refuse what could trade live; raises GateError naming the variable, argument or key."""
    refusal = find_gate_refusal(spec, inherited, denied)
    if refusal is not None:
        raise GateError(f"cannot start {spec.name}: {refusal.message}", refusal.hint)


def find_gate_refusal(
    spec: SessionSpec, inherited: Mapping[str, str], denied: Collection[str] = ()
) -> Refusal | None:
    """Find what forbids a session: in its environment, its words, the files these name."""
    refusal = find_refusal(spec.command, inherited=inherited, configured=spec.env, denied=denied)
    return refusal or _find_refusal_in_files(spec, _find_configs(spec, inherited), denied)


def check_gates_again(member: Admitted, denied: Collection[str]) -> None:
    """Refuse one that was admitted, before it is spawned; raises GateError.

    The files it names are read each time; its words and variables count as they were judged.
    """
    spec, passed = member.spec, member.passed
    if passed is None or passed.denied != tuple(denied):
        check_gates(spec, member.starter.given, denied)
    elif (refusal := _find_refusal_in_files(spec, passed.configs, denied)) is not None:
        raise GateError(f"cannot start {spec.name}: {refusal.message}", refusal.hint)


def _find_configs(spec: SessionSpec, inherited: Mapping[str, str]) -> tuple[ConfigName, ...]:
    return find_config_names(spec.command, inherited=inherited, configured=spec.env)


def _find_refusal_in_files(
    spec: SessionSpec, configs: Sequence[ConfigName], denied: Collection[str]
) -> Refusal | None:
    left = FILE_LIMIT_BYTES
    for number, config in enumerate(configs):
        try:
            content = _read_config(spec.cwd / config.name, left)
            if content is None:
                continue
            text = content.decode()
        except OSError as error:
            detail = error.strerror
        except UnicodeDecodeError:
            detail = "not UTF-8 text"
        else:
            left -= len(content)
            refusal = find_refusal_in_file(config, text, denied=denied)
            if refusal is not None:
                return refusal
            detail = "it is one file too many" if number >= FILES_LIMIT else ""
        if detail and config.certain:
            return build_unchecked(config, detail)
    return None


def _read_config(path: Path, limit: int) -> bytes | None:
    """Read a configuration file; None where there is none. Raises OSError.

    Regular files only, and never more than `limit`: a session's command names them, and
    whoever reads them here supervises all the others.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise OSError(errno.EFBIG, "too long")
    return content


def check_complete(member: Admitted) -> None:
    """Refuse to spawn a session that was adopted and is not known whole; raises UsageError."""
    if member.missing:
        raise UsageError(
            f"cannot restart {member.spec.name}: the start that adopted it was not given "
            f"{member.missing[0]}, and values are never written down",
            f"stop it with `ptsup stop {member.spec.name}`, then start it anew",
        )


def admit(
    spec: SessionSpec,
    starter: Starter,
    multiproc_dir: Path,
    denied: Collection[str] = (),
) -> Admitted:
    """Let a session in; raises GateError or UsageError. `denied` extends the list of NO-LIVE."""
    check_gates(spec, starter.given, denied)
    passed = Passed(tuple(denied), _find_configs(spec, starter.given))
    admitted = Admitted(spec, starter, passed=passed)
    try:
        check_limits(spec.limits)
        check_command(spec.command, spec.cwd, admitted.build_environment(multiproc_dir, ""))
    except UsageError as error:
        raise UsageError(f"cannot start {spec.name}: {error.message}", error.hint) from None
    return admitted
