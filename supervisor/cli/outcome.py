"""The way out: every error is one line on stderr, a hint, and its exit code."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from supervisor.errors import PtsupError, UsageError
from telemetry.plain import escape

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def run(command: click.Command, name: str) -> NoReturn:
    """Run a command as a whole program, and exit with the code that it or its error means."""
    _open_closed_stdio()
    try:
        code = _run(command, name)
        sys.stdout.flush()
    except OSError:
        # Whoever read our output is gone; nothing more can be said, and at exit nothing tried.
        code = 1
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _open_closed_stdio() -> None:
    """See that 0, 1 and 2 are open: else the next lock or socket would become one of them."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _run(command: click.Command, name: str) -> Any:
    try:
        return command.main(prog_name=name, standalone_mode=False)
    except PtsupError as error:
        return _fail(error)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        hint = f"see `{_find_path(command, error, name)} --help`"
        return _fail(UsageError(error.format_message(), hint))
    except (KeyboardInterrupt, click.exceptions.Abort):
        return _fail(PtsupError("interrupted"), 130)
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise  # of our own output
        return _fail(PtsupError(f"cannot go on: {error.strerror}", "see `ulimit -a`"))


def _fail(error: PtsupError, code: int | None = None) -> int:
    click.echo(f"ptsup: {escape(error.message)}", err=True)
    if error.hint:
        click.echo(f"  hint: {escape(error.hint)}", err=True)
    return error.exit_code if code is None else code


def _find_path(command: click.Command, error: click.ClickException, name: str) -> str:
    if isinstance(error, click.UsageError) and error.ctx:
        return error.ctx.command_path
    # Raised before there was a context: the parser stumbled over a command's own options.
    known = []
    if isinstance(command, click.Group):
        known = command.list_commands(click.Context(command))
    return f"{name} {sys.argv[1]}" if sys.argv[1:2] and sys.argv[1] in known else name
