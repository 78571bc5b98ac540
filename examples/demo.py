"""The main job on real prices: start two paper sessions, look at them, scrape, stop.

Runs the `ptsup` that is installed beside this interpreter, in a directory of its own that is
removed afterwards. `make demo` calls it.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

BIN = Path(sys.executable).parent
SESSION = Path(__file__).resolve().parent / "shadow_session.py"
PORT = 9111
ENOUGH_INCREMENTS = 100
PATIENCE_SECONDS = 30


def main() -> int:
    """Run the demonstration; 0 when samples were seen and nothing was left behind."""
    port = find_port()
    if port != PORT:
        print(f"# port {PORT} is taken here, so this run uses {port}")
    with tempfile.TemporaryDirectory(prefix="ptsup-demo-") as directory:
        try:
            run(
                directory,
                *("start", "-d", "--port", str(port)),
                *("-s", f"macd={sys.executable} {SESSION} --loop"),
                *("-s", f"momentum={sys.executable} {SESSION} --loop --strategy momentum"),
            )
            page = wait_for_increments(port)
            run(directory, "status")
            show_page(page, port)
        finally:
            stopped = run(directory, "stop")
        gone = run(directory, "status", quiet=True) == 3
    if stopped != 0 or not gone:
        print("# something was left behind", file=sys.stderr)
        return 1
    print("# nothing is left: no process, no socket, no shard, and the port is free")
    return 0


def run(directory: str, *arguments: str, quiet: bool = False) -> int:
    """Run a ptsup command as a person would, showing what they would type and see."""
    if not quiet:
        shown = shlex.join(("ptsup", *arguments)).replace(sys.executable, "python")
        print(f"\n$ {shown.replace(str(SESSION), 'examples/shadow_session.py')}", flush=True)
    output = subprocess.DEVNULL if quiet else None
    command = [str(BIN / "ptsup"), *arguments]
    return subprocess.run(
        command, cwd=directory, check=False, stdout=output, stderr=output
    ).returncode


def find_port() -> int:
    """Find a port for the demonstration: the usual one, or a free one when it is taken."""
    for port in (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104 - as ptsup itself will
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise SystemExit("no free port")


def wait_for_increments(port: int) -> str:
    """Scrape until the sessions have counted something worth showing."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            page: str = answer.read().decode()
        counted = sum(float(line.rsplit(" ", 1)[1]) for line in find_counters(page))
        if counted >= ENOUGH_INCREMENTS:
            return page
        if time.monotonic() > deadline:
            raise SystemExit(f"only {counted:g} increments in {PATIENCE_SECONDS} s")
        time.sleep(0.1)


def find_counters(page: str) -> list[str]:
    """Pick the lines of a page that are samples of our counters."""
    return [
        line for line in page.splitlines() if line.startswith("peaktrade_") and "_total{" in line
    ]


def show_page(page: str, port: int) -> None:
    """Show the samples that say something: what was counted, and the gauges."""
    print(f"\n$ curl -s http://127.0.0.1:{port}/metrics | grep ^peaktrade_ | grep -v ' 0.0$'")
    for line in page.splitlines():
        if line.startswith("peaktrade_") and not line.endswith(" 0.0"):
            print(line)


if __name__ == "__main__":
    sys.exit(main())
