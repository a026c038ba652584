"""Locust's page with Kadstorm's panel, in a real browser: start a session, cut the network and slow it down, see
success and latency get worse and come back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ToxiproxyUnavailable
from harness.plan import load_plan
from harness.toxiproxy import binary

WAIT = 60_000  # ms; a condition is awaited, so this is only how long a broken panel takes to be told
SUCCESS = """(() => {
  let count = 0, ok = 0;
  for (const row of document.querySelectorAll('#kadstorm .figures tr')) {
    count += +row.dataset.count;
    ok += +row.dataset.count * (+row.dataset.success || 0);
  }
  return count >= 100 ? ok / count : -1;
})()"""

P99 = """Math.max(...[...document.querySelectorAll('#kadstorm .figures tr')].map((row) => +row.dataset.p99))"""


class Session:
    """A `kadstorm load --ui` of ten nodes that keep two copies of a key: half of a network misses many."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        command = [sys.executable, "-P", "-m", "harness", "load", "--ui", "--ui-port", "0", "--out", str(self.run_dir)]
        command += ["--nodes", "10", "--rate", "80/s", "--keys", "50"]
        command += ["--set", "cluster.node.k=2", "--set", "load.timeout=2s"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said: list[str] = []
        self.url = self._await_url()

    def _await_url(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(r"http://\S+/", line):
                return found[0]
        raise AssertionError("".join(self.said))

    def end(self) -> int:
        """Ctrl-C, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=100)
        self.said.append(rest)
        return self.process.returncode


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    try:
        os.environ.setdefault("KADSTORM_TOXIPROXY", str(binary.find()))
    except ToxiproxyUnavailable as error:
        pytest.skip(f"no Toxiproxy: {error}")
    made = Session(tmp_path)
    yield made
    made.end()


@pytest.fixture
def page(browser: Any, session: Session) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.set_default_timeout(WAIT)
    opened.goto(session.url)
    yield opened
    opened.close()


@pytest.mark.timeout(300)
def test_a_person_injects_faults_and_sees_success_and_latency_get_worse_and_come_back(
    session: Session, page: Any
) -> None:
    page.wait_for_selector("#kadstorm .nodes i.up")
    assert page.locator("#kadstorm .nodes i.up").count() == 10
    page.get_by_role("button", name=re.compile("^start$", re.I)).click()
    page.wait_for_function(f"{SUCCESS} >= 0.99")

    page.fill("#kadstorm input", "partition: halves")
    page.click("#kadstorm .inject")
    page.wait_for_selector("#kadstorm li[data-name=partition]")
    page.wait_for_function(f"(value => value >= 0 && value < 0.9)({SUCCESS})")
    if shot := os.environ.get("KADSTORM_SCREENSHOT"):  # how docs/load.png is made
        page.screenshot(path=shot)

    page.click("#kadstorm .heal")
    page.wait_for_selector("#kadstorm li[data-name=partition]", state="detached")
    page.wait_for_function(f"{SUCCESS} >= 0.97")

    page.wait_for_function(f"{P99} < 100")
    page.fill("#kadstorm input", "latency: {latency: 200ms}")
    page.click("#kadstorm .inject")
    page.wait_for_selector("#kadstorm li[data-name=latency]")
    page.wait_for_function(f"{P99} >= 400")
    page.click("#kadstorm .heal")
    page.wait_for_selector("#kadstorm li[data-name=latency]", state="detached")
    page.wait_for_function(f"{P99} < 100")

    page.fill("#kadstorm input", "partishun")
    page.click("#kadstorm .inject")
    page.wait_for_function("document.querySelector('#kadstorm .said').textContent.includes('no fault `partishun`')")

    session.end()
    summary = json.loads((session.run_dir / "summary.json").read_text())
    assert [(fault["name"], fault["effective"], fault["heal_effective"]) for fault in summary["faults"]] == [
        ("partition", True, True),
        ("latency", True, True),
    ]
    plan = load_plan(session.run_dir / "plan.json")
    assert [(action.name, len(action.options.get("groups", []))) for action in plan.actions] == [
        ("partition", 2),
        ("latency", 0),
    ]
    assert summary["lookup"]["count"] > 100
    assert summary["lookup"]["success"] < 1
    assert (session.run_dir / "report.html").is_file()


@pytest.mark.timeout(120)
def test_the_panel_answers_to_its_own_page_only(session: Session) -> None:
    def status(headers: dict[str, str]) -> int:
        request = urllib.request.Request(f"{session.url}kadstorm/state", headers=headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert session.url.startswith("http://127.0.0.1:")
    assert status({"X-Kadstorm-Panel": "1"}) == 200
    assert status({}) == 403  # another origin's page cannot send the header
    assert status({"X-Kadstorm-Panel": "1", "Host": "evil.example"}) == 403  # nor be a name of this server
