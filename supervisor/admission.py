"""What a session passes before it is spawned: the gates first, then whether it can run.

Nothing is started here; a refusal is a PtsupError and leaves no trace.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.environ import build_session_environment
from supervisor.errors import GateError, UsageError
from supervisor.gates import find_refusal, strip_credentials
from supervisor.spawn import check_command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config import SessionSpec

# Where the interpreter lives that ptsup is installed in.
OWN_BIN: Final = str(Path(sys.executable).parent)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A session that may be spawned, and the environment it inherits."""

    spec: SessionSpec
    inherited: Mapping[str, str]
    missing: tuple[str, ...] = ()  # what of it nobody could tell us after a crash

    @property
    def stripped(self) -> tuple[str, ...]:
        """The credentials it would have inherited, by name: left out of its environment."""
        return strip_credentials(self.inherited)[1]

    def build_environment(self, multiproc_dir: Path, nonce: str) -> dict[str, str]:
        """Build the environment of its next incarnation."""
        return build_session_environment(
            self.spec,
            self.inherited,
            multiproc_dir=multiproc_dir,
            nonce=nonce,
            fallback_path=OWN_BIN,
        )


def check_gates(spec: SessionSpec, inherited: Mapping[str, str]) -> None:
    """Refuse what could trade live; raises GateError naming the variable or argument."""
    refusal = find_refusal(spec.command, inherited=inherited, configured=spec.env)
    if refusal is not None:
        raise GateError(f"cannot start {spec.name}: {refusal.message}", refusal.hint)


def check_complete(member: Admitted) -> None:
    """Refuse to spawn a session that was adopted and is not known whole; raises UsageError."""
    if member.missing:
        raise UsageError(
            f"cannot restart {member.spec.name}: the start that adopted it was not given "
            f"{member.missing[0]}, and values are never written down",
            f"stop it with `ptsup stop {member.spec.name}`, then start it anew",
        )


def admit(spec: SessionSpec, inherited: Mapping[str, str], multiproc_dir: Path) -> Admitted:
    """Let a session in; raises GateError or UsageError."""
    check_gates(spec, inherited)
    admitted = Admitted(spec, dict(inherited))
    try:
        check_command(spec.command, spec.cwd, admitted.build_environment(multiproc_dir, ""))
    except UsageError as error:
        raise UsageError(f"cannot start {spec.name}: {error.message}", error.hint) from None
    return admitted
