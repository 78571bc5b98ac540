"""Linux: which TCP sockets are listened on, asked of the kernel (sock_diag(7)).

Only these are gone through there. /proc/net/tcp, which is read where a kernel or a sandbox has no
sock_diag, goes through all connections there could be: that takes fifty times as long.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# By the inode that stands for each: host and port.
Listening = dict[str, tuple[str, int]]

_FAMILIES: Final = ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6"))
_NETLINK_SOCK_DIAG: Final = 4
_TCP_LISTEN: Final = 10
# struct nlmsghdr: u32 length, u16 type, u16 flags, u32 sequence, u32 port.
_HEADER: Final = struct.Struct("=IHHII")
_ERROR, _DONE = 2, 3
_BY_FAMILY, _REQUEST_DUMP = 20, 0x301
# struct inet_diag_req_v2: u8 family, protocol, extensions, padding, u32 states, and no address.
_REQUEST: Final = struct.Struct("=BBBxI48x")
# struct inet_diag_msg: 4 bytes, the ports and addresses, 24 bytes of others, uid, u32 inode.
_MESSAGE: Final = struct.Struct("=4x2s2x16s44xI")
_ERRNO: Final = struct.Struct("=i")  # of struct nlmsgerr
_BLOCK: Final = 1 << 16


def list_listening() -> Listening:
    """List the TCP sockets that are listened on here: by what stands for each, host and port."""
    try:
        return ask_kernel()
    except OSError:
        return read_proc()


def ask_kernel() -> Listening:
    """List them by sock_diag; raises OSError where there is none."""
    found = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        for family, _ in _FAMILIES:
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _TCP_LISTEN)
            size = _HEADER.size + len(request)
            kernel.send(_HEADER.pack(size, _BY_FAMILY, _REQUEST_DUMP, 0, 0) + request)
            length = 4 if family is socket.AF_INET else 16
            for message in _receive(kernel):
                port, address, inode = _MESSAGE.unpack_from(message)
                host = socket.inet_ntop(family, address[:length])
                found[str(inode)] = host, int.from_bytes(port, "big")
    return found


def _receive(kernel: socket.socket) -> Iterator[bytes]:
    """Yield what each message of one answer carries; raises OSError for a refusal."""
    while True:
        block = kernel.recv(_BLOCK)
        while block:
            size, kind, *_ = _HEADER.unpack_from(block)
            if kind == _DONE:
                return
            if kind == _ERROR:
                (refusal,) = _ERRNO.unpack_from(block, _HEADER.size)
                raise OSError(-refusal, os.strerror(-refusal))
            yield block[_HEADER.size : size]
            block = block[(size + 3) & ~3 :]


def read_proc() -> Listening:
    """List them from /proc/net (proc(5)); none of a family that is not there."""
    found = {}
    for family, name in _FAMILIES:
        path = Path("/proc/net") / name
        with contextlib.suppress(OSError), path.open(encoding="ascii") as lines:
            next(lines, None)  # the headings
            for line in lines:
                fields = line.split()
                if int(fields[3], 16) != _TCP_LISTEN:
                    break  # these come first, and there may be many others
                host, _, port = fields[1].partition(":")
                found[fields[9]] = _parse_address(host, family), int(port, 16)
    return found


def _parse_address(text: str, family: socket.AddressFamily) -> str:
    """Read an address as /proc/net/tcp writes it: words of 32 bits in the machine's order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))
