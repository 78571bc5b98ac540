"""Writes the documents that are drawn from the code; `make docs` runs it, a test compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.testing import CliRunner

from bad_input import ROWS
from stack import ROOT
from supervisor.cli.entry import NAMES, cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WRITTEN = "Written by `make docs` from the code; `make test` compares."


def render_cli() -> str:
    """Write docs/cli.md: every command's own help, as the program prints it."""
    parts = ["# The command line\n", f"{WRITTEN}\n", _render_help([])]
    parts += [_render_help([name]) for name in NAMES]
    return "\n".join([*parts, COMPLETION])


def _render_help(names: list[str]) -> str:
    # What click makes of a terminal of 80 columns, and of anything that is none.
    printed = CliRunner().invoke(cli, [*names, "--help"], prog_name="ptsup", terminal_width=78)
    assert printed.exit_code == 0, printed.output
    return f"## {' '.join(['ptsup', *names])}\n\n```text\n{printed.output}```\n"


COMPLETION = """## Shell completion

Put one line into your shell's start-up file:

| shell | file | line |
|---|---|---|
| bash | `~/.bashrc` | `eval "$(_PTSUP_COMPLETE=bash_source ptsup)"` |
| zsh | `~/.zshrc` | `eval "$(_PTSUP_COMPLETE=zsh_source ptsup)"` |
| fish | `~/.config/fish/completions/ptsup.fish` | `_PTSUP_COMPLETE=fish_source ptsup \\| source` |

It completes commands, options and the names of the sessions that run.
"""

ERRORS_HEAD = f"""# Exit codes and errors

| code | means |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | usage or configuration, a command that cannot be run included |
| 3 | nothing runs, and no state is left |
| 4 | the supervisor is dead or cannot be reached |
| 5 | drift found, or a verification failed |
| 6 | refused by a gate |
| 7 | the port is held by someone else, another supervisor included |
| 130 | interrupted with Ctrl-C where there is nothing to stop in order |

Every error is one line on stderr that begins with `ptsup:`, then (mostly) a line with a hint.
What is refused is refused before anything starts.

## What `ptsup start` refuses

{WRITTEN}

| mistake | what is typed or written | code | it says |
|---|---|---|---|
"""


def render_errors() -> str:
    """Write docs/errors.md: the exit codes, and the table the tests go by."""
    lines = []
    for row in ROWS:
        given = " ".join(row.arguments) if row.arguments else row.toml.strip()
        if row.environ:
            given = " ".join(f"{name}={value}" for name, value in row.environ.items())
        shown = given.encode("unicode_escape").decode().replace("|", "\\|")
        shown = shown if len(shown) <= 70 else f"{shown[:67]}..."
        lines.append(f"| {row.what} | `{shown or 'nothing'}` | {row.code} | `{row.says}` |\n")
    return ERRORS_HEAD + "".join(lines)


DOCUMENTS: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "cli.md": render_cli,
    ROOT / "docs" / "errors.md": render_errors,
}

if __name__ == "__main__":
    for path, render in DOCUMENTS.items():
        path.write_text(render(), encoding="utf-8")
