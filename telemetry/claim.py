"""What happens to the shards of a dead process: its live gauges leave the directory.

It removes and waits for nobody; it never touches the shards of another pid.
"""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def mark_dead(directory: Path, pid: int) -> None:
    """Remove the `gauge_live*` shards of a dead pid; its other shards keep counting.

    A missing directory or a missing prometheus_client is no error; OSError is, when a shard
    cannot be removed.
    """
    try:
        # Imported here: only a death needs it, and nothing may need it at all.
        from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415
    except ImportError:
        return
    # The library looks for the files with glob, for which a bracket in a path is a pattern.
    path = glob.escape(str(directory))
    mark_process_dead(pid, path)  # type: ignore[no-untyped-call]  # the library's gap
