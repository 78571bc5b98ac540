"""Who gets the page: this machine alone, unless it was made public; pure.

The address of the peer keeps other machines out; the Host header keeps out a page of somebody
else's whose name was made to point here (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from typing import Final

LOCAL_NAMES: Final = frozenset({"localhost"})
# The page needs its own script, style and stream, and nothing from anywhere else.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def find_refusal(peer: str, host: str, *, public: bool, names: frozenset[str]) -> str | None:
    """Say in one line why the page is not for this peer and Host header; None when it is.

    `names` are this machine's own, for a page that is `public`.
    """
    name = parse_host(host)
    if public:
        if name in LOCAL_NAMES | names or _is_address(name):
            return None
        return f"no page is served under the name {name[:100]!a}"
    if not _is_loopback(peer):
        return "this page is for its own machine alone; --public shows it to others, too"
    if name not in LOCAL_NAMES and not _is_loopback(name):
        return f"no page is served under the name {name[:100]!a}; use 127.0.0.1"
    return None


def parse_host(header: str) -> str:
    """Read the name out of a Host header, without its port; "" when there is none."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    if not _is_address(text):
        return False
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
