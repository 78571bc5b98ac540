"""`ptsup verify`: everything the runbook looks at, seen and judged in one go."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from supervisor.cli.options import SECONDS, read_config, run_dir_option
from supervisor.config.flags import Flags
from supervisor.errors import DriftError, PtsupError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from supervisor.rundir import RunDir

# The runbook's.
DEFAULT_PROMETHEUS: Final = "http://127.0.0.1:9092"


def _read_url(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Check a base URL; credentials in it would end up in the shell's history and in `ps`."""
    if value is None:
        return None
    name = f"--{option.name}"
    try:
        parts = urlsplit(value)
        wrong = parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0
    except ValueError:
        wrong, parts = True, urlsplit("")
    if "@" in parts.netloc:
        raise UsageError(
            f"{name}: it has credentials in it",
            "give them as PTSUP_GRAFANA_TOKEN, or PTSUP_GRAFANA_USER and PTSUP_GRAFANA_PASSWORD",
        )
    if wrong or parts.query or parts.fragment or not value.isascii() or " " in value:
        raise UsageError(f"{name}: {value!a} is not a URL", f"such as {DEFAULT_PROMETHEUS}")
    return value.rstrip("/")


@click.command(
    short_help="Verify what Prometheus and Grafana see.",
    epilog="""\b
examples:
  ptsup verify                                  against http://127.0.0.1:9092
  ptsup verify --prometheus http://127.0.0.1:9090 --window 30
  PTSUP_GRAFANA_TOKEN=… ptsup verify --grafana http://127.0.0.1:3000
  ptsup verify --evidence docs/evidence/EV_METRICSD_MODE_B_VERIFY_20260102.md""",
)
@click.option(
    "--prometheus",
    metavar="URL",
    default=DEFAULT_PROMETHEUS,
    show_default=True,
    callback=_read_url,
    help="The Prometheus that scrapes this stack.",
)
@click.option(
    "--grafana",
    metavar="URL",
    callback=_read_url,
    help="Ask this Grafana, too [env: PTSUP_GRAFANA_TOKEN, or _USER and _PASSWORD].",
)
@click.option(
    "--window",
    type=SECONDS,
    metavar="SECONDS",
    default=10.0,
    show_default="10",
    help="How long metricsd's target has to be seen up without a break.",
)
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    default=5.0,
    show_default="5",
    help="How long one answer may take.",
)
@click.option(
    "--evidence",
    metavar="FILE",
    help="Write the evidence document, with PASS or FAIL; a file that is there is kept.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document (ptsup.verify/1).")
@run_dir_option
def verify(
    prometheus: str,
    grafana: str | None,
    window: float,
    timeout: float,
    evidence: str | None,
    as_json: bool,
    run_dir: RunDir,
) -> int:
    """Verify that Prometheus scrapes what runs here, and that the values move.

    Prints PASS|id|message and FAIL|id|message lines, NEXT|id|what-to-do after each failure, and
    RESULT=PASS or RESULT=FAIL. Ends with 5 when anything failed, or was not seen.
    """
    from supervisor.scrape_config import find_configured
    from supervisor.verify.checks import find_verdicts
    from supervisor.verify.measure import Plan, build_authorization, measure
    from supervisor.verify.render import build_document, find_result, render_lines

    if not timeout:
        raise UsageError("--timeout: nothing is answered in 0 s", "give it some seconds")
    file = None if evidence is None else _find_room(evidence)
    plan = Plan(
        prometheus_url=prometheus,
        read_status=lambda: _read_status(run_dir),
        read_mode=_read_mode,
        default_targets=find_configured(read_config(None, Flags(), frozenset())),
        grafana_url=grafana or "",
        grafana_headers=build_authorization(os.environ),
        window_seconds=window,
        answer_seconds=timeout,
    )
    with _progress() as progress:
        seen = measure(plan, progress)
    verdicts = find_verdicts(seen)
    if file is not None:
        _write_evidence(file, seen, verdicts)
    if as_json:
        click.echo(json.dumps(build_document(seen, verdicts)))
    else:
        click.echo("\n".join(render_lines(verdicts)))
    if find_result(verdicts) == "PASS":
        return 0
    failed = sum(not verdict.passed for verdict in verdicts)
    raise DriftError(
        f"verification failed: {failed} of {len(verdicts)} checks",
        "the NEXT lines say what to do" if not as_json else "`next` says what to do",
    )


def _read_status(run_dir: RunDir) -> Mapping[str, Any] | str:
    """Read the document of a supervisor that answers; else say why there is none."""
    from supervisor.report import read_report

    try:
        document, answered = read_report(run_dir)
    except PtsupError as error:
        return error.message
    if not answered:
        return f"the supervisor (pid {document['supervisor']['pid']}) is dead"
    return document


def _read_mode(pid: int) -> str:
    """Read the mode that a session's own environment says; empty when it may not be seen."""
    from telemetry.mode import MODE_VARIABLE
    from telemetry.processes import read_environment

    return read_environment(pid).get(MODE_VARIABLE, "")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[float, str], None]]:
    """Show a bar on a terminal, on stderr; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda _done, _what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=1.0)
        yield lambda done, what: bar.update(task, completed=done, description=what)


# -- Evidence --------------------------------------------------------------------------------------


def _find_room(evidence: str) -> Path:
    """Find where the document goes, before anything is measured: it is never written over."""
    path = Path(evidence)
    if os.path.lexists(path):
        raise UsageError(
            f"--evidence: {evidence!a} is there already",
            "evidence is not overwritten: give another name",
        )
    if not path.parent.is_dir():
        raise UsageError(f"--evidence: there is no directory {str(path.parent)!a}", "make it first")
    return path


def _write_evidence(path: Path, seen: Any, verdicts: Any) -> None:
    from supervisor.verify.evidence import render_evidence
    from supervisor.verify.gather import gather

    text = render_evidence(seen, verdicts, gather(seen))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        try:
            # A link fails where a rename would replace.
            os.link(unfinished, path)
        finally:
            unfinished.unlink()
    except OSError as error:
        raise PtsupError(
            f"cannot write {str(path)!a}: {error.strerror}", "nothing was written"
        ) from None
    click.echo(f"ptsup: evidence written to {str(path)!a}", err=True)
