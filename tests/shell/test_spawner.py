"""A batch of spawns: one that fails is told of, and is nobody else's concern."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from supervisor import kernel
from supervisor.admission import admit
from supervisor.config import Config, SessionSpec
from supervisor.environ import build_starter
from supervisor.events import Spawned, SpawnFailed
from supervisor.loop import Loop
from supervisor.process import Process, State, Target
from supervisor.rundir import RunDir
from supervisor.step import build_fleet
from telemetry.processes import read_identity

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES: Final = ("first", "unwritable", "forbidden", "gone", "last")


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """A loop that has not been run, and the sessions it has been asked for."""
    shards, directory, settings = (tmp_path / n for n in ("prom_multiproc", "desk", "paper.toml"))
    shards.mkdir()
    directory.mkdir()
    settings.write_text("mode = 'paper'\n")
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    assert run_dir.lock()
    with socket.socket() as listener:
        loop = Loop(
            config=Config(host="127.0.0.1", port=9, multiproc_dir=shards),
            run_dir=run_dir,
            listener=listener,
        )
        starter, asked = build_starter(dict(os.environ)), []
        for name in NAMES:
            words = ("--config", str(settings)) if name == "forbidden" else ()
            command = ("sh", "-c", "exec sleep 600", *words)
            cwd = directory if name == "gone" else tmp_path
            spec = SessionSpec(name=name, command=command, cwd=cwd)
            loop.members[name] = admit(spec, starter, shards)
            asked.append(
                Process(
                    name=name,
                    policy=spec.policy,
                    state=State.STARTING,
                    target=Target.UP,
                    incarnation=1,
                )
            )
        loop.fleet = build_fleet((), exit_when_done=False, former=asked)
        yield loop
    run_dir.unlock()


@contextmanager
def spawn(loop: Loop) -> Iterator[dict[str, Spawned | SpawnFailed]]:
    """Spawn whoever is asked for, and end whoever was."""
    told = loop.spawner.spawn([process for name in NAMES if (process := loop.fleet.find(name))])
    try:
        yield {event.name: event for event in told}
    finally:
        for child in loop.children.present.values():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)


def holds_lock(loop: Loop, name: str) -> bool:
    nonce = loop.children.find_nonce(name)
    return bool(nonce) and kernel.SpawnLock(loop.run_dir.states, nonce).is_held()


def count_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_who_cannot_be_spawned_keeps_nobody_else_from_it(loop: Loop, tmp_path: Path) -> None:
    loop.run_dir.log("unwritable").mkdir()
    loop.run_dir.log("last").write_text("said before\n")
    (tmp_path / "paper.toml").write_text("mode = 'live'\n")  # since it was admitted
    shutil.rmtree(tmp_path / "desk")
    before = count_descriptors()
    with spawn(loop) as told:
        assert count_descriptors() == before
        reasons = {n: e.reason for n, e in told.items() if isinstance(e, SpawnFailed)}
        pids = {name: e.pid for name, e in told.items() if isinstance(e, Spawned)}
        assert reasons.keys() == {"unwritable", "forbidden", "gone"}
        assert reasons["unwritable"].startswith(f"cannot open {loop.run_dir.log('unwritable')}: ")
        assert "live" in reasons["forbidden"]
        assert reasons["gone"] == f"cannot enter {tmp_path / 'desk'}: No such file or directory"
        assert pids == {name: child.pid for name, child in loop.children.present.items()}
        for name, pid in pids.items():
            assert loop.children.origins[name].identity == read_identity(pid)
            assert holds_lock(loop, name)
        assert loop.children.origins["last"].log_start == len("said before\n")
    # Who was not spawned has no intent, and only who lives holds a lock.
    states = loop.run_dir.read_states()
    intents = {name for name, state in states.items() if state.get("nonce")}
    assert intents == {"first", "last"}
    # Whoever adopts it is not to take for its own what a former incarnation said.
    assert states["last"]["log_start"] == len("said before\n")
    assert not [name for name in NAMES if holds_lock(loop, name)]


def test_who_cannot_be_identified_at_its_spawn_is_as_soon_as_that_can_be(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortage = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    def look(pid: int) -> str | None:
        if shortage:
            raise shortage[0]
        return read_identity(pid)

    monkeypatch.setattr(kernel, "read_identity", look)
    with spawn(loop):
        loop._write_down()
        assert loop.children.origins["last"].identity is None
        shortage.clear()
        loop._write_down()
        pid = loop.children.present["last"].pid
        assert loop.run_dir.read_states()["last"]["identity"] == read_identity(pid)


def test_nobody_is_spawned_whose_lock_cannot_be_had(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_lock: kernel.SpawnLock) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(kernel.SpawnLock, "take", refuse)
    with spawn(loop) as told:
        assert not loop.children.present
        reasons = {event.reason for event in told.values() if isinstance(event, SpawnFailed)}
        assert reasons == {"cannot lock its spawn: Too many open files"}
    assert not any(state.get("nonce") for state in loop.run_dir.read_states().values())


def test_nobody_is_spawned_whose_intent_cannot_be_written(loop: Loop) -> None:
    loop.run_dir.journal.mkdir()
    before = count_descriptors()
    with spawn(loop) as told:
        assert not loop.children.present
        assert told.keys() == set(NAMES)
        reasons = {e.reason for e in told.values() if isinstance(e, SpawnFailed) and not e.final}
        assert reasons == {"cannot write its state down"}
    assert count_descriptors() == before
    assert not [name for name in NAMES if holds_lock(loop, name)]
