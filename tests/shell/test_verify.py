"""What one verification asks with, and how long it waits."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from supervisor.verify.ask import Question, ask_all
from supervisor.verify.measure import build_authorization, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), ("None", 0), ("", 0), ("5", 0)],
)
def test_prometheus_durations_are_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_a_token_stands_above_a_user_and_without_either_nothing_is_sent() -> None:
    user = {"PTSUP_GRAFANA_USER": "u", "PTSUP_GRAFANA_PASSWORD": "p"}
    assert build_authorization(user) == {"Authorization": "Basic dTpw"}
    assert build_authorization({**user, "PTSUP_GRAFANA_TOKEN": "t"}) == {
        "Authorization": "Bearer t"
    }
    assert build_authorization({"PTSUP_GRAFANA_PASSWORD": "p"}) == {}


def test_credentials_are_not_carried_to_where_a_redirect_leads() -> None:
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/here"
        question = Question(url, {"Authorization": "Bearer secret"})
        assert "secret" not in repr(question)
        assert ask_all({1: question}, 5)[1].status == 302
        server.shutdown()
    assert seen == ["/here"]
