"""What commands share: kinds of options, where things are, what the configuration says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from supervisor.config import DEFAULT_FILE, DEFAULT_RUN_DIR, RUN_DIR_VARIABLE
from supervisor.errors import UsageError
from supervisor.rundir import RunDir

if TYPE_CHECKING:
    from supervisor.config import Config
    from supervisor.config.flags import Flags


class Number(click.ParamType[Any]):
    """A number for an option, with a name a person would give it in an error."""

    def __init__(self, kind: type[int | float], name: str) -> None:
        self.kind = kind
        self.name = name

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Make the number of what was typed."""
        try:
            number = self.kind(value)
        except ValueError:
            self.fail(f"{value!r} is not a {self.name}", parameter, context)
        if isinstance(number, float) and not 0 <= number < float("inf"):
            self.fail(f"{value!r} is not a {self.name}, 0 or more", parameter, context)
        return number


SECONDS: Final = Number(float, "number of seconds")
PORT: Final = Number(int, "port number")


def _read_run_dir(_context: click.Context, _option: click.Parameter, value: str) -> RunDir:
    if not value.strip():
        raise UsageError("--run-dir: it is empty", "leave it out for the default")
    try:
        # Links resolved: the lock, the socket and the records go by the directory itself.
        return RunDir(Path(os.path.realpath(value)))
    except FileNotFoundError:
        raise UsageError(
            "cannot find the working directory: it was removed", "cd to one that is there"
        ) from None


def complete_names(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Complete the names of the sessions a supervisor (alive or dead) knows."""
    default = os.environ.get(RUN_DIR_VARIABLE) or DEFAULT_RUN_DIR
    run_dir = RunDir(Path.cwd() / (context.params.get("run_dir") or default))
    return [name for name in run_dir.list_sessions() if name.startswith(incomplete)]


run_dir_option = click.option(
    "--run-dir",
    metavar="DIR",
    envvar=RUN_DIR_VARIABLE,
    default=DEFAULT_RUN_DIR,
    show_default=True,
    callback=_read_run_dir,
    help="Where this supervisor keeps its lock, state, control socket and logs "
    f"[env: {RUN_DIR_VARIABLE}].",
)
names_argument = click.argument(
    "names", metavar="[NAME...]", nargs=-1, shell_complete=complete_names
)


def read_config(file: str | None, flags: Flags, taken: frozenset[str]) -> Config:
    """Join flags, file (None: ptsup.toml, if there is one and it is wanted) and environment.

    `taken` are names that sessions have already. Raises UsageError.
    """
    # Most commands ask a supervisor, and read no configuration.
    from supervisor.config.flags import Fallback, build_config
    from supervisor.config.toml import FileConfig
    from supervisor.config_file import read_config_file
    from telemetry.mode import parse_multiproc_dir, parse_port

    cwd = Path.cwd()
    try:
        fallback = Fallback(
            port=parse_port(os.environ), multiproc_dir=parse_multiproc_dir(os.environ)
        )
    except ValueError as error:
        raise UsageError(str(error), "unset it, or give a port with --port") from None
    path = cwd / (file or DEFAULT_FILE)
    found = FileConfig()
    if file is not None or (path.exists() and not (flags.sessions or flags.command)):
        found = read_config_file(path)
    return build_config(flags, found, fallback, cwd, taken)


def say_sessions(sessions: list[dict[str, Any]], *, failing: set[str]) -> int:
    """Say a line of each; 1 when any is in a state that means that this command failed."""
    from supervisor.words import render_process
    from telemetry.plain import escape

    code = 0
    for session in sessions:
        failed = session["state"] in failing
        click.echo(f"ptsup: {escape(render_process(session))}", err=failed)
        code = 1 if failed else code
    return code
