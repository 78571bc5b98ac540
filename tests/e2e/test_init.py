"""`ptsup init` writes a file that `ptsup start` takes, and never over another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stack import Stack


def test_what_it_writes_starts(stack: Stack) -> None:
    said = stack.run("init").stdout
    assert said == "ptsup: wrote ptsup.toml; put your command in, then `ptsup start`\n"
    stack.start()
    assert stack.session("paper")["state"] == "running"


def test_a_file_that_is_there_is_left_alone(stack: Stack) -> None:
    file = stack.cwd / "ptsup.toml"
    file.write_text("mine")
    refused = stack.run("init", code=2)
    assert "it is there already" in refused.stderr
    assert file.read_text() == "mine"
    file.unlink()
    file.symlink_to(stack.cwd / "elsewhere.toml")
    stack.run("init", code=2)
    assert not (stack.cwd / "elsewhere.toml").exists()


def test_two_kinds_of_units_are_one_too_many(stack: Stack) -> None:
    assert "init: which one" in stack.run("init", "--systemd", "--launchd", code=2).stderr
