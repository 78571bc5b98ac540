"""The way out of a command when the system has nothing left to give."""

from __future__ import annotations

import errno
import os

import click
import pytest

from supervisor.cli import outcome


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EMFILE, "ptsup: cannot go on: Too many open files\n  hint: see `ulimit -a`\n"),
        (errno.ENOMEM, "ptsup: cannot go on: Cannot allocate memory\n  hint: see `ulimit -a`\n"),
    ],
)
def test_that_the_system_is_out_of_something_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def run_out() -> None:
        raise OSError(number, os.strerror(number), "/proc")

    monkeypatch.setattr("sys.argv", ["ptsup"])
    with pytest.raises(SystemExit) as ended:
        outcome.run(click.Command("status", callback=run_out), "ptsup")
    assert (ended.value.code, capsys.readouterr().err) == (1, said)
