"""The loop, a turn at a time: what is done twice by mistake is done once."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from shortage import without_descriptors
from supervisor import kernel
from supervisor.config import METRICSD, METRICSD_POLICY, Config, Policy
from supervisor.control import Request, parse_response
from supervisor.deaths import Deaths
from supervisor.errors import PtsupError
from supervisor.events import Exited, Tick
from supervisor.lifecycle import CLAIM_AGAIN_SECONDS
from supervisor.loop import Loop
from supervisor.process import Process, State, Target
from supervisor.rundir import RunDir
from supervisor.serve import Server
from supervisor.spawn import spawn
from supervisor.step import build_fleet
from supervisor.verbs import Verbs
from telemetry.processes import is_alive
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES: Final = tuple(f"s{number}" for number in range(20))


def build_running(name: str, pid: int) -> Process:
    return Process(
        name=name,
        policy=METRICSD_POLICY if name == METRICSD else Policy(),
        state=State.RUNNING,
        target=Target.UP,
        incarnation=1,
        pid=pid,
        started_at=time.monotonic(),
    )


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """A loop that has not been run."""
    shards = tmp_path / "prom_multiproc"
    shards.mkdir()
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    assert run_dir.lock()
    with socket.socket() as listener:
        yield Loop(
            config=Config(host="127.0.0.1", port=9, multiproc_dir=shards),
            run_dir=run_dir,
            listener=listener,
        )
    run_dir.unlock()


def test_who_is_claimed_late_is_claimed_and_reaped_once(loop: Loop, tmp_path: Path) -> None:
    for name in NAMES:
        output = loop.run_dir.open_log(name)
        child = spawn(name, 1, ["sleep", "600"], environment={}, cwd=tmp_path, output=output)
        os.close(output)
        loop.children.present[name] = child
    pids = {name: child.pid for name, child in loop.children.present.items()}
    metricsd = build_running(METRICSD, 1)
    former = [metricsd, *(build_running(name, pid) for name, pid in pids.items())]
    loop.fleet = build_fleet((), exit_when_done=False, former=former)
    for name in NAMES:
        loop.deaths.signal(name, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, pids.values())), what="their ends")

    # So many have died that the first has waited for its claim too long when the last is told of.
    for name in NAMES:
        loop._decide(Exited(name, 1, -signal.SIGKILL, remains=False))
    late = time.monotonic() + CLAIM_AGAIN_SECONDS
    wait_for(lambda: time.monotonic() > late)
    loop._take(Tick())

    assert not loop.children.present
    found = [loop.fleet.find(name) for name in NAMES]
    assert {(p.state, p.returncode) for p in found if p} == {(State.EXITED, -signal.SIGKILL)}


@pytest.mark.skipif(sys.platform != "linux", reason="others are looked at by ps there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("kept", [True, False])
def test_a_child_is_signalled_and_its_end_found_without_descriptors(
    loop: Loop, tmp_path: Path, number: int, *, kept: bool
) -> None:
    output = loop.run_dir.open_log("a")
    child = spawn("a", 1, ["sleep", "600"], environment={}, cwd=tmp_path, output=output)
    os.close(output)
    loop.children.present["a"] = child
    kernel.find_children()
    if kept:
        loop.deaths.reserve.fill()
    with without_descriptors():
        loop.deaths.signal("a", number)
        wait_for(lambda: not is_alive(child.pid) or kernel.peek(child.pid), what="its end")
        assert loop.deaths.find_exits() == [Exited("a", 1, -number, remains=False)]
    loop.deaths.reserve.spend()
    loop.deaths.reap("a", None)


def test_an_exit_is_told_though_no_orphan_can_be_reaped(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Deaths) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    output = loop.run_dir.open_log("a")
    child = spawn("a", 1, ["true"], environment={}, cwd=tmp_path, output=output)
    os.close(output)
    loop.children.present["a"] = child
    wait_for(lambda: kernel.peek(child.pid), what="its end")
    monkeypatch.setattr(Deaths, "reap_strangers", refuse)
    assert loop._find_exits() == [Exited("a", 1, 0, remains=False)]
    loop.deaths.reap("a", None)


def test_a_page_that_could_not_be_written_is_not_tried_for_ever(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pid: int) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    loop.publisher.publish()
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "read_identity", refuse)
        loop.publisher.publish()
        assert loop.publisher._failed
    loop.publisher.publish()
    assert not loop.publisher._failed


def test_what_the_system_refuses_a_client_is_its_answer(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_request: Request) -> dict[str, Any]:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    async def ask() -> bytes:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        heard, answering = await asyncio.open_connection(sock=theirs)
        server = Server(loop)
        monkeypatch.setattr(Verbs, "answer", lambda _self, request: refuse(request))
        writer.write(b'{"v": 1, "verb": "status"}\n')
        await server._serve(heard, answering)
        answer = await reader.readline()
        writer.close()
        await writer.wait_closed()
        await answering.wait_closed()
        return answer

    with pytest.raises(PtsupError, match="cannot status: Too many open files in system"):
        parse_response(asyncio.run(ask()))


def test_who_waits_for_the_end_is_not_told_of_one_that_did_not_come(loop: Loop) -> None:
    async def fail() -> bytes:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        _, answering = await asyncio.open_connection(sock=theirs)
        server = Server(loop)
        server._finishing.append(answering)
        await server.close()  # as it is when the loop has raised
        line = await reader.readline()
        for each in (writer, answering):
            each.close()
        return line

    with pytest.raises(PtsupError, match="failed before everything was stopped"):
        parse_response(asyncio.run(fail()))
