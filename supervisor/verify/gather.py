"""What an evidence document tells of this machine besides the answers: versions, shards, owners.

It reads, and names nothing that says whose machine it is.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor import __version__
from supervisor.observe import read_command
from supervisor.verify.evidence import Facts
from telemetry.masking import mask_secrets

if TYPE_CHECKING:
    from supervisor.verify.snapshot import Snapshot


def gather(seen: Snapshot) -> Facts:
    """Gather the facts for a snapshot that was just taken."""
    status = seen.status
    owners: dict[str, tuple[str, ...]] = {}
    directory = ""
    if status:
        directory = str(status["shards"]["dir"])
        for role, pid in (
            ("holds the port", status["port"]["holder_pid"]),
            ("serves it", status["metricsd"]["pid"]),
        ):
            if pid:
                owners[role] = tuple(mask_secrets(read_command(pid)))
    return Facts(
        now=datetime.now(UTC),
        cwd=str(Path.cwd()),
        home=str(Path.home()),
        versions={
            "ptsup": __version__,
            "Python": sys.version.partition(" ")[0],
            "prometheus_client": _find_version("prometheus-client"),
        },
        directory=directory,
        shards=_list(Path(directory)) if directory else (),
        owners=owners,
    )


def _find_version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _list(directory: Path) -> tuple[tuple[str, int], ...]:
    """List the files below the shard directory, with their sizes; what goes meanwhile is gone."""
    found = []
    for path in sorted(directory.rglob("*")):
        try:
            if path.is_file():
                found.append((str(path.relative_to(directory)), path.stat().st_size))
        except OSError:
            continue
    return tuple(found)
