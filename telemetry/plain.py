"""Text that is harmless for a terminal: what comes from outside is shown, and commands nothing.

Pure.
"""

from __future__ import annotations

import re
from typing import Final

# Everything a terminal could take for a command or a line's end, and what turns the direction of
# the text around it; the tab is only a blank.
_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def escape(text: str) -> str:
    """Make a line of text: control characters, and bytes that are no text, escaped."""
    text = _CONTROL.sub(_render_code, text)
    # A path or an argument may hold bytes that are no text; a terminal cannot take them.
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _render_code(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
