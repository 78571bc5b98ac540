"""The environment of a child, from its spec and what it would inherit.

Pure. A session gets Mode B with both directories absolute, or Mode A with a port of its own;
metricsd and exporters get no shard directory at all, or their own metrics would become shards.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from supervisor.config import Role
from supervisor.gates import strip_credentials
from telemetry.mode import (
    LIBRARY_DIR_VARIABLE,
    LIBRARY_DIR_VARIABLES,
    MODE_VARIABLE,
    MULTIPROC_DIR_VARIABLE,
    PORT_VARIABLES,
    Mode,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from supervisor.config import SessionSpec

# What systemd tells the supervisor is for the supervisor alone.
_SUPERVISORS_OWN: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

SESSION_VARIABLE: Final = "PTSUP_SESSION"
SPAWN_VARIABLE: Final = "PTSUP_SPAWN"


@dataclass(frozen=True, slots=True)
class Starter:
    """The environment of whoever starts sessions: all of them share it, and nobody changes it."""

    given: Mapping[str, str]
    kept: Mapping[str, str]  # what of it a session may have
    stripped: tuple[str, ...]  # the credentials it may not have, by name


def build_starter(given: Mapping[str, str]) -> Starter:
    """Build what sessions inherit: no exchange credentials, and nothing that is for us alone."""
    kept, stripped = strip_credentials(given)
    for name in (*LIBRARY_DIR_VARIABLES, *_SUPERVISORS_OWN):
        kept.pop(name, None)
    return Starter(given, kept, stripped)


def build_session_environment(
    spec: SessionSpec,
    starter: Starter,
    *,
    multiproc_dir: Path,
    nonce: str,
    fallback_path: str,
) -> dict[str, str]:
    """Build what a session or an exporter sees: inherited, then configured, then what it needs.

    `fallback_path` (where our own interpreter lives) goes last on PATH: it finds a `python`
    only where there is no other.
    """
    environment = dict(starter.kept)
    # Output goes to a file; without this a Python session's lines come in blocks of 8 KiB.
    environment.setdefault("PYTHONUNBUFFERED", "1")
    environment.update(spec.env)
    path = environment.get("PATH", os.defpath)
    environment["PATH"] = os.pathsep.join(filter(None, [path, fallback_path]))
    # An exporter gets none of these (its own metrics would become shards), mode A not all.
    for name in (*LIBRARY_DIR_VARIABLES, MULTIPROC_DIR_VARIABLE, MODE_VARIABLE):
        environment.pop(name, None)
    if spec.role is Role.SESSION:
        environment.update(build_planned(spec, multiproc_dir))
    environment[SPAWN_VARIABLE] = nonce
    return environment


def build_planned(spec: SessionSpec, multiproc_dir: Path) -> dict[str, str]:
    """Build the variables that make a session ours: whatever it inherits, these are to be so."""
    own = {MODE_VARIABLE: str(spec.mode), SESSION_VARIABLE: spec.name}
    if spec.mode is Mode.A:
        return {**own, **dict.fromkeys(PORT_VARIABLES, str(spec.port))}
    return {
        **own,
        MULTIPROC_DIR_VARIABLE: str(multiproc_dir),
        LIBRARY_DIR_VARIABLE: str(multiproc_dir),
    }


def build_metricsd_environment(
    inherited: Mapping[str, str], *, package_root: Path, nonce: str
) -> dict[str, str]:
    """Build what metricsd sees: no shard directory, no credentials, our packages first."""
    environment = dict(build_starter(inherited).kept)
    # An operator's PYTHONPATH may be needed, but must not shadow `telemetry`.
    path = environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package_root), path]))
    environment[SPAWN_VARIABLE] = nonce
    return environment
