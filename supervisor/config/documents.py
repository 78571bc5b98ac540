"""Session specs as JSON documents, read back: whatever comes over a socket is checked anew.

Pure. `SessionSpec.to_document` writes them.
"""

from __future__ import annotations

from pathlib import Path

from supervisor.config import Policy, SessionSpec
from supervisor.config.values import (
    parse_command,
    parse_env,
    parse_restart,
    parse_seconds,
    parse_session_name,
)
from supervisor.errors import UsageError


def parse_session_document(document: object) -> SessionSpec:
    """Read back what `SessionSpec.to_document` wrote; raises UsageError."""
    if not isinstance(document, dict):
        raise UsageError("a session is not a JSON object")
    name = parse_session_name(document.get("name"), "session")
    where = f"session {name}"
    cwd = document.get("cwd")
    if not isinstance(cwd, str) or not cwd.startswith("/") or "\0" in cwd:
        raise UsageError(f"{where}: the working directory is not absolute")
    default = Policy()
    timeout = document.get("stop_timeout_seconds", default.stop_timeout_seconds)
    policy = Policy(
        restart=parse_restart(document.get("restart", default.restart), where),
        stop_timeout_seconds=parse_seconds(timeout, where),
    )
    return SessionSpec(
        name=name,
        command=parse_command(document.get("command"), where),
        cwd=Path(cwd),
        env=parse_env(document.get("env", {}), where),
        policy=policy,
    )
