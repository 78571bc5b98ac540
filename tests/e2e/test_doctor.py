"""`ptsup doctor` on set-ups that are really broken: the right cause, and what it says mends it.

Each step that stands between backticks is run as it stands, in a shell; where a step asks for a
change of the program, the test makes just that change.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
import zipfile
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pip
import psutil
import pytest

from stack import EXAMPLE, ROOT, SHADOW, Stack, find_free_port, is_gone
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHILDREN = ROOT / "tests" / "children"
# A session as the project's own: it relies on the two variables, and never raises.
SESSION = """
import os, sys, time
if "early" in sys.argv:
    import prometheus_client
if os.environ.get("PEAKTRADE_METRICS_MODE") == "B":
    os.environ.setdefault(
        "PROMETHEUS_MULTIPROC_DIR", os.environ["PEAKTRADE_METRICS_MULTIPROC_DIR"]
    )
try:
    from prometheus_client import Counter
    count = Counter("peaktrade_risk_blocks", "help", ["reason"]).labels("runtime:halt").inc
except Exception:
    count = lambda: None
while True:
    count()
    time.sleep(0.05)
"""


@dataclass
class Patient:
    """A stack, and what was started by hand beside it."""

    stack: Stack
    by_hand: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        directory = str(self.stack.multiproc_dir)
        return {
            "PEAKTRADE_METRICS_MODE": "B",
            "PEAKTRADE_METRICS_MULTIPROC_DIR": directory,
            "PROMETHEUS_MULTIPROC_DIR": directory,
        }

    def start_by_hand(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=cwd or self.stack.cwd,
            env={**self.stack.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.by_hand.append(process)
        return process

    def start_metricsd(self) -> subprocess.Popen[bytes]:
        words = ("-m", "telemetry.metricsd", "--port", str(self.stack.port))
        process = self.start_by_hand(*words, "--multiproc-dir", ".ops_local/prom_multiproc")
        self.wait_for_page()
        return process

    def wait_for_page(self) -> None:
        def answers() -> bool:
            try:
                return bool(self.stack.scrape())
            except OSError:
                return False

        wait_for(answers, what="the page")

    def write_session(self) -> str:
        (self.stack.cwd / "session.py").write_text(SESSION)
        return "session.py"

    def ask(self) -> list[list[str]]:
        done = self.stack.run("doctor", code=None)
        lines = [line.split("|", 2) for line in done.stdout.splitlines()]
        bad = any(fields[0] == "FAIL" for fields in lines)
        assert done.returncode == (5 if bad else 0), done
        return lines

    def wait_for_cause(self, *causes: str) -> list[str]:
        """Wait until these and no others fail; give back the steps."""
        lines = self.wait_for_failures(set(causes))
        return [fields[1] for fields in lines if fields[0] == "NEXT"]

    def wait_for_failures(self, causes: set[str]) -> list[list[str]]:
        lines: list[list[str]] = []

        def found_them() -> bool:
            lines[:] = self.ask()
            return {fields[1] for fields in lines if fields[0] == "FAIL"} == causes

        try:
            wait_for(found_them, timeout_seconds=25)
        except AssertionError:
            pytest.fail(f"waited for {causes}, found {lines}")
        return lines

    def follow(self, steps: list[str], **changes: Callable[[], None]) -> None:
        """Run what the steps say, and make the changes they ask for, in their order."""
        for step in steps:
            for words, change in changes.items():
                if words.replace("_", " ") in step:
                    change()
            for command in re.findall(r"`([^`]+)`", step):
                done = subprocess.run(
                    ["sh", "-c", command],
                    cwd=self.stack.cwd,
                    env=self.stack.env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=120,
                    check=False,
                )
                assert done.returncode == 0, command
            for process in self.by_hand:
                if process.poll() is None and f"kill {process.pid}`" in step.replace("-9 ", ""):
                    process.wait(10)

    def assert_well(self) -> None:
        """Nothing fails any more, and what sessions count is on the page."""
        self.wait_for_failures(set())

    def wait_for_counts(self) -> None:
        def counts() -> bool:
            return any(self.stack.counters().values())

        wait_for(counts, what="counts on the page")


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    stack = Stack(tmp_path)
    stack.env["PEAK_TRADE_METRICSD_PORT"] = str(stack.port)
    made = Patient(stack)
    try:
        yield made
    finally:
        for process in made.by_hand:
            process.kill()
            process.wait()
        stack.close()
        for other in psutil.process_iter():
            try:
                if other.cwd().startswith(str(tmp_path)):
                    other.kill()
            except psutil.Error:
                continue


def test_all_is_well_with_a_supervisor_and_by_hand(patient: Patient) -> None:
    patient.stack.start("-s", f"a={SHADOW} --loop --speed 100", "-s", "b=sleep 600")
    patient.wait_for_counts()
    patient.assert_well()
    found = {fields[1] for fields in patient.ask()}
    assert {"supervisor", "port-holder", "metricsd-up", "directory", "mode-b"} <= found
    assert {"directory-agrees", "prometheus-client", "shards-written", "values-move"} <= found
    document = json.loads(patient.stack.run("doctor", "--json").stdout)
    assert document["schema"] == "ptsup.doctor/1"
    assert all(each["good"] and not each["next"] for each in document["diagnoses"])
    patient.stack.run("stop", "--timeout", "2")

    patient.start_metricsd()
    patient.start_by_hand(patient.write_session(), env=patient.variables)
    patient.wait_for_counts()
    patient.assert_well()


def test_no_supervisor(patient: Patient) -> None:
    patient.follow(patient.wait_for_cause("supervisor", "metricsd-up"))
    patient.assert_well()


def test_a_supervisor_that_died(patient: Patient) -> None:
    patient.stack.start("-s", f"a={SHADOW} --loop")
    patient.wait_for_counts()
    os.kill(patient.stack.status()["supervisor"]["pid"], signal.SIGKILL)
    patient.follow(patient.wait_for_cause("supervisor"))
    patient.assert_well()


def test_a_port_that_is_taken(patient: Patient) -> None:
    code = f"import socket, time; s = socket.create_server(('', {patient.stack.port})); s.accept()"
    patient.start_by_hand("-c", code)
    patient.follow(patient.wait_for_cause("port-holder"))
    patient.assert_well()


def test_a_supervisor_that_was_stopped_by_a_signal(patient: Patient) -> None:
    patient.stack.start()
    os.kill(patient.stack.status()["supervisor"]["pid"], signal.SIGSTOP)
    patient.follow(patient.wait_for_cause("supervisor"))
    patient.assert_well()


def test_mode_a_by_mistake(patient: Patient) -> None:
    session = patient.write_session()
    command = f"env PEAKTRADE_METRICS_MODE=A {sys.executable} {session}"
    patient.stack.start("-s", f"a={command}")
    patient.follow(patient.wait_for_cause("mode-b"))
    patient.assert_well()
    patient.wait_for_counts()


def test_mode_a_by_mistake_by_hand(patient: Patient) -> None:
    patient.start_metricsd()
    variables = {**patient.variables, "PEAKTRADE_METRICS_MODE": "A"}
    patient.start_by_hand(patient.write_session(), env=variables)
    patient.follow(patient.wait_for_cause("mode-b"))
    patient.assert_well()
    patient.wait_for_counts()


LISTENS = "import socket, time; s = socket.create_server(('', {port})); time.sleep(600)"


def test_what_the_file_plans_is_no_fault_and_what_it_does_not_is(patient: Patient) -> None:
    python, own, awaited, closed = json.dumps(sys.executable), *(find_free_port() for _ in "abc")
    file = patient.stack.cwd / "ptsup.toml"
    file.write_text(
        f"[session.old]\ncommand = [{python}, '-c', {json.dumps(LISTENS.format(port=own))}]\n"
        f"mode = 'A'\nport = {own}\n"
        f"[session.web]\ncommand = [{python}, '-c', {json.dumps(LISTENS.format(port=awaited))}]\n"
        f"ready = {{ port = {awaited} }}\n"
        "[session.wrong]\ncommand = 'env PEAKTRADE_METRICS_MODE=A sleep 600'\n"
        f"[exporter.gone]\ncommand = 'false'\nport = {closed}\nbackoff_seconds = 600\n"
        "backoff_limit_seconds = 600\n"
    )
    patient.stack.run("start", "-d", "-f", str(file), code=None)
    lines = patient.wait_for_failures({"mode-b", "session-up"})
    failed = {fields[1]: fields[2] for fields in lines if fields[0] == "FAIL"}
    assert failed["mode-b"].startswith("wrong: ")
    assert failed["session-up"].startswith("gone: backoff: ")
    assert ["PASS", "mode-b", "old: mode A as configured"] in lines
    assert ["PASS", "session-binds", f"web listens on port {awaited}, as configured"] in lines
    steps = [fields[1].strip("`").split() for fields in lines if fields[0] == "NEXT"]
    verbs = [(words[1], words[-1]) for words in steps if words[0] == "ptsup"]
    assert sorted(verbs) == [("restart", "gone"), ("restart", "wrong")]


def test_another_directory(patient: Patient) -> None:
    other = patient.stack.cwd / "other" / "prom_multiproc"
    other.mkdir(parents=True)
    session = patient.write_session()
    settings = f"PEAKTRADE_METRICS_MULTIPROC_DIR={other} PROMETHEUS_MULTIPROC_DIR={other}"
    patient.stack.start("-s", f"a=env {settings} {sys.executable} {session}")
    patient.follow(patient.wait_for_cause("directory-agrees"))
    patient.assert_well()
    patient.wait_for_counts()


def test_another_directory_that_the_program_itself_sets(patient: Patient) -> None:
    other = patient.stack.cwd / "other"
    other.mkdir()
    wrong = f"import os; os.environ['PROMETHEUS_MULTIPROC_DIR'] = {str(other)!r}\n"
    session = patient.stack.cwd / "session.py"
    session.write_text(wrong + SESSION)
    patient.stack.start("-s", f"a={sys.executable} {session}")
    steps = patient.wait_for_cause("directory-agrees")
    patient.follow(steps, take_that_out=lambda: None, take=lambda: _write(session, SESSION))
    patient.assert_well()
    patient.wait_for_counts()


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def test_a_relative_directory_from_another_place(patient: Patient) -> None:
    elsewhere = patient.stack.cwd / "elsewhere"
    elsewhere.mkdir()
    (patient.stack.cwd / "elsewhere" / "session.py").write_text(SESSION)
    patient.start_metricsd()
    relative = ".ops_local/prom_multiproc"
    variables = {
        "PEAKTRADE_METRICS_MODE": "B",
        "PEAKTRADE_METRICS_MULTIPROC_DIR": relative,
    }
    patient.start_by_hand("session.py", cwd=elsewhere, env=variables)
    patient.follow(patient.wait_for_cause("directory-relative"))
    patient.assert_well()
    patient.wait_for_counts()


def test_prometheus_client_missing_in_the_sessions_environment(
    patient: Patient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away = tmp_path_factory.mktemp("away")
    venv.create(away / "venv", with_pip=False)
    python = away / "venv" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = away / "venv" / "lib" / version / "site-packages"
    shutil.copytree(Path(pip.__file__).parent, packages / "pip")  # ensurepip takes its time
    _build_wheel(away)
    patient.stack.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(away), "PIP_CONFIG_FILE": ""}
    patient.stack.start("-s", f"a={python} {patient.write_session()}")
    patient.follow(patient.wait_for_cause("prometheus-client"))
    patient.assert_well()
    patient.wait_for_counts()


def _build_wheel(directory: Path) -> None:
    """Make a wheel of the prometheus_client that is installed here: a test needs no network."""
    found = distribution("prometheus_client")
    name = directory / f"prometheus_client-{found.version}-py3-none-any.whl"
    with zipfile.ZipFile(name, "w") as wheel:
        for path in found.files or ():
            if path.suffix == ".py" or path.name in {"METADATA", "WHEEL", "RECORD", "py.typed"}:
                wheel.write(str(path.locate()), str(path))


def test_prometheus_client_imported_too_early(patient: Patient) -> None:
    patient.start_metricsd()
    variables = {k: v for k, v in patient.variables.items() if k.startswith("PEAKTRADE")}
    began = time.monotonic()
    patient.start_by_hand(patient.write_session(), "early", env=variables)
    wait_for(lambda: time.monotonic() >= began + 5, what="it to be old enough to be judged")
    patient.follow(patient.wait_for_cause("imported-early"))
    patient.assert_well()
    patient.wait_for_counts()


def test_a_directory_that_was_removed(patient: Patient) -> None:
    patient.stack.start("-s", f"a={sys.executable} {patient.write_session()}")
    patient.wait_for_counts()
    shutil.rmtree(patient.stack.multiproc_dir)
    patient.follow(patient.wait_for_cause("directory"))
    patient.assert_well()
    patient.wait_for_counts()


def test_a_session_that_holds_the_port(patient: Patient) -> None:
    patient.start_by_hand(str(EXAMPLE), "--loop", "--speed", "100")
    patient.wait_for_page()
    assert "peaktrade_" in patient.stack.scrape()
    patient.follow(patient.wait_for_cause("session-binds"))
    patient.assert_well()
    patient.wait_for_counts()


def test_a_session_that_listens_beside_metricsd(patient: Patient) -> None:
    session = patient.stack.cwd / "session.py"
    session.write_text("import socket; s = socket.create_server(('', 0))\n" + SESSION)
    patient.stack.start("-s", f"a={sys.executable} {session}")
    steps = patient.wait_for_cause("session-binds")
    patient.follow(steps, out_of_its_program=lambda: _write(session, SESSION))
    patient.assert_well()


def test_a_metricsd_that_was_stopped_by_a_signal(patient: Patient) -> None:
    patient.start_metricsd().send_signal(signal.SIGSTOP)
    patient.follow(patient.wait_for_cause("metricsd-up"))
    patient.assert_well()


def test_a_metricsd_that_has_ended(patient: Patient) -> None:
    metricsd = patient.start_metricsd()
    patient.start_by_hand(patient.write_session(), env=patient.variables)
    patient.wait_for_counts()
    metricsd.terminate()
    metricsd.wait(10)
    patient.follow(patient.wait_for_cause("supervisor", "metricsd-up"))
    patient.assert_well()
    patient.wait_for_counts()


def test_a_metricsd_that_hangs(patient: Patient) -> None:
    """It accepts, and never answers: as one does whose every thread waits."""
    code = "import socket, sys, time; s = socket.create_server(('', int(sys.argv[1])))"
    (patient.stack.cwd / "pt_metricsd.py").write_text(f"{code}\ntime.sleep(600)\n")
    patient.start_by_hand("pt_metricsd.py", str(patient.stack.port))

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", patient.stack.port)) == 0

    wait_for(listens, what="it to listen")
    patient.follow(patient.wait_for_cause("metricsd-up"))
    patient.assert_well()


DROPPED = """
import sys, time
sys.path.insert(0, {root!r})
import telemetry
telemetry.ensure_registered()
while True:
    telemetry.inc_strategy_signal(strategy_id="a", signal={signal!r})
    time.sleep(0.05)
"""


# Mended, and with nothing to count yet.
QUIET: Final = DROPPED.partition("while")[0] + "time.sleep(600)\n"


def test_an_allowlist_that_drops_everything(patient: Patient) -> None:
    session, stack = patient.stack.cwd / "session.py", patient.stack
    session.write_text(DROPPED.format(root=str(ROOT), signal="BUY"))
    stack.start("-s", f"a={sys.executable} {session}")
    steps = patient.wait_for_cause("allowlist")
    (step,) = [step for step in steps if "one of" in step]
    assert step == "write signal in its program as one of: long, short, flat"
    # What the former incarnation said is said no more, under the next supervisor neither.
    patient.follow(steps, one_of=lambda: _write(session, QUIET.format(root=str(ROOT))))
    wait_for(lambda: stack.session("a")["shards"], what="its shards")
    patient.assert_well()
    supervisor = stack.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: is_gone(supervisor))
    stack.run("start", "-d")
    patient.assert_well()
    good = DROPPED.format(root=str(ROOT), signal=step.rpartition(": ")[2].split(", ")[0])
    _write(session, good)
    stack.run("restart", "a")
    patient.wait_for_counts()


def test_a_label_that_keeps_everything_off_the_page(patient: Patient) -> None:
    session = patient.stack.cwd / "session.py"
    session.write_text(SESSION.replace('"reason"', '"symbol"'))
    patient.stack.start("-s", f"a={sys.executable} {session}")
    steps = patient.wait_for_cause("label-policy")
    patient.follow(steps, take_that_label_out=lambda: _write(session, SESSION))
    patient.stack.run("restart", "a")
    patient.wait_for_counts()


def test_a_metricsd_that_only_this_machine_reaches(patient: Patient) -> None:
    if not any(
        address.family == socket.AF_INET and not address.address.startswith("127.")
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
    ):
        pytest.skip("this machine has no address but the loopback")
    patient.stack.start("--host", "127.0.0.1")
    patient.follow(patient.wait_for_cause("reachable"))
    patient.assert_well()
