"""Servers that are measured side by side, and how: in turn, in one run, over kept connections."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from metricsd_process import METRICSD, clean_environ
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench.population import Population

TESTS: Final = Path(__file__).parents[1]
# Divides the sizes and the repetitions, to try a benchmark out.
SCALE: Final = int(os.environ.get("BENCH_SCALE", "1"))

Times = dict[str, list[float]]


def scale(size: int, least: int = 1) -> int:
    """Give a size, or what BENCH_SCALE leaves of it."""
    return max(min(size, least), size // SCALE)


# -- Processes ------------------------------------------------------------------------------------


def environ() -> dict[str, str]:
    found = clean_environ(PYTHONPATH=str(TESTS))
    # What is installed is compiled; what is compared with it has to be so, too.
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def program(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]


@contextlib.contextmanager
def running(command: Sequence[str], **popen: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that says nothing on stderr worth reading, until the block ends."""
    process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
        command, env=environ(), stderr=subprocess.DEVNULL, **popen
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


class Peer:
    """A server, and the one connection it is asked over."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int) -> None:
        self.name, self.process, self.port = name, process, port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def ask(self, path: str = "/metrics") -> tuple[float, int, bytes]:
        """Ask for a page: seconds, status, body."""
        began = time.perf_counter()
        self.connection.request("GET", path)
        response = self.connection.getresponse()
        body = response.read()
        return time.perf_counter() - began, response.status, body

    def scrape(self) -> tuple[float, bytes]:
        """Scrape: seconds and page."""
        seconds, status, body = self.ask()
        assert status == 200, (self.name, body)
        return seconds, body

    def resident(self) -> tuple[float, float]:
        """Measure its memory in MB: without what lies in the page cache too, and with it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        sizes = {
            name: int(rest.split()[0]) / 1024
            for name, _, rest in (line.partition(":") for line in status.splitlines())
            if name.startswith(("Rss", "VmRSS"))
        }
        return sizes["RssAnon"] + sizes["RssShmem"], sizes["VmRSS"]


@contextlib.contextmanager
def _asking(name: str, process: subprocess.Popen[bytes], port: int) -> Iterator[Peer]:
    peer = Peer(name, process, port)
    try:
        yield peer
    finally:
        peer.connection.close()


@contextlib.contextmanager
def serving_stock(directory: Path, name: str = "stock") -> Iterator[Peer]:
    command = program("serve_stock", directory)
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with _asking(name, process, port) as peer:
            yield peer


@contextlib.contextmanager
def _serving_inherited(name: str, build_command: Callable[[int], Sequence[str]]) -> Iterator[Peer]:
    """Serve a socket that listens already: the first request waits for its server."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        command = build_command(sock.fileno())
        with (
            running(command, pass_fds=[sock.fileno()]) as process,
            _asking(name, process, sock.getsockname()[1]) as peer,
        ):
            yield peer


def serving_ours(
    directory: Path, *, before: Sequence[str] = ()
) -> contextlib.AbstractContextManager[Peer]:
    def build_command(fd: int) -> list[str]:
        options = ["--fd", str(fd), "--multiproc-dir", str(directory), "--log-level", "ERROR"]
        return [*before, *METRICSD, *options]

    return _serving_inherited("ptsup", build_command)


@contextlib.contextmanager
def serving_floor(directory: Path, page: bytes) -> Iterator[Peer]:
    path = directory.parent / "page"
    path.write_bytes(page)
    with _serving_inherited(
        "floor", lambda fd: program("serve_floor", fd, directory, path)
    ) as peer:
        yield peer


@dataclass(frozen=True, slots=True)
class Field:
    """The peers of one population."""

    population: Population
    peers: Mapping[str, Peer]


@contextlib.contextmanager
def serving_all(population: Population) -> Iterator[Field]:
    """Serve a population by every peer; their pages agree before anything is measured."""
    with contextlib.ExitStack() as stack:
        stock = stack.enter_context(serving_stock(population.stock))
        peers = {"stock": stock}
        if population.dead:
            folded = serving_stock(population.folded, "stock, folded")
            peers["stock, folded"] = stack.enter_context(folded)
        ours = peers["ptsup"] = stack.enter_context(serving_ours(population.ours))
        _, page = ours.scrape()
        floor = peers["floor"] = stack.enter_context(serving_floor(population.ours, page))
        field = Field(population, peers)
        check_pages(field)
        assert abs(len(floor.scrape()[1]) - len(page)) < len(page) / 10
        yield field


def list_series(page: bytes) -> list[bytes]:
    """List the lines of a page, without what metricsd says of itself."""
    return sorted(line for line in page.splitlines() if b"ptsup_" not in line)


def check_pages(field: Field, *, without: str = "") -> None:
    """See to it that everyone who adds up says the same, byte for byte."""
    field.population.bump()
    pages = {
        name: list_series(peer.scrape()[1]) for name, peer in field.peers.items() if name != "floor"
    }
    for name, page in pages.items():
        assert page == pages["ptsup"], f"the page of {name} is another"


# -- Measuring ------------------------------------------------------------------------------------


def interleave(field: Field, repetitions: Mapping[str, int]) -> Times:
    """Scrape in turn, every value changed in each round; who has fewer turns has them spread."""
    times: Times = {name: [] for name in repetitions}
    rounds = max(repetitions.values())
    names = list(repetitions)
    for number in range(rounds):
        field.population.bump()
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            wanted = repetitions[name]
            if number * wanted // rounds < (number + 1) * wanted // rounds:
                times[name].append(field.peers[name].scrape()[0])
    return times


def find_percentile(seconds: Sequence[float], percent: int) -> float:
    """Find the value that so many percent are not above."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def settle(peer: Peer, directory: Path) -> None:
    """Scrape until everything that was claimed is folded."""

    def is_folded() -> bool:
        peer.scrape()
        return not list((directory / ".retired").glob("claim-*"))

    wait_for(is_folded, timeout_seconds=60, what="the folds")


# -- Printing -------------------------------------------------------------------------------------


def print_section(title: str, method: str) -> None:
    print(f"\n\n## {title}\n\n{method}\n", flush=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(head)} |")
    print(f"|---|{'---:|' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def render_ms(seconds: float) -> str:
    """Render milliseconds with three digits that mean something."""
    ms = seconds * 1e3
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def render_spread(seconds: Sequence[float]) -> str:
    """Render the median, and in brackets the least and the most, in milliseconds."""
    median = render_ms(statistics.median(seconds))
    return f"{median} ({render_ms(min(seconds))} … {render_ms(max(seconds))})"


def divide(upper: Sequence[float], lower: Sequence[float]) -> str:
    """Render the ratio of two medians."""
    return render_ratio(statistics.median(upper) / statistics.median(lower))


def render_ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"
