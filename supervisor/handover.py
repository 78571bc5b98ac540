"""Gives new sessions to the supervisor that runs already, with their caller's environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor import client
from supervisor.config.diff import build_stack_settings, diff_settings
from supervisor.config.documents import build_document
from supervisor.control import Request
from supervisor.errors import PortHeldError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config import Config
    from supervisor.rundir import RunDir


def hand_over(
    config: Config, environ: Mapping[str, str], run_dir: RunDir, *, ready: bool
) -> list[dict[str, Any]]:
    """Hand the sessions over and give back what became of each; raises PtsupError.

    With `ready` it waits until they are, or will not be by themselves.
    """
    connection = client.connect(run_dir)
    own = run_dir.read_own()
    if connection is None:
        raise client.build_silence(own.get("pid"))
    if not config.members:
        raise PortHeldError(
            f"cannot start: a supervisor (pid {own.get('pid')}) runs in {run_dir.path} already",
            "give it sessions, or stop it with `ptsup stop`",
        )
    _check_agreement(config, own)
    documents = [build_document(spec) for spec in config.members]
    parameters = {
        "sessions": documents,
        "environ": dict(environ),
        "denied": list(config.denied),
        "ready": ready,
    }
    request = Request("start", parameters)
    sessions: list[dict[str, Any]] = client.ask(connection, request, None)["sessions"]
    return sessions


def _check_agreement(config: Config, own: Mapping[str, Any]) -> None:
    """Refuse what was given and is otherwise there: it would be ignored."""
    wanted = {
        "host": config.host,
        "port": config.port,
        "multiproc_dir": str(config.multiproc_dir),
    }
    for name in sorted(config.given & wanted.keys()):
        if wanted[name] != own.get(name):
            raise UsageError(
                f"cannot start: the supervisor that runs here has {name} {own.get(name)}, "
                f"not {wanted[name]}",
                "leave it out, or start another with its own --run-dir, --port and --multiproc-dir",
            )


def render_left_out(config: Config, own: Mapping[str, Any]) -> list[str]:
    """Say of each setting of the stack as a whole that it stays as it is there, and what to do.

    What NO-LIVE refuses besides is handed over: the list only grows.
    """
    differ = diff_settings(own.get("settings", {}), build_stack_settings(config))
    file, read = config.file or "the file", own.get("file")
    how = f"it reads none: `ptsup stop`, then `ptsup start -f {file}`"
    if read is not None:
        here = read == str(config.file)
        how = f"{'' if here else f'write it into {read}, then '}`ptsup reload` takes it over"
    return [
        f"{file}: {key} is left as the supervisor that runs has it; {how}"
        for key in differ
        if key in config.given
    ]
