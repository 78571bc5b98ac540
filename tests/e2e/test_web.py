"""The watch-only page, in a real browser: it tells the truth, and can do nothing else."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from stack import SHADOW, find_free_port
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, ViewportSize

    from stack import Stack

# One browser for all, in one worker.
pytestmark = pytest.mark.xdist_group("chromium")

MARKUP = "<img src=x onerror=document.title='owned'>"
SIZES: list[tuple[str, ViewportSize]] = [
    ("light", {"width": 1200, "height": 900}),
    ("dark", {"width": 1200, "height": 900}),
    ("light", {"width": 380, "height": 800}),
]


@dataclass
class Web:
    """The page's own process, and a way to ask it without a browser."""

    port: int
    process: subprocess.Popen[str]
    problems: list[str] = field(default_factory=list)  # what a browser complained of

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, path: str, method: str = "GET", host: str | None = None, address: str = "127.0.0.1"
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection(address, self.port, timeout=10)
        try:
            connection.request(method, path, headers={"Host": host or f"127.0.0.1:{self.port}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def answers(self) -> bool:
        try:
            return self.ask("/metrics")[0] == 200
        except OSError:
            return False


def start_web(stack: Stack, *flags: str) -> Web:
    port = find_free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.web", "--port", str(port), *flags],
        cwd=stack.cwd,
        env=stack.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    web = Web(port, process)
    wait_for(web.answers, what="the page")
    return web


def end_web(web: Web) -> str:
    web.process.terminate()
    return web.process.communicate(timeout=10)[0]


@pytest.fixture
def web(stack: Stack) -> Iterator[Web]:
    made = start_web(stack)
    try:
        yield made
    finally:
        said = end_web(made)
    assert "Traceback" not in said, said


@pytest.fixture
def public_web(stack: Stack) -> Iterator[Web]:
    made = start_web(stack, "--public", "--allow-host", "Trading.Example")
    try:
        yield made
    finally:
        end_web(made)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        yield found
        found.close()


def open_page(
    browser: Browser, web: Web, scheme: str = "light", size: ViewportSize | None = None
) -> Page:
    context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.on(
        "console",
        lambda said: web.problems.append(said.text) if said.type in {"error", "warning"} else None,
    )
    page.on("pageerror", lambda error: web.problems.append(str(error)))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(web.url) else web.problems.append(asked.url),
    )
    page.goto(f"{web.url}/")
    return page


@pytest.mark.needs_chromium
def test_the_page_shows_what_status_says(stack: Stack, web: Web, browser: Browser) -> None:
    stack.start("-s", f"paper={SHADOW} --loop", "-s", "failed=sh -c 'exit 3'")
    page = open_page(browser, web)
    page.wait_for_selector("tr.row >> text=paper")
    status = stack.status()
    rows = {row.locator("th").inner_text(): row for row in page.locator("tr.row").all()}
    assert rows.keys() == {session["name"] for session in status["sessions"]}
    for session in status["sessions"]:
        words = rows[session["name"]].locator("td").all_inner_texts()
        assert session["state"] in words[0]
        assert words[4] == str(session["restarts"])
    assert "(3)" in rows["failed"].locator("td").first.inner_text()
    page.locator("#flow-sessions .figure >> text=1 of 2 run").wait_for()
    page.locator("#flow-metricsd .figure >> text=running").wait_for()
    assert f"port {stack.port}" in page.locator("#flow-metricsd .note").inner_text()
    # What the session signals and holds comes from metricsd's page.
    page.locator("tr.row", has_text="paper").locator(
        "text=/(long|short|flat), \\d+ s ago/"
    ).wait_for()
    page.locator("tr.row", has_text="paper").locator("text=/\\d USD/").wait_for()
    page.locator("#chart-signals canvas").wait_for()
    assert "per minute" in (
        page.locator("#chart-signals [role=img]").get_attribute("aria-label") or ""
    )
    assert not web.problems


@pytest.mark.needs_chromium
def test_a_killed_session_is_seen_within_three_seconds(
    stack: Stack, web: Web, browser: Browser
) -> None:
    stack.start("-s", "paper=sleep 600")
    page = open_page(browser, web)
    page.wait_for_selector("tr.row >> text=running")
    os.kill(stack.session("paper")["pid"], signal.SIGKILL)
    page.locator("tr.row.fell >> text=/exited .SIGKILL/").wait_for(timeout=3000)
    red = page.locator("tr.row.fell td").first.evaluate("e => getComputedStyle(e).color")
    assert red == "rgb(179, 38, 30)"
    assert not web.problems


@pytest.mark.needs_chromium
def test_markup_stays_text(stack: Stack, web: Web, browser: Browser) -> None:
    stack.start(
        "-s", f'paper=sh -c "echo \\"{MARKUP}\\"; printf \'\\033[31mred\'; exit 1" "{MARKUP}"'
    )
    page = open_page(browser, web)
    page.wait_for_selector("tr.row")
    page.get_by_role("button", name="paper").click()
    log = page.get_by_role("region", name="The last lines of paper")
    log.locator(f'text="{MARKUP}"').or_(log).first.wait_for()
    wait_for(lambda: MARKUP in log.inner_text(), what="the log")
    assert "\\x1b[31mred" in log.inner_text()
    assert MARKUP in page.locator("tr.more dl").inner_text()
    assert page.locator("main img").count() == 0
    assert "owned" not in page.title()
    assert not web.problems


@pytest.mark.needs_chromium
@pytest.mark.parametrize(("scheme", "size"), SIZES)
def test_everybody_can_read_it(
    stack: Stack, web: Web, browser: Browser, scheme: str, size: ViewportSize
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    stack.start("-s", f"{'n' * 64}={SHADOW} --loop", "-s", "failed=sh -c 'exit 3'")
    page = open_page(browser, web, scheme, size)
    page.locator("#chart-limits canvas").wait_for()
    # By keyboard alone: the first stop is the first session, and opening it loads its log.
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("region").locator("text=/./").first.wait_for()
    found = Axe().run(page).response["violations"]
    assert [f["id"] for f in found if f["impact"] in {"serious", "critical"}] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert not web.problems


@pytest.mark.needs_chromium
def test_the_page_follows_what_becomes_of_the_supervisor(
    stack: Stack, web: Web, browser: Browser
) -> None:
    page = open_page(browser, web)
    page.locator("#contact >> text=/nothing runs in/").wait_for()
    stack.start("-s", "paper=sleep 600")
    page.locator("#supervisor >> text=supervisor running").wait_for()
    os.kill(stack.status()["supervisor"]["pid"], signal.SIGKILL)
    page.locator("#supervisor >> text=supervisor dead").wait_for()
    page.locator("tr.row >> text=running").wait_for()  # its session lives on
    stack.start()
    page.locator("#supervisor >> text=supervisor running").wait_for()
    stack.run("stop", "--timeout", "2")
    page.locator("#contact >> text=/nothing runs in/").wait_for()


def test_no_route_changes_anything(stack: Stack, web: Web) -> None:
    stack.start("-s", "paper=sleep 600")
    before = stack.status()["sessions"][0]["pid"]
    paths = ["/", "/static/page.js", "/events", "/logs/paper", "/metrics"]
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert {web.ask(path, method)[0] for path in paths} == {405}
    for path in (
        "/stop",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/logs/..",
        "/logs/supervisor",
    ):
        assert web.ask(path)[0] == 404
    assert stack.status()["sessions"][0]["pid"] == before


def find_own_address() -> str | None:
    """Find an address of this machine that is not loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if address.startswith("127.") else address


def test_nobody_else_gets_the_page_but_everybody_its_metrics(stack: Stack, web: Web) -> None:
    for path in ("/", "/events", "/logs/metricsd", "/static/page.js", "/nowhere"):
        status, body = web.ask(path, host="evil.example")
        assert status == 403
        assert "ptsup" not in body
    assert web.ask("/metrics", host="host.docker.internal:8000")[0] == 200
    address = find_own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    assert web.ask("/", address=address)[0] == 403
    assert web.ask("/metrics", address=address, host="host.docker.internal")[0] == 200


def test_a_public_page_leaves_out_logs_and_arguments(stack: Stack, public_web: Web) -> None:
    stack.start("-s", "paper=sleep 600.125")
    assert public_web.ask("/", host="trading.example")[0] == 200
    assert public_web.ask("/", host="evil.example")[0] == 403
    assert public_web.ask("/logs/paper")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", public_web.port, timeout=10)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    lines = iter(answer.readline, b"")
    next(line for line in lines if line == b"event: status\n")
    sent = next(lines).decode()
    connection.close()
    assert json.loads(sent.removeprefix("data: "))["status"]["sessions"][0]["command"] == ["sleep"]
    assert "600.125" not in sent
    assert str(stack.cwd) not in sent


def test_its_port_is_refused_in_one_line_when_it_is_taken(stack: Stack, web: Web) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.web", "--port", str(web.port)],
        cwd=stack.cwd,
        env=stack.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 7
    assert f"cannot listen on 0.0.0.0:{web.port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_its_own_metrics_become_no_shard(stack: Stack) -> None:
    stack.start()
    stack.env["PROMETHEUS_MULTIPROC_DIR"] = str(stack.multiproc_dir)
    made = start_web(stack)
    try:
        assert "ptsup_web_requests_total" in made.ask("/metrics")[1]
        assert not stack.shards
    finally:
        end_web(made)
