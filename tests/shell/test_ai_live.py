"""The AI live exporter as a process: what its page says after what was written into the file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon_process import Daemon, run_daemon
from stack import ROOT, build_environment
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from stack import Series

AI_LIVE = (sys.executable, "-P", "-m", "telemetry.ai_live")
WITHOUT = (sys.executable, str(ROOT / "tests" / "children" / "ai_live_without.py"))
EMIT = (sys.executable, str(ROOT / "examples" / "emit_ai_live_events.py"))

# `make ai-live` sends a million.
EVENTS = int(os.environ.get("PTSUP_AI_EVENTS", "20000"))


class Exporter(Daemon):
    STARTED = re.compile(r" INFO ai_live started on (\S+):(\d+) events=(.*)\n")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            body: bytes = answer.read()
        return body.decode()

    def families(self) -> dict[str, Metric]:
        page = self.get("/metrics")
        return {family.name: family for family in text_string_to_metric_families(page)}

    def samples(self) -> dict[Series, float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families().values()
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        return sum(
            value
            for (found, pairs), value in self.samples().items()
            if found == name and labels.items() <= dict(pairs).items()
        )

    def decisions(self, **labels: str) -> float:
        return self.total("peaktrade_ai_decisions_total", **labels)


@contextmanager
def exporting(
    cwd: Path,
    *options: str,
    command: tuple[str, ...] = AI_LIVE,
    more: Mapping[str, str] = MappingProxyType({}),
    **env: str,
) -> Iterator[Exporter]:
    """Run an exporter until the block ends, from the moment it says that it started."""
    given = {"PEAK_TRADE_AI_EVENTS_JSONL": "logs/ai/ai_events.jsonl", **env, **more}
    words = [*command, "--port", "0", *options]
    environ = build_environment(**given)
    with run_daemon(Exporter, words, cwd / "ai_live.log", cwd=cwd, env=environ) as exporter:
        yield exporter


def emit(cwd: Path, *options: str) -> Path:
    out = cwd / "logs" / "ai" / "ai_events.jsonl"
    subprocess.run(
        [*EMIT, "--out", str(out), "--interval-ms", "0", *options], check=True, capture_output=True
    )
    return out


def append(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_the_first_page_has_what_was_emitted_before_the_start(tmp_path: Path) -> None:
    """The runbook's order: first the sample events, then the exporter, without any flag."""
    out = tmp_path / "logs" / "ai" / "ai_events.jsonl"
    emitted = subprocess.run(
        [*EMIT, "--out", str(out), "--n", "5", "--interval-ms", "10"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert emitted.stdout == f"5 events appended to {out}\n"
    for options in ((), ("--from-start",)):
        with exporting(tmp_path, *options) as exporter:
            assert exporter.decisions() == 5
            assert exporter.decisions(decision="accept", run_id="demo") == 2
            assert exporter.total("peaktrade_ai_actions_total", action="submit") == 1
            emit(tmp_path, "--n", "5", "--run-id", "next")
            wait_for(lambda: exporter.decisions(run_id="next") == 5)
            out.write_text("".join(out.read_text().splitlines(keepends=True)[:5]))


def test_from_the_end_only_what_comes_is_counted(tmp_path: Path) -> None:
    emit(tmp_path, "--n", "5")
    with exporting(tmp_path, "--from-end") as exporter:
        assert exporter.decisions() == 0
        emit(tmp_path, "--n", "3")
        wait_for(lambda: exporter.decisions() == 3)


def test_the_sample_events_are_the_same_each_time(tmp_path: Path) -> None:
    files = [emit(tmp_path / name, "--n", "20", "--epoch", "1000") for name in ("a", "b")]
    first, second = (file.read_bytes() for file in files)
    assert first == second
    events = [json.loads(line) for line in first.splitlines()]
    assert len(events) == 20
    assert set(events[0]) == {
        *("v", "ts_utc", "run_id", "component"),
        *("decision", "reason", "action", "latency_ms"),
    }


def test_the_page_has_the_families_and_labels_that_dashboards_know(tmp_path: Path) -> None:
    out = emit(tmp_path, "--n", "1", "--epoch", "1000")
    append(out, "garbage", '{"v":2}')
    with exporting(tmp_path) as exporter:
        families = exporter.families()
        samples = exporter.samples()
    labels = {
        name: {frozenset(sample.labels) for sample in family.samples}
        for name, family in families.items()
    }
    run = {"component", "run_id"}
    assert labels == {
        "peaktrade_ai_decisions": {frozenset({"decision", "reason", *run})},
        "peaktrade_ai_actions": {frozenset({"action", *run})},
        "peaktrade_ai_decision_latency_seconds": {frozenset(run), frozenset({"le", *run})},
        "peaktrade_ai_last_decision_timestamp_seconds": {frozenset(run)},
        "peaktrade_ai_live_heartbeat": {frozenset(run)},
        "peaktrade_ai_events_parse_errors": {frozenset({"source"})},
        "peaktrade_ai_events_dropped": {frozenset({"source", "reason"})},
    }
    assert families["peaktrade_ai_decisions"].documentation == "Total number of AI decisions made."
    executed = families["peaktrade_ai_actions"].documentation
    assert executed == "Total number of AI actions executed."
    buckets = [
        sample.labels["le"]
        for sample in families["peaktrade_ai_decision_latency_seconds"].samples
        if sample.labels.get("run_id") == "demo" and "le" in sample.labels
    ]
    assert buckets == [
        *("0.001", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5"),
        *("1.0", "2.5", "5.0", "10.0", "+Inf"),
    ]
    demo = (("component", "execution_watch"), ("run_id", "demo"))
    assert samples["peaktrade_ai_last_decision_timestamp_seconds", demo] == 1000
    assert samples["peaktrade_ai_decision_latency_seconds_sum", demo] == 0.085
    assert samples["peaktrade_ai_live_heartbeat", demo] == 1
    assert samples["peaktrade_ai_events_parse_errors_total", (("source", "jsonl"),)] == 1
    reason = (("reason", "v"), ("source", "jsonl"))
    assert samples["peaktrade_ai_events_dropped_total", reason] == 1


def test_without_a_file_the_heartbeat_is_there_and_the_file_is_waited_for(tmp_path: Path) -> None:
    with exporting(
        tmp_path, PEAK_TRADE_AI_RUN_ID="night/7", PEAK_TRADE_AI_COMPONENT="desk"
    ) as exporter:
        heartbeat = exporter.total("peaktrade_ai_live_heartbeat", run_id="night7", component="desk")
        assert heartbeat == 1
        assert "cannot read the events file: No such file or directory" in exporter.log
        out = tmp_path / "logs" / "ai" / "ai_events.jsonl"
        append(out, '{"v":1,"decision":"noop"}')
        wait_for(lambda: exporter.decisions(run_id="night7", component="desk") == 1)
        assert json.loads(exporter.get("/healthz"))["events_jsonl"] == "logs/ai/ai_events.jsonl"
        assert exporter.end() == 0


def test_runs_beyond_the_bound_are_dropped_and_counted(tmp_path: Path) -> None:
    out = tmp_path / "logs" / "ai" / "ai_events.jsonl"
    lines = [f'{{"v":1,"decision":"noop","run_id":"{n:040d}{n % 9}"}}' for n in range(100)]
    append(out, *lines, *(line.replace("0" * 30, f"r{n}") for n, line in enumerate(lines)))
    with exporting(tmp_path) as exporter:
        runs = {dict(pairs).get("run_id") for _, pairs in exporter.samples()} - {None}
        assert len(runs) == 64
        assert max(len(run) for run in runs if run) == 32
        counted = exporter.decisions()
        dropped = exporter.total("peaktrade_ai_events_dropped_total", reason="too_many_runs")
        assert (counted + dropped, dropped > 0) == (200, True)


@pytest.mark.parametrize("variable", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_the_shard_directory_gets_no_shard_of_the_exporter(tmp_path: Path, variable: str) -> None:
    shards = tmp_path / "prom_multiproc"
    shards.mkdir()
    emit(tmp_path, "--n", "5")
    with exporting(tmp_path, more={variable: str(shards)}) as exporter:
        assert exporter.decisions() == 5
        assert "pid" not in exporter.get("/metrics")
    assert not list(shards.iterdir())


def test_without_prometheus_client_it_warns_and_its_page_is_empty(tmp_path: Path) -> None:
    with exporting(tmp_path, command=(*WITHOUT, "prometheus_client")) as exporter:
        assert exporter.get("/metrics") == ""
        assert "WARNING cannot import prometheus_client: /metrics stays empty" in exporter.log
        assert "Traceback" not in exporter.log


@pytest.mark.parametrize(
    ("env", "options", "says"),
    [
        ({"PEAK_TRADE_AI_EVENTS_JSONL": " "}, (), "PEAK_TRADE_AI_EVENTS_JSONL is not set"),
        ({"PEAK_TRADE_AI_EXPORTER_PORT": "http"}, (), "'http' is not a port"),
        ({}, ("--port", "70000"), "'70000' is not a port"),
        ({}, ("--from-start", "--from-end"), "not allowed with"),
    ],
)
def test_bad_options_are_refused_in_two_lines(
    tmp_path: Path, env: dict[str, str], options: tuple[str, ...], says: str
) -> None:
    given = {"PEAK_TRADE_AI_EVENTS_JSONL": "events.jsonl", **env}
    done = subprocess.run(
        [*AI_LIVE, *options],
        cwd=tmp_path,
        env=build_environment(**given),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    first, hint = done.stderr.splitlines()
    assert first.startswith("ai_live: cannot start: ")
    assert says in first
    assert hint.startswith("hint: ")


def test_a_held_port_is_refused_naming_who_holds_it(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            AI_LIVE,
            cwd=tmp_path,
            env=build_environment(
                PEAK_TRADE_AI_EVENTS_JSONL="events.jsonl", PEAK_TRADE_AI_EXPORTER_PORT=port
            ),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert done.returncode == 7
    assert f"pid {os.getpid()}" in done.stderr


class Writer:
    """Writes a stream of events with 1 % garbage, and knows what it has to come to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True)
        self.file = path.open("ab", buffering=1 << 16)
        self.written = 0
        self.good = 0
        self.garbage = 0

    def write(self, count: int) -> None:
        for number in range(self.written, self.written + count):
            if number % 100 == 99:
                self.file.write(b'{"v":1,"decision":"acc\xff\n')
                self.garbage += 1
            else:
                decision = (b"accept", b"reject", b"noop")[number % 3]
                self.file.write(
                    b'{"v":1,"ts_utc":"2026-01-02T03:04:05.500Z","run_id":"demo-%d",'
                    b'"component":"execution_watch","decision":"%s","reason":"none",'
                    b'"action":"none","latency_ms":%d}\n' % (number % 5, decision, number % 1000)
                )
                self.good += 1
        self.written += count
        self.file.flush()

    def rotate(self, number: int) -> None:
        self.path.rename(self.path.with_suffix(f".{number}"))
        self.write(10)  # into the old file still, as a writer does that has not noticed
        self.file.close()
        self.file = self.path.open("ab", buffering=1 << 16)

    def close(self) -> None:
        self.file.close()

    def truncate(self) -> None:
        os.truncate(self.path, 0)


def test_a_long_stream_with_garbage_rotations_and_a_truncation_is_counted_exactly(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path / "logs" / "ai" / "ai_events.jsonl")
    part = EVENTS // 5
    with contextlib.closing(writer), exporting(tmp_path) as exporter:
        memory = psutil.Process(exporter.process.pid)

        def counted() -> bool:
            found = exporter.decisions(), exporter.total("peaktrade_ai_events_parse_errors_total")
            return found == (writer.good, writer.garbage)

        writer.write(part)
        wait_for(counted, timeout_seconds=90)
        first = memory.memory_info().rss
        for number in range(3):
            writer.rotate(number)
            writer.write(part)
        wait_for(counted, timeout_seconds=90)
        # What nobody has read when it is cut off is gone, so this comes after.
        writer.truncate()
        writer.write(EVENTS - writer.written)
        wait_for(counted, timeout_seconds=90)
        grown = memory.memory_info().rss - first
        assert writer.written == EVENTS
        assert exporter.total("peaktrade_ai_decision_latency_seconds_count") == writer.good
        # The file holds 160 bytes an event: read whole, a million would be 160 MB.
        assert grown < 8 << 20, f"{grown / (1 << 20):.1f} MiB more"
        print(f"{EVENTS} events, {grown / 1024:.0f} KiB more memory")
