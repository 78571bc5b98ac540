"""metricsd as a real process: its start, its guards, its page, its clients, its end."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import pytest
from waitress.adjustments import Adjustments

from metricsd_process import (
    CHILDREN,
    METRICSD,
    STARTED,
    Metricsd,
    ask,
    clean_environ,
    options_for,
    running,
)
from telemetry.descriptors import decide_shares
from telemetry.server import Request, find_gzip_accepted
from telemetry.shards import RETIRED, list_shards
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMETHEUS = {"X-Prometheus-Scrape-Timeout-Seconds": "10"}


class Start(Protocol):
    def __call__(self, *options: str | Path, **popen: Any) -> Metricsd: ...


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "prom_multiproc"


@pytest.fixture
def start(tmp_path: Path, directory: Path) -> Iterator[Start]:
    """Start a metricsd on a free port and the test's directory, with more options if given."""
    with ExitStack() as stack:
        count = 0

        def start(*options: str | Path, **popen: Any) -> Metricsd:
            nonlocal count
            count += 1
            command = [*METRICSD, *options_for(directory), *options]
            return stack.enter_context(running(command, tmp_path / f"{count}.log", **popen))

        yield start


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metricsd]:
    """Run one metricsd on an empty directory for the tests that only ask it something."""
    path = tmp_path_factory.mktemp("shared")
    with running([*METRICSD, *options_for(path / "prom_multiproc")], path / "log") as metricsd:
        yield metricsd


def run(*options: str | Path, **popen: Any) -> subprocess.CompletedProcess[str]:
    """Run a metricsd that is expected to end by itself."""
    popen.setdefault("env", clean_environ())
    return subprocess.run(
        [*METRICSD, *options], capture_output=True, text=True, timeout=20, check=False, **popen
    )


def assert_refused(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    """Check that a refusal is one line that says why, and a hint."""
    lines = done.stderr.splitlines()
    assert done.returncode == exit_code, done.stderr
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("metricsd: cannot ")
    assert lines[1].startswith("hint: ")
    for word in words:
        assert word in lines[0]


@contextmanager
def writer(directory: Path, count: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that holds one shard of every kind open."""
    directory.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, CHILDREN / "metricsd_writer.py", directory, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def find_series(body: bytes) -> list[bytes]:
    """Find the lines of a page that are about sessions; how long it took differs each time."""
    return [line for line in body.splitlines() if b"ptsup_" not in line]


def write_big_shards(directory: Path, *, files: int, series: int) -> None:
    """Write counter shards of dead pids, big enough for a merge to take its time."""
    entries = bytearray()
    for number in range(series):
        key = json.dumps(["big", "big_total", {"check": str(number)}, "Big."]).encode()
        padded = key + b" " * (8 - (len(key) + 4) % 8)
        entries += struct.pack(f"i{len(padded)}sdd", len(key), padded, 1.0, 0.0)
    data = struct.pack("ii", len(entries) + 8, 0) + entries
    for number in range(files):
        (directory / f"counter_{2**31 - 1 - number}.db").write_bytes(data)


# Start


def test_the_first_log_line_says_where_it_listens_and_what_it_serves(
    tmp_path: Path,
) -> None:
    command = [*METRICSD, "--port", "0", "--multiproc-dir", "run/prom_multiproc"]
    with running(command, tmp_path / "log", cwd=tmp_path) as metricsd:
        first = metricsd.log.splitlines(keepends=True)[0]
        match = STARTED.search(first)
        assert match is not None
        assert match[1] == "0.0.0.0"
        assert match[3] == str(tmp_path / "run" / "prom_multiproc")
        assert metricsd.scrape_series() == ""
        assert (tmp_path / "run" / "prom_multiproc").is_dir()


def test_it_listens_on_the_given_host_only(start: Start) -> None:
    metricsd = start("--host", "127.0.0.1")
    assert "started on 127.0.0.1:" in metricsd.log
    listening = [c.laddr for c in psutil.Process(metricsd.process.pid).net_connections("tcp")]
    assert listening == [("127.0.0.1", metricsd.port)]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for what is loaded")
def test_it_does_without_numpy_until_there_is_a_shard(start: Start, directory: Path) -> None:
    metricsd = start()
    maps = Path(f"/proc/{metricsd.process.pid}/maps")
    for _ in range(2):
        assert "ptsup_shards{" in metricsd.scrape()
        assert metricsd.health()["directory"] == "ok"
    assert "/numpy/" not in maps.read_text()
    with writer(directory):
        assert "shop_sales_total" in metricsd.scrape()
    assert "/numpy/" in maps.read_text()


def test_no_thread_of_numpys_spins_in_it(start: Start, directory: Path) -> None:
    counts = []
    plain = {k: v for k, v in clean_environ().items() if k != "OPENBLAS_NUM_THREADS"}
    for env in (plain, plain | {"OPENBLAS_NUM_THREADS": "1"}):
        metricsd = start(env=env)
        write_big_shards(directory, files=1, series=1)
        metricsd.scrape()
        counts.append(psutil.Process(metricsd.process.pid).num_threads())
        metricsd.end()
    assert counts[0] == counts[1]


def test_options_come_from_the_environment(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    env = clean_environ(
        PEAK_TRADE_METRICSD_PORT=str(port),
        PEAKTRADE_METRICS_MULTIPROC_DIR=str(tmp_path / "prometheus_multiproc"),
    )
    with running(METRICSD, tmp_path / "log", env=env) as metricsd:
        assert metricsd.port == port
        assert metricsd.health()["multiproc_dir"] == str(tmp_path / "prometheus_multiproc")


def test_a_flag_wins_over_the_environment(start: Start, directory: Path) -> None:
    env = clean_environ(
        PEAK_TRADE_METRICSD_PORT="not a port", PEAKTRADE_METRICS_MULTIPROC_DIR="/elsewhere"
    )
    metricsd = start(env=env)
    assert metricsd.health()["multiproc_dir"] == str(directory)


def test_a_port_variable_that_is_no_port_is_refused(directory: Path) -> None:
    env = clean_environ(PEAK_TRADE_METRICSD_PORT="70000")
    assert_refused(run("--multiproc-dir", directory, env=env), 2, "PEAK_TRADE_METRICSD_PORT")


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "70000"],
        ["--port", "-1"],
        ["--port", "x"],
        ["--port", ""],
        ["--port", "٣"],
        ["--log-level", "LOUD"],
        ["--multiproc-dir", ""],
        ["--fd", "x"],
        ["--fd", "-1"],
        ["--unknown"],
        ["surplus"],
        ["--po", "0"],
    ],
    ids=" ".join,
)
def test_a_bad_argument_is_refused_in_one_line(directory: Path, options: list[str]) -> None:
    assert_refused(run("--multiproc-dir", directory, *options), 2, "cannot start")
    assert not directory.exists()


def test_its_own_metrics_never_become_shards(directory: Path) -> None:
    directory.mkdir()
    script = (
        "import telemetry.metricsd as m; m.main(['--unknown'])\n"
        "import prometheus_client; prometheus_client.Counter('a', 'A.').inc()"
    )
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        env = clean_environ(**{name: str(directory)})
        subprocess.run(
            [sys.executable, "-c", script], env=env, check=True, timeout=20, capture_output=True
        )
        assert list(directory.iterdir()) == []


# Guards


def test_a_port_in_use_is_refused_naming_the_holder_and_nothing_is_cleared(
    directory: Path,
) -> None:
    directory.mkdir()
    (directory / "counter_4711.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
        done = run("--port", port, "--multiproc-dir", directory)
    assert_refused(done, 7, f":{port}", f"pid {os.getpid()} (")
    assert (directory / "counter_4711.db").exists()


def test_a_port_in_use_leaves_a_missing_directory_missing(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
        assert run("--port", port, "--multiproc-dir", directory).returncode == 7
    assert not directory.exists()


def test_an_address_of_another_machine_is_refused(directory: Path) -> None:
    done = run("--host", "192.0.2.1", "--port", "0", "--multiproc-dir", directory)
    assert_refused(done, 1, "192.0.2.1:0")


def test_a_directory_of_another_name_is_refused_before_anything_happens(tmp_path: Path) -> None:
    (tmp_path / "counter_4711.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        # The port is taken too: a refusal that came after binding would be another one.
        port = str(sock.getsockname()[1])
        done = run("--port", port, "--multiproc-dir", tmp_path)
    assert_refused(done, 2, str(tmp_path), "prom_multiproc")
    assert (tmp_path / "counter_4711.db").exists()


def test_a_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("--port", "0", "--multiproc-dir", tmp_path / "file" / "prom_multiproc")
    assert_refused(done, 2, str(tmp_path / "file"))


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    # A link to nowhere: the name is free to be cleared, and yet taken.
    (tmp_path / "link").symlink_to(tmp_path / "missing" / "prom_multiproc")
    assert_refused(run("--port", "0", "--multiproc-dir", tmp_path / "link"), 1, "link")


def test_at_its_start_it_clears_the_dead_shards_and_names_the_held_ones(
    start: Start, directory: Path
) -> None:
    with writer(directory, 5) as process:
        (directory / "counter_2147483647.db").touch()
        (directory / "notes.txt").touch()
        (directory / RETIRED / "claim-1").mkdir(parents=True)
        (directory / RETIRED / "claim-1" / "counter_2147483647.db").touch()
        metricsd = start()
        assert not (directory / "counter_2147483647.db").exists()
        assert not (directory / RETIRED).exists()
        assert (directory / "notes.txt").exists()
        wait_for(lambda: "held open by" in metricsd.log)
        warning = metricsd.log.splitlines()[1]
        assert f": held open by pid {process.pid} ({sys.executable} " in warning
        for shard in list_shards(directory):
            assert shard.pid == process.pid
            assert f" {shard.path.name}" in warning
        assert 'shop_sales_total{check="tea"} 5.0' in metricsd.scrape()


def test_at_its_end_the_shards_stay(start: Start, directory: Path) -> None:
    metricsd = start()
    with writer(directory):
        before = sorted(directory.glob("*.db"))
    assert metricsd.end() == 0
    assert sorted(directory.glob("*.db")) == before


# An inherited socket


def test_an_inherited_socket_is_served_and_nothing_is_cleared(
    start: Start, directory: Path
) -> None:
    directory.mkdir()
    (directory / "counter_4711.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fd = sock.fileno()
        metricsd = start("--fd", str(fd), pass_fds=[fd])
        assert metricsd.port == sock.getsockname()[1]
        assert metricsd.scrape_series() == ""
        assert (directory / "counter_4711.db").exists()


def test_with_an_inherited_socket_neither_name_nor_port_variable_matters(tmp_path: Path) -> None:
    env = clean_environ(PEAK_TRADE_METRICSD_PORT="not a port")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        options = ("--fd", str(sock.fileno()), "--multiproc-dir", tmp_path / "any")
        command = (*METRICSD, *options)
        with running(command, tmp_path / "log", env=env, pass_fds=[sock.fileno()]) as metricsd:
            assert metricsd.scrape_series() == ""
            assert not (tmp_path / "any").exists()


def test_a_scrape_waits_while_metricsd_is_restarted_on_its_socket(
    start: Start,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fd = sock.fileno()
        first = start("--fd", str(fd), pass_fds=[fd])
        assert first.scrape_series() == ""
        assert first.end() == 0
        with socket.create_connection(sock.getsockname(), timeout=10) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            start("--fd", str(fd), pass_fds=[fd])
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_a_descriptor_that_is_no_listening_tcp_socket_is_refused(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))
        udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        monkeypatch.chdir(tmp_path)
        unix.bind("sock")  # its path has to be short
        unix.listen()
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        connected = stack.enter_context(socket.create_connection(server.getsockname()))
        file = stack.enter_context((tmp_path / "file").open("wb"))
        for candidate in (bound, udp, unix, connected, file):
            fd = candidate.fileno()
            done = run("--fd", str(fd), "--multiproc-dir", directory, pass_fds=[fd])
            assert_refused(done, 2, f"descriptor {fd}")
    assert_refused(run("--fd", "99", "--multiproc-dir", directory), 2, "descriptor 99")


# Without its libraries


@pytest.mark.parametrize("library", ["prometheus_client", "numpy"])
def test_without_the_library_it_warns_and_the_target_stays_up(
    tmp_path: Path, directory: Path, library: str
) -> None:
    command: list[str | Path] = [sys.executable, CHILDREN / "metricsd_without.py", library]
    with running([*command, *options_for(directory)], tmp_path / "log") as metricsd:
        # When nothing is there yet that would need it.
        said = f"WARNING cannot import {library}: /metrics stays empty"
        wait_for(lambda: said in metricsd.log, what="the warning")
        with writer(directory):
            response = metricsd.request("GET", "/metrics")
        assert (response.status, response.body) == (200, b"")
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "Traceback" not in metricsd.log
        assert metricsd.end() == 0


def test_a_broken_numpy_costs_the_totals_alone_and_is_told_in_one_line(
    tmp_path: Path, start: Start, directory: Path
) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('for another\\n\\nprocessor')\n")
    metricsd = start("--look-seconds", "0", env=clean_environ() | {"PYTHONPATH": str(tmp_path)})
    with writer(directory):
        for _ in range(3):
            page = metricsd.scrape()
            assert 'ptsup_shards{state="live"}' in page
            assert "shop_sales_total" not in page
            assert metricsd.health()["shards_unreadable"]["io"] == len(list_shards(directory))
    started, told = metricsd.log.splitlines()
    assert STARTED.search(f"{started}\n")
    assert told.endswith("WARNING no totals are on the page: cannot import numpy: for another")


def test_without_waitress_it_refuses_and_nothing_is_cleared(directory: Path) -> None:
    directory.mkdir()
    (directory / "counter_4711.db").touch()
    done = subprocess.run(
        [sys.executable, CHILDREN / "metricsd_without.py", "waitress", *options_for(directory)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=clean_environ(),
    )
    assert_refused(done, 1, "waitress")
    assert (directory / "counter_4711.db").exists()


# The page


def test_the_page_shows_the_sum_over_all_writers(start: Start, directory: Path) -> None:
    metricsd = start()
    with writer(directory, 3), writer(directory, 4):
        page = metricsd.scrape()
    assert 'shop_sales_total{check="tea"} 7.0' in page.splitlines()
    assert "# HELP shop_sales_total Sales." in page
    assert "# TYPE shop_sales_total counter" in page


def test_openmetrics_is_served_to_who_asks_for_it(start: Start, directory: Path) -> None:
    metricsd = start()
    with writer(directory, 3):
        response = metricsd.request(
            "GET", "/metrics", {"Accept": "application/openmetrics-text;version=1.0.0"}
        )
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert response.body.endswith(b"# EOF\n")


def test_the_page_is_compressed_for_who_accepts_it(start: Start, directory: Path) -> None:
    metricsd = start()
    with writer(directory, 3):
        packed = metricsd.request("GET", "/metrics", {"Accept-Encoding": "br, gzip;q=0.5"})
        plain = metricsd.request("GET", "/metrics", {"Accept-Encoding": "gzip;q=0"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert find_series(gzip.decompress(packed.body)) == find_series(plain.body) != []


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("deflate, gzip", True),
        ("gzip;q=1.0", True),
        ("gzip; q=0.001", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzipped", False),
        ("identity;q=1, *;q=0", False),
    ],
)
def test_gzip_is_taken_for_accepted_only_when_it_is(header: str, *, accepted: bool) -> None:
    assert find_gzip_accepted(header) is accepted


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/METRICS", 404),
        ("GET", "/healthz/x", 404),
        ("POST", "/nothing", 404),
        ("POST", "/metrics", 405),
        ("PUT", "/healthz", 405),
        ("DELETE", "/metrics", 405),
        ("OPTIONS", "/metrics", 405),
        ("GET", "/metrics?name=x", 200),
        ("HEAD", "/metrics", 200),
        ("HEAD", "/nothing", 404),
    ],
)
def test_nothing_else_is_served(shared: Metricsd, method: str, path: str, status: int) -> None:
    response = shared.request(method, path)
    assert response.status == status
    assert (response.headers.get("Allow") == "GET, HEAD") is (status == 405)


def test_a_connection_serves_request_after_request(start: Start, directory: Path) -> None:
    metricsd = start()
    connection = http.client.HTTPConnection("127.0.0.1", metricsd.port, timeout=10)
    with writer(directory, 3):
        connection.connect()
        local = connection.sock.getsockname()
        get = ask(connection, "GET", "/metrics", {})
        head = ask(connection, "HEAD", "/metrics", {})
        ask(connection, "GET", "/nothing", {})
        ask(connection, "POST", "/metrics", {})
        again = ask(connection, "GET", "/metrics", {})
        assert connection.sock.getsockname() == local
    connection.close()
    assert find_series(get.body) == find_series(again.body) != []
    assert head.body == b""
    assert int(head.headers["Content-Length"]) > 0


def test_a_bad_shard_fails_neither_the_page_nor_the_others(start: Start, directory: Path) -> None:
    metricsd = start()
    with writer(directory, 3):
        (directory / "counter_2147483647.db").write_bytes(b"garbage!" * 9)
        for _ in range(2):
            assert 'shop_sales_total{check="tea"} 3.0' in metricsd.scrape()
    assert metricsd.log.count("counter_2147483647.db") == 1
    assert "Traceback" not in metricsd.log


def test_a_removed_directory_is_an_empty_page_until_it_is_back(
    start: Start, directory: Path
) -> None:
    metricsd = start()
    directory.rmdir()
    assert metricsd.scrape_series() == ""
    with writer(directory, 3):
        assert 'shop_sales_total{check="tea"} 3.0' in metricsd.scrape()


# Health


def test_health_describes_the_daemon(start: Start, directory: Path) -> None:
    metricsd = start()
    response = metricsd.request("GET", "/healthz")
    assert response.headers["Content-Type"] == "application/json"
    health = metricsd.health()
    assert 0 < health.pop("uptime_seconds") < 60
    assert health == {
        "status": "ok",
        "pid": metricsd.process.pid,
        "multiproc_dir": str(directory),
        "last_scrape_age_seconds": None,
        "scrape_interval_seconds": None,
        "scrapes_total": 0,
        "base_claim": 0,
        "directory": "ok",
        "label_violations": [],
        "label_violations_total": 0,
        "shards_retired": 0,
        "shards_unreadable": {},
        "unreadable": [],
    }


def test_health_bears_the_same_tag_until_more_than_an_age_changes(
    start: Start, directory: Path
) -> None:
    def read_tag() -> str:
        return str(metricsd.request("GET", "/healthz").headers["Etag"])

    metricsd = start()
    first = read_tag()
    assert str(metricsd.process.pid) in first
    assert read_tag() == first
    metricsd.request("GET", "/metrics", PROMETHEUS)
    scraped = read_tag()
    assert scraped != first
    assert read_tag() == scraped
    (directory / "counter_7.db").write_bytes(b"garbage!" * 9)
    metricsd.request("GET", "/metrics")
    assert read_tag() not in {first, scraped}


def test_only_a_page_fetched_by_prometheus_counts_as_a_scrape(
    start: Start,
) -> None:
    metricsd = start()
    metricsd.request("GET", "/metrics")
    metricsd.request("HEAD", "/metrics", PROMETHEUS)
    metricsd.request("POST", "/metrics", PROMETHEUS)
    metricsd.request("GET", "/healthz", PROMETHEUS)
    assert metricsd.health()["scrapes_total"] == 0
    before = time.monotonic()
    metricsd.request("GET", "/metrics", PROMETHEUS)
    first = metricsd.health()
    assert first["scrapes_total"] == 1
    assert 0 <= first["last_scrape_age_seconds"] < time.monotonic() - before
    assert first["scrape_interval_seconds"] is None
    metricsd.request("GET", "/metrics", PROMETHEUS)
    second = metricsd.health()
    assert second["scrapes_total"] == 2
    assert 0 < second["scrape_interval_seconds"] < time.monotonic() - before


def test_a_scrape_that_nobody_waited_for_does_not_count(start: Start) -> None:
    metricsd = start()
    metricsd.process.send_signal(signal.SIGSTOP)
    # Request and farewell both lie in the socket before metricsd sees either.
    with metricsd.connect() as client:
        client.sendall(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 1\r\n\r\n"
        )
    metricsd.process.send_signal(signal.SIGCONT)
    assert metricsd.health()["scrapes_total"] == 0
    metricsd.request("GET", "/metrics", PROMETHEUS)
    assert metricsd.health()["scrapes_total"] == 1


def test_the_age_of_a_scrape_counts_from_its_beginning(start: Start, directory: Path) -> None:
    metricsd = start()
    metricsd.scrape()  # so that the next one waits for nothing but its own work
    write_big_shards(directory, files=10, series=3000)
    before = time.monotonic()
    metricsd.request("GET", "/metrics", PROMETHEUS)
    took = time.monotonic() - before
    assert metricsd.health()["last_scrape_age_seconds"] > took / 2


def test_health_answers_while_many_scrapes_are_under_way(start: Start, directory: Path) -> None:
    metricsd = start()
    write_big_shards(directory, files=40, series=3000)
    ended = threading.Event()

    def scrape() -> int:
        scrapes = 0
        while not ended.is_set():
            metricsd.scrape()
            scrapes += 1
        return scrapes

    with ThreadPoolExecutor(8) as pool:
        scrapers = [pool.submit(scrape) for _ in range(8)]
        try:
            for _ in range(5):
                before = time.monotonic()
                metricsd.health()
                assert time.monotonic() - before < 5  # on a machine that has much else to do
        finally:
            ended.set()
        assert all(scraper.result(20) for scraper in scrapers)


def test_health_answers_however_many_wait_for_a_page() -> None:
    # In a process of its own: a server whose loop ends takes its process with it.
    with (
        subprocess.Popen(
            [sys.executable, CHILDREN / "metricsd_stuck.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child,
        ExitStack() as stack,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        stack.callback(child.stdin.close)
        port = int(child.stdout.readline())
        for _ in range(40):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.0 200"


# Clients


def test_a_malformed_request_has_a_path_to_log_when_its_client_has_left() -> None:
    malformed = Request(Adjustments())
    malformed.received(b"GET /metrics HTTP/1.1\r\nbroken header\r\n\r\n")
    assert malformed.error
    assert malformed.path == ""
    whole = Request(Adjustments())
    whole.received(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (whole.error, whole.path) == (None, "/metrics")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nbroken header\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n", b"413"),
    ],
    ids=["no request", "no header", "no length", "huge header", "huge body"],
)
def test_a_malformed_request_is_refused_and_harms_nobody(
    shared: Metricsd, request_bytes: bytes, status: bytes
) -> None:
    before = shared.log
    with shared.connect() as client:
        client.sendall(request_bytes)
        assert client.recv(100).split()[1] == status
    assert shared.scrape_series() == ""
    assert shared.log == before


def test_slow_and_silent_clients_do_not_delay_a_scrape(start: Start) -> None:
    metricsd = start()
    with ExitStack() as stack:
        for number in range(100):
            client = stack.enter_context(metricsd.connect())
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: "[: number % 28])
        before = time.monotonic()
        assert metricsd.scrape_series() == ""
        assert time.monotonic() - before < 2


def test_of_pipelined_requests_the_first_is_answered_and_closes(shared: Metricsd) -> None:
    # Unread answers to all of them would pile up until a worker waits for the client, for ever.
    with shared.connect() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 300)
        answer = read_all(client)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"\r\nConnection: close\r\n" in answer


def read_all(client: socket.socket) -> bytes:
    """Read until the other side closes the connection, even if it does so with a reset."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := client.recv(1 << 20):
            received += chunk
    return received


def test_a_crowd_of_requests_is_answered_without_a_word_in_the_log(start: Start) -> None:
    metricsd = start()
    assert metricsd.scrape_series() == ""
    before = metricsd.log
    with ExitStack() as stack:
        clients = [stack.enter_context(metricsd.connect()) for _ in range(60)]
        metricsd.process.send_signal(signal.SIGSTOP)  # so that all of them come at once
        for client in clients:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        metricsd.process.send_signal(signal.SIGCONT)
        for client in clients:
            assert read_all(client).startswith(b"HTTP/1.0 200 OK")
    assert metricsd.log == before


def test_urgent_data_does_not_keep_it_busy(start: Start) -> None:
    metricsd = start()
    with metricsd.connect() as client:
        client.send(b"!", socket.MSG_OOB)
        assert read_all(client) == b""
    assert metricsd.scrape_series() == ""


def raise_descriptor_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"at most {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def test_a_scrape_is_answered_beside_1100_idle_connections(tmp_path: Path, directory: Path) -> None:
    raise_descriptor_limit(2500)
    # A soft limit of 256 is what macOS gives.
    command: list[str | Path] = ["sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh", *METRICSD]
    with (
        running([*command, *options_for(directory)], tmp_path / "log") as metricsd,
        ExitStack() as stack,
    ):
        port = metricsd.port
        for _ in range(1100):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        assert metricsd.scrape_series() == ""


def test_beyond_its_descriptors_it_goes_on_serving_who_is_connected(
    tmp_path: Path, directory: Path
) -> None:
    command: list[str | Path] = ["sh", "-c", 'ulimit -n 128; exec "$@"', "sh", *METRICSD]
    with (
        running([*command, *options_for(directory)], tmp_path / "log") as metricsd,
        ExitStack() as stack,
    ):
        connection = http.client.HTTPConnection("127.0.0.1", metricsd.port, timeout=10)
        stack.callback(connection.close)
        assert ask(connection, "GET", "/metrics", {}).status == 200
        for _ in range(200):
            stack.enter_context(metricsd.connect())
        with writer(directory, 3):
            assert ask(connection, "GET", "/metrics", {}).body != b""


@pytest.mark.parametrize("limit", [32, 64])
def test_the_silent_keep_nobody_else_out(tmp_path: Path, directory: Path, limit: int) -> None:
    command: list[str | Path] = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *METRICSD]
    with (
        running([*command, *options_for(directory)], tmp_path / "log") as metricsd,
        ExitStack() as stack,
    ):
        for number in range(60):
            client = stack.enter_context(metricsd.connect())
            if number % 2:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            with metricsd.connect() as other:
                other.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert other.recv(12) == b"HTTP/1.0 200"


@pytest.mark.parametrize(
    ("limit", "connections", "shards"),
    [(65536, 2048, 63456), (4128, 2048, 2048), (256, 112, 112), (64, 16, 16), (10, 1, 0)],
)
def test_clients_and_shards_share_the_descriptors_there_are(
    limit: int, connections: int, shards: int
) -> None:
    assert decide_shares(limit) == (connections, shards)


# End


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_stop_signal_ends_it_at_once_with_exit_0(start: Start, number: signal.Signals) -> None:
    metricsd = start()
    connection = http.client.HTTPConnection("127.0.0.1", metricsd.port, timeout=10)
    ask(connection, "GET", "/metrics", {})  # and stays open, kept alive
    before = time.monotonic()
    assert metricsd.end(number) == 0
    assert time.monotonic() - before < 1
    connection.close()
    assert f" INFO metricsd stopping on {number.name}\n" in metricsd.log
    assert metricsd.log.endswith(" INFO metricsd stopped\n")
    assert "Traceback" not in metricsd.log


def test_a_stop_signal_that_was_ignored_or_blocked_by_the_parent_ends_it_too(
    start: Start, tmp_path: Path, directory: Path
) -> None:
    command: list[str | Path] = ["sh", "-c", 'trap "" INT TERM; exec "$@"', "sh", *METRICSD]
    with running([*command, *options_for(directory)], tmp_path / "log") as metricsd:
        assert metricsd.end(signal.SIGTERM) == 0


def test_main_serves_until_a_stop_signal_whoever_calls_it(tmp_path: Path, directory: Path) -> None:
    script = "import sys, telemetry.metricsd as m; sys.exit(m.main() + 40)"
    command = [sys.executable, "-c", script, *options_for(directory)]
    with running(command, tmp_path / "log") as metricsd:
        assert metricsd.scrape_series() == ""
        assert metricsd.end() == 40


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for the right moment")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_stop_signal_during_the_start_ends_it_with_exit_0(
    directory: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [*METRICSD, *options_for(directory)], stderr=subprocess.PIPE, env=clean_environ()
    ) as process:
        blocked = 1 << (number - 1)
        status = Path(f"/proc/{process.pid}/status")
        mask = re.compile(r"SigBlk:\s*([0-9a-f]+)")
        try:
            wait_for(lambda: int(mask.findall(status.read_text())[0], 16) & blocked)
            process.send_signal(number)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0
    assert b"Traceback" not in errors


def wait_for_work(metricsd: Metricsd) -> None:
    """Wait until an idle metricsd works on something, seen from the time that it uses."""
    process = psutil.Process(metricsd.process.pid)
    before = sum(process.cpu_times())
    wait_for(lambda: sum(process.cpu_times()) > before + 0.02, what="metricsd to work")


def test_a_scrape_under_way_is_answered_before_the_end(start: Start, directory: Path) -> None:
    metricsd = start()
    write_big_shards(directory, files=1, series=1)
    # So that only the next one can be the work, without what a first shard costs.
    assert metricsd.scrape_series().endswith('big_total{check="0"} 1.0\n')
    write_big_shards(directory, files=2, series=3000)
    with metricsd.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        wait_for_work(metricsd)
        assert metricsd.end() == 0
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.0 200 OK")
    assert answer.endswith(b"\n")
    assert answer.count(b"big_total{") == 3000


def test_a_connection_made_while_it_ends_is_left_to_the_next_one(
    start: Start, directory: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, ExitStack() as stack:
        fd = sock.fileno()
        directory.mkdir()
        first = start("--fd", str(fd), pass_fds=[fd])
        assert first.scrape_series() == ""
        write_big_shards(directory, files=200, series=3000)
        request = b"GET /metrics HTTP/1.0\r\n\r\n"
        stack.enter_context(first.connect()).sendall(request)
        wait_for_work(first)
        first.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping" in first.log)
        client = stack.enter_context(first.connect())
        client.sendall(request)
        assert first.process.wait(10) == 0
        for shard in directory.glob("*.db"):
            shard.unlink()
        start("--fd", str(fd), pass_fds=[fd])
        assert client.recv(1000).startswith(b"HTTP/1.0 200 OK")


def test_a_scrape_that_takes_long_does_not_delay_the_end(start: Start, directory: Path) -> None:
    metricsd = start()
    assert metricsd.scrape_series() == ""
    write_big_shards(directory, files=200, series=3000)
    with metricsd.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        wait_for_work(metricsd)
        before = time.monotonic()
        assert metricsd.end() == 0
        assert time.monotonic() - before < 2.5


def test_it_goes_on_when_its_parent_is_killed(tmp_path: Path, directory: Path) -> None:
    command: list[str | Path] = [sys.executable, CHILDREN / "metricsd_parent.py"]
    with running([*command, *options_for(directory)], tmp_path / "log") as parent:
        pid = parent.health()["pid"]
        assert pid != parent.process.pid
        try:
            assert parent.end(signal.SIGKILL) == -signal.SIGKILL
            assert parent.health()["pid"] == pid
        finally:
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not psutil.pid_exists(pid) or is_zombie(pid), what="its end")
        assert parent.log.endswith("metricsd stopped\n")


def is_zombie(pid: int) -> bool:
    # An orphan of ours may have nobody to reap it where no init runs.
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
