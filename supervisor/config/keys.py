"""The keys of a session and of an exporter: how each is checked, and what a change of it takes.

Pure. One table for the TOML reader, the JSON documents, the records and the difference that a
reload applies; docs/config.md describes the same keys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from supervisor.config import EXPORTER_POLICY, LogLimits, Policy, Readiness, Role, SessionSpec
from supervisor.config.values import (
    Named,
    Where,
    parse_exit_codes,
    parse_limits,
    parse_log,
    parse_mode,
    parse_names,
    parse_number,
    parse_page_path,
    parse_port,
    parse_positive,
    parse_ready,
    parse_restart,
    parse_seconds,
    parse_signal,
)
from supervisor.errors import UsageError
from telemetry.mode import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

EXPORTER_START_SECONDS: Final = 30.0
# An exporter that starts slowly gets ever longer, and is not given up.
_EXPORTER_START_LIMIT_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Key:
    """One setting. `live`: a change counts without a new incarnation."""

    parse: Callable[[object, Where], Any]
    of_policy: bool = False
    live: bool = False


SETTINGS: Final[Mapping[str, Key]] = {
    "mode": Key(parse_mode),
    "port": Key(parse_port),
    "path": Key(parse_page_path, live=True),
    "limits": Key(parse_limits),
    "start_after": Key(parse_names, live=True),
    "ready": Key(parse_ready, live=True),
    "log": Key(parse_log, live=True),
    "restart": Key(parse_restart, of_policy=True, live=True),
    "success_exit_codes": Key(parse_exit_codes, of_policy=True, live=True),
    "stop_signal": Key(parse_signal, of_policy=True, live=True),
    "stop_timeout_seconds": Key(parse_seconds, of_policy=True, live=True),
    "stable_seconds": Key(parse_seconds, of_policy=True, live=True),
    "backoff_seconds": Key(parse_positive, of_policy=True, live=True),
    "backoff_limit_seconds": Key(parse_positive, of_policy=True, live=True),
    "failure_limit": Key(parse_number, of_policy=True, live=True),
    "failure_window_seconds": Key(parse_positive, of_policy=True, live=True),
}
# What the reader of a file joins: with the file's folder, other files, or several sessions.
_JOINED: Final = ("command", "cwd", "env", "env_file")
SESSION_KEYS: Final = (*_JOINED, "count", *(key for key in SETTINGS if key != "path"))
EXPORTER_KEYS: Final = (
    *_JOINED,
    *("port", "path", "limits", "log", "stop_signal", "stop_timeout_seconds"),
    *("stable_seconds", "backoff_seconds", "backoff_limit_seconds"),
)


def build_spec(
    role: Role,
    settings: Mapping[str, Any],
    *,
    name: str,
    command: tuple[str, ...],
    cwd: Path,
    env: Mapping[str, str],
) -> SessionSpec:
    """Build a spec of settings that were checked one by one; what is not there is the default."""
    policy = EXPORTER_POLICY if role is Role.EXPORTER else Policy()
    ready: Readiness | None = settings.get("ready")
    start_limit = policy.start_timeout_limit_seconds
    if role is Role.EXPORTER and "port" in settings:
        ready = Readiness(port=settings["port"], timeout_seconds=EXPORTER_START_SECONDS)
        start_limit = _EXPORTER_START_LIMIT_SECONDS
    if ready is not None:
        policy = replace(
            policy,
            start_timeout_seconds=ready.timeout_seconds,
            start_timeout_limit_seconds=max(ready.timeout_seconds, start_limit),
        )
    of_policy = {key: value for key, value in settings.items() if SETTINGS[key].of_policy}
    own = {key: value for key, value in settings.items() if not SETTINGS[key].of_policy}
    return SessionSpec(
        **{**own, "ready": ready},
        role=role,
        name=name,
        command=command,
        cwd=cwd,
        env=env,
        policy=replace(policy, **of_policy) if of_policy else policy,
    )


def check_spec(spec: SessionSpec, where: Where) -> None:
    """Check what hangs together: a port of its own goes with mode A and with an exporter."""
    if spec.role is Role.EXPORTER:
        if spec.port is None:
            raise UsageError(
                f"{where}: no port", "write port = 9110, say: where it serves its page"
            )
        return
    if spec.mode is Mode.A and spec.port is None:
        raise UsageError(
            f"{where.at('mode')}: a session in mode A needs a port of its own",
            "write port = 9112, say: it serves its metrics there itself",
        )
    if spec.mode is Mode.B and spec.port is not None:
        raise UsageError(
            f"{where.at('port')}: only a session in mode A has a port of its own",
            'leave it out, or write mode = "A"; for a readiness: ready = { port = N }',
        )


def build_settings(spec: SessionSpec) -> dict[str, Any]:
    """Build the settings of a spec as JSON values, the defaults of its role left out."""
    default = build_spec(
        spec.role, {}, name=spec.name, command=spec.command, cwd=spec.cwd, env=spec.env
    )
    found = {}
    for name, key in SETTINGS.items():
        if name == "ready" and spec.role is Role.EXPORTER:  # it follows from the port
            continue
        value, usual = (
            getattr(each.policy if key.of_policy else each, name) for each in (spec, default)
        )
        if value != usual:
            found[name] = _dump(value)
    return found


def _dump(value: Any) -> Any:
    match value:
        case Readiness(port=port, http=http, timeout_seconds=seconds):
            own = {"port": port} if http is None else {"http": http}
            return {**own, "timeout_seconds": seconds}
        case LogLimits(max_bytes=size, backups=backups):
            return {"max_bytes": size, "backups": backups}
        case frozenset():
            return sorted(value)
        case tuple():
            return list(value)
        case str():
            return str(value)
        case _:
            return value


def parse_settings(document: Mapping[str, object], where: Where) -> dict[str, Any]:
    """Check the settings of a JSON document; raises UsageError. Unknown keys are left out."""
    return {
        name: key.parse(document[name], where.at(name))
        for name, key in SETTINGS.items()
        if name in document
    }


def read_settings(document: Mapping[str, object]) -> dict[str, Any]:
    """Read what can be read of the settings in a record; the rest becomes the default."""
    found: dict[str, Any] = {}
    for name, key in SETTINGS.items():
        if name not in document:
            continue
        try:
            found[name] = key.parse(document[name], Named("").at(name))
        except UsageError:
            continue
    return found
