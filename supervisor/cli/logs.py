"""`ptsup logs`: what the children said."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from supervisor.cli.options import names_argument, run_dir_option
from supervisor.config import METRICSD, SUPERVISOR
from supervisor.errors import NothingRunsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.rundir import RunDir


@click.command(
    short_help="Show the output of sessions.",
    epilog="""\b
examples:
  ptsup logs -n 50 paper
  ptsup logs -f""",
)
@names_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="LINES",
    help="How many of the last lines of each to begin with.",
)
@run_dir_option
def logs(names: tuple[str, ...], follow: bool, lines: int, run_dir: RunDir) -> int:
    """Show the output of sessions; `metricsd` and `supervisor` have logs too.

    Without names: of every session there is, or (when nothing runs) was. What was rotated away
    is read too. Control characters are shown as text, wherever it goes; the very bytes are in the
    files themselves.
    """
    from supervisor.follow import Follow

    known = sorted(path.stem for path in run_dir.logs.glob("*.log"))
    if not known:
        raise NothingRunsError(f"no logs in {run_dir.logs}", "`ptsup start` makes some")
    if missing := [name for name in names if name not in known]:
        raise UsageError(f"no log of {missing[0]!a}", f"there are: {', '.join(known)}")
    sessions = [name for name in known if name not in {METRICSD, SUPERVISOR}]

    def find_names() -> Sequence[str]:
        return names or run_dir.list_sessions() or sessions

    following = Follow(find_names, run_dir.log)
    following.begin(find_names(), lines)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            following.run()
    elif lines:
        following.finish()
    return 0
