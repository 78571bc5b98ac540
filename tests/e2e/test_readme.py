"""What the README shows is what happens: its transcript, its lines, its session."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
from typing import TYPE_CHECKING

from commands import find_blocks, read_document, run_as_written
from stack import ROOT, find_free_port
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack

README = read_document("README.md")
SIGNAL = ("peaktrade_strategy_signals_total", (("signal", "long"), ("strategy_id", "macd")))


def find_transcript() -> list[tuple[str, list[str]]]:
    """Find each command of the transcript, with the lines it is said to print."""
    (text,) = find_blocks(README, "console")
    steps = [step.replace("\\\n", " ") for step in text.removeprefix("$ ").split("\n$ ")]
    return [(step.partition("\n")[0], step.splitlines()[1:]) for step in steps]


def find_uses() -> list[str]:
    """Find the lines of "Use it" that start something."""
    _, _, rest = README.partition("## Use it\n")
    lines = re.findall(
        r"^    (\S.*?)(?:  +#.*)?$", rest.partition("\nA session is")[0], re.MULTILINE
    )
    assert lines[0] == "pip install ."  # which the test of the wheel does
    return lines[1:]


def outline(line: str) -> str:
    """Leave of a line what does not differ from run to run: its words, and where a figure is."""
    line = re.sub(r"in /.*", "in DIR", line)
    return " ".join(re.sub(r"-?\d[\d.]*(e[+-]?\d+)?[%smKM]?", "N", line).split())


def test_the_transcript_is_what_it_prints(stack: Stack) -> None:
    shutil.copytree(ROOT / "examples", stack.cwd / "examples", symlinks=True)
    stack.env["PEAK_TRADE_METRICSD_PORT"] = str(stack.port)
    (start, started), (status, table), (scrape, samples), (stop, stopped) = find_transcript()

    def run(command: str) -> list[str]:
        said = run_as_written(stack, command.replace("9111", str(stack.port)))
        return [outline(line) for line in said.splitlines() if line]

    assert run(start) == [outline(line) for line in started if line]
    wait_for(lambda: len(stack.shards) == 4, what="the shards")
    for line, shown in zip(run(status), filter(None, table), strict=True):
        begun, cut, _ = shown.partition("…")  # the README is not as wide as a pipe
        assert line.startswith(outline(begun)) if cut else line == outline(shown)
    counted = {outline(line) for line in samples if line not in {"", "…"}}
    assert len(counted) >= 4
    shows = f"{scrape} || true"  # there may be nothing yet
    # All at one time: a position that is closed again shows no more.
    wait_for(
        lambda: set(run(shows)) > counted, timeout_seconds=60, what="the samples of the README"
    )
    assert run(stop) == [outline(line) for line in stopped if line]
    stack.assert_nothing_left()


def test_each_line_starts_what_it_says_with_the_session_shown(stack: Stack) -> None:
    (session,) = find_blocks(README, "python")
    (stack.cwd / "my_session.py").write_text(f"{session}\nimport time\ntime.sleep(600)\n")
    file = stack.cwd / "ptsup.toml"
    uses = find_uses()
    assert uses[0] == "ptsup start"
    # With a file the first is the last in short.
    for line, there in [(uses[0], False), *((line, True) for line in uses[1:]), (uses[0], True)]:
        file.unlink(missing_ok=True)
        if there:
            stack.run("init")
            text = file.read_text().replace('["sleep", "3600"]', '["python", "my_session.py"]')
            file.write_text(text)
        start_and_stop(stack, line, sessions=int(there))
    assert len(uses) == 4


def start_and_stop(stack: Stack, line: str, *, sessions: int) -> None:
    """Run a line until metricsd, and that many sessions, show on the page; then end it."""
    stack.port = find_free_port()
    stack.env["PEAK_TRADE_METRICSD_PORT"] = str(stack.port)

    def is_up() -> bool:
        try:
            samples = stack.samples()
        except OSError:
            return False
        shown = samples[("ptsup_sessions", (("state", "running"),))]
        return shown == sessions and samples.get(SIGNAL, 0) == sessions

    if " -d " in line:
        run_as_written(stack, line)
        wait_for(is_up, what=line)
        stack.run("stop")
    else:
        with stack.popen(*shlex.split(line)[1:]) as foreground:
            wait_for(is_up, what=line)
            foreground.send_signal(signal.SIGINT)
            said = foreground.communicate(timeout=30)
        assert foreground.returncode == 0, said
    stack.assert_nothing_left()
