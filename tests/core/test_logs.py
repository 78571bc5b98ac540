"""A line of a session's output is shown as harmless text, whatever is in it."""

from __future__ import annotations

import pytest

from supervisor.logs import render_line
from telemetry.plain import escape


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"", ""),
        (b"a line\n", "a line"),
        (b"a line\r\n", "a line"),
        (b"a\tb", "a\tb"),
        ("Kurs 1 €, прибыль 📈".encode(), "Kurs 1 €, прибыль 📈"),
        (b"50%\r60%\r\n", "50%\\x0d60%"),
        (b"\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        (b"a\x00b\x08\x7f", "a\\x00b\\x08\\x7f"),
        ("\x9b2J\x85".encode(), "\\x9b2J\\x85"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"half of \xe2\x82", "half of \ufffd"),
    ],
)
def test_a_line_of_output_becomes_harmless_text(line: bytes, text: str) -> None:
    assert render_line(line) == text
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in text.replace("\t", ""))


def test_what_is_harmless_is_left_alone() -> None:
    text = "".join(map(chr, range(0x20, 0x7F))) + "äß€\t\\x1b"
    assert escape(text) == text


def test_every_control_character_is_escaped_but_the_tab() -> None:
    controls = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) != "\t"]
    assert [escape(control) for control in controls] == [
        f"\\x{ord(control):02x}" for control in controls
    ]
