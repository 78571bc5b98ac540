"""The only process starter. It starts, signals groups, peeks and reaps; it decides nothing.

For the moment of a spawn this process is in the child's directory: nothing of the supervisor,
in whatever thread, may use a relative path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor import kernel
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# The machine is short of something now; the same command may start later.
_PASSING: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC})
# exec looks further on PATH, and this says nothing about what it found before.
_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
# Python ignores these; its children are not to.
_IGNORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)
# It sets the limits on itself and becomes the command: nothing runs between fork and exec.
_CONFINE: Final = Path(__file__).with_name("confine.py")


class SpawnError(Exception):
    """The child could not be started; `final` when trying again cannot help."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


@dataclass(frozen=True, slots=True)
class Child:
    """One incarnation of a process, ours until it is reaped."""

    name: str
    incarnation: int
    pid: int  # the leader's, which is its group's number too


def check_command(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
    """Refuse, before anything is started, a command that could not be; raises UsageError."""
    program = command[0]
    if not cwd.is_dir():
        raise UsageError(f"no such working directory: {cwd}")
    if "/" in program:
        path = cwd / program
        if not path.exists():
            raise UsageError(f"no such program: {program}", f"looked for {path}")
        if path.is_dir() or not os.access(path, os.X_OK):
            raise UsageError(f"not an executable program: {program}", f"try: chmod +x {path}")
    elif shutil.which(program, path=environment.get("PATH", os.defpath)) is None:
        raise UsageError(f"no such program: {program}", "it is not on PATH; give its whole path")


def check_limits(limits: Mapping[str, int | None]) -> None:
    """Refuse limits that this user may not set or this system does not know; raises UsageError."""
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None:
            raise UsageError(f"limits.{name}: this system has no such limit")
        _, hard = resource.getrlimit(number)
        if os.geteuid() == 0 or hard == resource.RLIM_INFINITY:
            continue
        if value is None or value > hard:
            raise UsageError(
                f"limits.{name}: at most {hard} can be had here", "see `ulimit -H` of your shell"
            )


def keep_descriptors() -> None:
    """Let no child have what whoever started us left open; what we open ourselves none gets."""
    for descriptor in kernel.list_own_descriptors():
        if descriptor > 2:
            with contextlib.suppress(OSError):  # what they were listed with is closed again
                os.set_inheritable(descriptor, False)


def _build_confinement(
    limits: Mapping[str, int | None], descriptors: int | None, ctype: str | None
) -> list[str]:
    """Build the words that go before a command that runs under limits."""
    settings = [f"{name}={'unlimited' if n is None else n}" for name, n in limits.items()]
    if descriptors is not None and "nofile" not in limits:
        settings.append(f"nofile={descriptors}:")
    settings.append("LC_CTYPE" if ctype is None else f"LC_CTYPE={ctype}")
    # -I -S: nothing of the session's own Python is read, and it takes some 10 ms.
    return [sys.executable, "-I", "-S", str(_CONFINE), *settings, "--"]


def spawn(
    name: str,
    incarnation: int,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    output: int,
    pass_fds: Sequence[int] = (),
    limits: Mapping[str, int | None] | None = None,
    descriptors: int | None = None,  # the soft limit, where it is not to be ours
) -> Child:
    """Start a child in a session and group of its own, its output going to `output`.

    To a file, not a pipe: a dead supervisor can't end it with SIGPIPE. Raises SpawnError.
    """
    words = list(command)
    if limits or descriptors is not None:
        # By the child itself: after its start it may have raised its limit, and relies on that.
        ctype = environment.get("LC_CTYPE")
        words = [*_build_confinement(limits or {}, descriptors, ctype), *command]
    if "" in environment:  # as a starter may have it; posix_spawn takes none
        environment = {key: value for key, value in environment.items() if key}
    try:
        pid = _start_there(cwd, words, environment, output, pass_fds)
    except OSError as error:
        reason = f"cannot start {command[0]!r}: {error.strerror or error}"
        raise SpawnError(reason, final=error.errno not in _PASSING) from error
    # A character no file system encoding has; a Python whose posix_spawn knows no sessions.
    except (ValueError, NotImplementedError) as error:
        texts = (*words, *environment, *environment.values())
        reason = "a null byte is in what it is given" if "\0" in "".join(texts) else str(error)
        raise SpawnError(f"cannot start {command[0]!r}: {reason}", final=True) from error
    return Child(name, incarnation, pid)


def _start_there(
    cwd: Path,
    words: list[str],
    environment: Mapping[str, str],
    output: int,
    pass_fds: Sequence[int],
) -> int:
    """Start a program in its directory, to which its name, #! and PATH may be relative.

    What is passed keeps its number; nobody but us starts anything meanwhile. Raises SpawnError,
    OSError and ValueError.
    """
    home = _open_home()
    try:
        try:
            os.chdir(cwd)
        except OSError as error:
            reason = f"cannot enter {cwd}: {error.strerror}"
            raise SpawnError(reason, final=error.errno not in _PASSING) from error
        for descriptor in pass_fds:
            os.set_inheritable(descriptor, True)
        return _start(words, environment, output)
    finally:
        for descriptor in pass_fds:
            os.set_inheritable(descriptor, False)
        try:
            os.fchdir(home)
        except OSError:  # nobody may enter it any more
            os.chdir("/")
        finally:
            os.close(home)


def _open_home() -> int:
    """Open the directory we are in, or one to come back to instead: we need no place of ours."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(".", flags)
    except OSError:
        return os.open("/", flags)


def _start(words: list[str], environment: Mapping[str, str], output: int) -> int:
    """Start the first program of that name that exec takes; give back its pid.

    Raises OSError, as execvp would, and ValueError.
    """
    actions = [
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
    ]
    refusal: OSError | None = None
    for path in _find_programs(words[0], environment):
        try:
            return os.posix_spawn(
                path, words, environment, file_actions=actions, setsid=True, setsigdef=_IGNORED
            )
        except OSError as error:
            if refusal is None and error.errno not in _NOT_THERE:
                refusal = error
    raise refusal or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _find_programs(name: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Find where the child's own PATH, not ours, has a program; whether it may run, exec says."""
    if "/" in name:
        yield name
        return
    for directory in environment.get("PATH", os.defpath).split(os.pathsep):
        path = f"{directory}/{name}" if directory else name
        try:
            os.stat(path)  # noqa: PTH116 - a Path takes longer
        except OSError as error:
            if error.errno in _NOT_THERE:
                continue
        yield path


def signal_group(child: Child, number: int) -> None:
    """Send a signal to the child's whole group, which its unreaped leader pins."""
    # Nobody but the zombie is left (macOS says EPERM then), or a member changed its user.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
        if number != signal.SIGKILL:  # one that is stopped would not notice
            os.killpg(child.pid, signal.SIGCONT)


def peek(child: Child) -> kernel.Exit | None:
    """Look whether the leader is dead, leaving the zombie; None while it lives."""
    return kernel.peek(child.pid)


def reap(child: Child) -> int | None:
    """Give a dead leader's pid back to the kernel; None when somebody else took its status."""
    try:
        _, status = os.waitpid(child.pid, 0)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status)


def signal_orphan(pid: int, number: int) -> None:
    """Signal an orphan that became our child, which pins its pid until we reap it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def reap_stranger(pid: int) -> None:
    """Reap a dead orphan that became our child; its status is nobody's concern."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
