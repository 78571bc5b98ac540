"""The control socket: who may ask, how much and for how long.

Only this user (and root) is answered, and no client costs another one its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import select
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from supervisor import kernel
from supervisor.control import (
    LINE_LIMIT_BYTES,
    parse_request,
    render_error,
    render_result,
)
from supervisor.errors import PtsupError
from supervisor.fleet import Phase
from supervisor.trouble import Trouble
from supervisor.verbs import Verbs

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from supervisor.loop import Loop

REQUEST_LIMIT_SECONDS: Final = 10.0
_HURRY_SECONDS: Final = 1.0
# Descriptors that clients may not take: for the children's logs and pipes, for looking around,
# for the probes. A supervisor without any is no supervisor.
_RESERVED: Final = 32
# However many there are, each may hold a request of LINE_LIMIT_BYTES: no more clients than that.
_CLIENTS_AT_MOST: Final = 256
# Who does not take its answer in time goes without.
SEND_LIMIT_SECONDS: Final = 10.0
# One that has shut its writing side waits for its answer, or has left: looked at so often.
_LOOK_SECONDS: Final = 0.5
_BLOCK: Final = 1 << 16
# However few there are, somebody must be able to ask, and to follow.
_CLIENTS_ANYWAY: Final = 8
# asyncio takes in so many connections before one of them is served, so before it can be refused.
_ACCEPTED_AT_ONCE: Final = 4
# No descriptor, or no memory for one: it is tried again by itself, once a second.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(slots=True)
class Server:
    """The control socket of one supervisor."""

    loop: Loop
    verbs: Verbs = field(init=False)
    _finishing: list[asyncio.StreamWriter] = field(default_factory=list)
    _clients: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _trouble: Trouble = field(default_factory=lambda: Trouble("cannot accept clients"))

    def __post_init__(self) -> None:
        """Answer for this loop."""
        self.verbs = Verbs(self.loop)

    async def open(self) -> None:
        """Listen; a socket file left by a dead supervisor is replaced (we hold the lock)."""
        run_dir = self.loop.run_dir
        run_dir.create_socket_directory()
        run_dir.socket.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(run_dir.socket))
        run_dir.socket.chmod(0o600)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=sock, limit=LINE_LIMIT_BYTES, backlog=_ACCEPTED_AT_ONCE
        )
        sock.listen(socket.SOMAXCONN)
        asyncio.get_running_loop().set_exception_handler(self._note_error)

    def _note_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Note what went wrong in the event loop; that it cannot accept, it says without end."""
        error = context.get("exception")
        accepts = "socket" in context  # as asyncio says of nothing else
        if accepts and isinstance(error, OSError) and error.errno in _EXHAUSTED:
            self._trouble.note(error)
            self.loop.deaths.reserve.spend()  # for a stop
        else:
            loop.default_exception_handler(context)

    async def close(self) -> None:
        """Answer whoever waits for the end, and listen no more."""
        if self._server is not None:
            self._server.close()
        error = self.loop.error
        if error is None and self.loop.fleet.phase is not Phase.ENDED:
            error = PtsupError(
                "the supervisor failed before everything was stopped",
                "`ptsup stop` once more ends what is left; supervisor.log in logs/ says why",
            )
        answer = render_result({"drain": self.loop.prober.drained})
        for writer in self._finishing:
            await _send(writer, render_error(error) if error else answer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection: socket.socket = writer.get_extra_info("socket")
        self._clients.add(writer)
        try:
            _check_peer(connection)
            self._check_room()
            # One that was let in by what is kept for the dying has to be quick.
            spared = self.loop.deaths.reserve.fill()
            async with asyncio.timeout(REQUEST_LIMIT_SECONDS if spared else _HURRY_SECONDS):
                line = await reader.readline()
            if not line:
                return
            request = parse_request(line)
            if request.verb == "stop" and not request.parameters.get("names"):
                with _answering(request.verb):
                    self.verbs.stop_all(request.parameters)
                self._finishing.append(writer)
                return
            self._check_reserve(request.verb)
            with _answering(request.verb):
                answer = await _while_connected(reader, connection, self.verbs.answer(request))
            if answer is not None:
                await _send(writer, render_result(answer))
        except PtsupError as error:
            await _send(writer, render_error(error))
        except ValueError:  # a line over the limit
            await _send(writer, render_error(PtsupError("the request is too long")))
        except (OSError, TimeoutError):
            pass
        except asyncio.CancelledError:
            pass  # the supervisor ends; Python 3.12's streams would log it as an error of theirs
        finally:
            self._let_go(writer)

    def _let_go(self, writer: asyncio.StreamWriter) -> None:
        if writer not in self._finishing:
            writer.close()
            self._clients.discard(writer)
        if self.loop.deaths.reserve.fill():
            self._trouble.clear()

    def _check_reserve(self, verb: str) -> None:
        if not self.loop.deaths.reserve.fill():
            reason = f"cannot {verb}: the supervisor is out of descriptors"
            raise PtsupError(reason, "`ptsup stop` works; or end what has taken them")

    def _check_room(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = min(_CLIENTS_AT_MOST, soft - _RESERVED)
        if len(self._clients) > max(_CLIENTS_ANYWAY, room):
            raise PtsupError("too many clients at once", "end some of them, or try again")


@contextlib.contextmanager
def _answering(verb: str) -> Iterator[None]:
    """Have what the system refuses be an answer, too: the client is still there to hear it."""
    try:
        yield
    except OSError as error:
        raise PtsupError(f"cannot {verb}: {error.strerror or repr(error)}") from error


def _check_peer(connection: socket.socket) -> None:
    if kernel.read_peer_uid(connection) not in {os.getuid(), 0}:
        raise PtsupError("this supervisor belongs to another user")


async def _while_connected(
    reader: asyncio.StreamReader,
    connection: socket.socket,
    work: Coroutine[Any, Any, dict[str, Any]],
) -> dict[str, Any] | None:
    """Work for a client as long as it is there; None when it has left.

    An answer may take as long as a session lives, and would cost a descriptor all the while.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leave(reader, connection))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


async def _leave(reader: asyncio.StreamReader, connection: socket.socket) -> None:
    """Wait until a client has left; what it says meanwhile is thrown away, not kept."""
    while await reader.read(_BLOCK):
        pass
    # It may have said only that it has no more to say, as `socat` and `nc -N` do.
    make_watch = select.poll  # it polls descriptors, and reaps nobody
    watch = make_watch()
    watch.register(connection.fileno(), 0)
    look = watch.poll
    while not look(0):  # noqa: ASYNC110 - the kernel tells of it in no other way
        await asyncio.sleep(_LOOK_SECONDS)


async def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    try:
        writer.write(line)
        async with asyncio.timeout(SEND_LIMIT_SECONDS):
            await writer.drain()
    except OSError:
        writer.transport.abort()  # a mere close would wait for it to read
