"""What happened at once is one record, and reads as a line for each."""

from __future__ import annotations

import io
import logging

from telemetry.log_lines import Lines, PlainFormatter, list_lines


def log_with(message: object, *arguments: object) -> list[str]:
    """Log something with a handler of ours; the lines it has written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s", "now"))
    logger = logging.Logger("a logger of its own")  # noqa: LOG001 - no other handler sees it
    logger.addHandler(handler)
    logger.info(message, *arguments)
    assert stream.getvalue().endswith("\n")
    return stream.getvalue().splitlines()


def test_each_line_of_a_record_is_as_if_it_were_alone() -> None:
    said = ["a: running (pid 7)", "b: exited\x1b[2J\nc: running"]
    alone = [line for text in said for line in log_with("%s", text)]
    assert log_with(Lines(said)) == alone
    assert alone == ["now INFO a: running (pid 7)", "now INFO b: exited\\x1b[2J\\x0ac: running"]


def test_whoever_shows_a_record_otherwise_has_its_lines_too() -> None:
    record = logging.makeLogRecord({"msg": Lines(["one", "two"])})
    assert list_lines(record) == ["one", "two"]
    assert record.getMessage() == "one\ntwo"
    assert list_lines(logging.makeLogRecord({"msg": "%s of them", "args": (2,)})) == ["2 of them"]
