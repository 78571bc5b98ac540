"""What can be said of a run directory now: by its supervisor, or from what a dead one left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor import client
from supervisor.control import Request

if TYPE_CHECKING:
    from supervisor.rundir import RunDir


def read_report(run_dir: RunDir) -> tuple[dict[str, Any], bool]:
    """Read the status document (schema ptsup.status/1), and whether a supervisor gave it.

    Raises NothingRunsError when there is neither supervisor nor state.
    """
    connection = client.connect(run_dir)
    if connection is not None:
        return client.ask(connection, Request("status")), True
    from supervisor.orphans import read_dead_status  # noqa: PLC0415 - only a crash needs it

    dead = read_dead_status(run_dir)
    if dead is None:
        raise client.find_absence(run_dir)
    return dead, False
