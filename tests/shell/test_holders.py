"""Holders of real ports and files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from telemetry.holders import (
    find_file_holders,
    find_port_holder,
    render_command,
    render_holder,
)
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILDREN = Path(__file__).parents[1] / "children"
HOLD = "import sys; f = [open(p, 'ab') for p in sys.argv[1:]]; print('held', flush=True); input()"
LISTEN = """
import socket, sys
s = socket.create_server((sys.argv[1], 0), family=socket.AddressFamily[sys.argv[2]])
print(s.getsockname()[1], flush=True)
input()
"""


@contextmanager
def child(*command: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a Python child until the block ends; gives it with the first line it prints."""
    with subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", "AF_INET"), ("::1", "AF_INET6")])
def test_the_process_that_listens_on_a_port_is_found(host: str, family: str) -> None:
    try:
        socket.create_server((host, 0), family=socket.AddressFamily[family]).close()
    except OSError:
        pytest.skip(f"no {family} here")
    with child("-c", LISTEN, host, family) as (process, port):
        holder = find_port_holder(int(port))
        assert holder is not None
        assert holder.pid == process.pid
        assert render_holder(int(port)).startswith(f"pid {process.pid} ({sys.executable} -c")


INHERIT = """
import socket, subprocess, sys, time
s = socket.create_server(("127.0.0.1", 0))
s.set_inheritable(True)
p = subprocess.Popen([sys.executable, "-c", "input()"], close_fds=False)
print(s.getsockname()[1], flush=True)
input()
p.kill()
"""


def test_of_a_parent_and_the_child_that_inherited_its_socket_the_parent_is_named() -> None:
    with child("-c", INHERIT) as (process, port):
        holder = find_port_holder(int(port))
        assert holder is not None
        assert holder.pid == process.pid
        for heir in psutil.Process(process.pid).children():
            heir.kill()


def test_a_listener_is_found_where_the_system_shows_only_single_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(kind: str) -> None:
        raise psutil.AccessDenied

    with child("-c", LISTEN, "127.0.0.1", "AF_INET") as (process, port):
        monkeypatch.setattr(psutil, "net_connections", refuse)
        holder = find_port_holder(int(port))
        assert holder is not None
        assert holder.pid == process.pid


def test_a_connection_is_no_listener_and_an_unknown_holder_is_named_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        client = socket.create_connection(address)
        accepted, _ = server.accept()
    with client, accepted:
        assert accepted.getsockname() == address
        assert find_port_holder(address[1]) is None
        assert render_holder(address[1]) == "a process that this user may not see"


def test_a_file_is_held_while_its_process_lives(tmp_path: Path) -> None:
    held, free, missing = (tmp_path / name for name in ("held", "free", "missing"))
    held.touch()
    free.touch()
    with child("-c", HOLD, held) as (process, _):
        found = find_file_holders([held, free, missing])
        assert list(found) == [held]
        assert [holder.pid for holder in found[held]] == [process.pid]
    assert find_file_holders([held, free, missing]) == {}


def test_every_holder_of_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "held"
    path.touch()
    with child("-c", HOLD, path) as (one, _), child("-c", HOLD, path) as (two, _):
        holders = find_file_holders([path])[path]
        assert {holder.pid for holder in holders} == {one.pid, two.pid}


def test_a_file_is_known_by_its_inode_and_not_by_its_name(tmp_path: Path) -> None:
    first, other, link = (tmp_path / name for name in ("first", "other", "link"))
    first.touch()
    with child("-c", HOLD, first) as (process, _):
        link.hardlink_to(first)
        first.rename(other)
        first.touch()
        found = find_file_holders([first, other, link])
        assert set(found) == {other, link}
        assert found[other][0].pid == process.pid
        other.unlink()
        assert set(find_file_holders([link])) == {link}


def test_the_shards_of_a_living_writer_are_all_held(tmp_path: Path) -> None:
    with child(CHILDREN / "metricsd_writer.py", tmp_path) as (process, _):
        paths = sorted(tmp_path.iterdir())
        found = find_file_holders(paths)
        assert sorted(found) == paths
        assert {holder.pid for holders in found.values() for holder in holders} == {process.pid}


def test_a_zombie_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "held"
    path.touch()
    with child("-c", HOLD, path) as (process, _):
        process.kill()
        wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert find_file_holders([path]) == {}


@pytest.mark.skipif(
    sys.platform != "linux" or (os.geteuid() != 0 and os.access("/proc/1/fd", os.R_OK)),
    reason="needs a process that this user may not look into",
)
def test_a_process_that_may_not_be_seen_holds_the_shards_of_its_own_pid() -> None:
    script = CHILDREN / "metricsd_stranger.py"
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == "counter_1.db 1\n"


def test_a_command_line_cannot_steer_a_terminal() -> None:
    rendered = render_command(["a\x1b[2Jb", "c\nd", "\u202eevil", "\udc80"])
    # Compared in ASCII, for pytest's own report of a failure is no place for them either.
    assert ascii(rendered) == ascii(r"a\x1b[2Jb c\nd \u202eevil \udc80")


@pytest.mark.parametrize("argument", ["x" * 100_000, "\x1b" * 100_000])
def test_a_command_line_is_cut_to_a_sane_length(argument: str) -> None:
    rendered = render_command(["run", argument])
    assert len(rendered) == 120
    assert rendered.endswith("…")


def test_a_short_command_line_is_not_cut() -> None:
    assert render_command(["python", "x" * 113]) == f"python {'x' * 113}"
