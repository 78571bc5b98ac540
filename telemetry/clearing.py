"""Clearing the shard directory as both metricsd and the supervisor do it at a fresh start.

Never a shard that a living process holds open: it stays, and is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from telemetry.holders import Holder, find_file_holders
from telemetry.shards import clear, list_clearable

if TYPE_CHECKING:
    from pathlib import Path


def clear_unheld(directory: Path) -> dict[Path, tuple[Holder, ...]]:
    """Remove what a former run left; give back the shards that stayed, with their holders.

    Raises ValueError when the directory may not be cleared, OSError when it cannot be.
    """
    seen = list_clearable(directory)
    held = find_file_holders(seen)
    clear(directory, held, seen=seen)
    return held
