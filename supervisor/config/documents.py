"""Session specs as JSON documents: for the control socket, and what a record says of one.

Pure. Whatever comes over a socket is checked anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.config import Role
from supervisor.config.keys import build_settings, build_spec, check_spec, parse_settings
from supervisor.config.values import Named, parse_command, parse_env, parse_session_name
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from supervisor.config import SessionSpec


def build_document(spec: SessionSpec) -> dict[str, Any]:
    """Build the JSON document of a spec; that it stands in a file is the file's matter alone."""
    return {
        "role": str(spec.role),
        "name": spec.name,
        "command": list(spec.command),
        "cwd": str(spec.cwd),
        "env": dict(spec.env),
        **build_settings(spec),
    }


def parse_session_document(document: object) -> SessionSpec:
    """Read back what `build_document` wrote; raises UsageError."""
    if not isinstance(document, dict):
        raise UsageError("a session is not a JSON object")
    name = parse_session_name(document.get("name"), "session")
    role = document.get("role", Role.SESSION)
    if role not in list(Role):
        raise UsageError(f"session {name}: neither a session nor an exporter")
    where = f"{role} {name}"
    cwd = document.get("cwd")
    if not isinstance(cwd, str) or not cwd.startswith("/") or "\0" in cwd:
        raise UsageError(f"{where}: the working directory is not absolute")
    spec = build_spec(
        Role(role),
        parse_settings(document, Named(where)),
        name=name,
        command=parse_command(document.get("command"), where),
        cwd=Path(cwd),
        env=parse_env(document.get("env", {}), where),
    )
    check_spec(spec, Named(where))
    return spec
