"""What a CI job shows: counts, failures and annotations, also where pytest broke off; and what it does not let pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.ci import notes, summary

XML = """<testsuites><testsuite tests="3" failures="1" errors="1" skipped="0">
<testcase classname="chaos.test_x" name="test_ok"/>
<testcase classname="chaos.test_x" name="test_bad"><failure message="m">def test_bad():
E   100% of keys: lost</failure></testcase>
<testcase classname="" name="broken"><error message="boot failed"/></testcase>
</testsuite></testsuites>"""


def test_the_page_has_counts_failures_and_the_runs_own_summaries(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(XML)
    (tmp_path / "storm").mkdir()
    (tmp_path / "storm" / "summary.md").write_text("# storm: pass")
    page = "\n".join(summary(tmp_path))
    assert "3 tests, 1 failures, 1 errors, 0 skipped" in page
    assert "chaos.test_x::test_bad" in page
    assert "100% of keys: lost" in page
    assert "# storm: pass" in page


def test_each_failure_is_annotated_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(XML)
    assert list(notes(tmp_path)) == [
        "::error title=chaos.test_x%3A%3Atest_bad::E   100%25 of keys: lost",
        "::error title=broken::boot failed",
    ]


def test_a_job_that_broke_off_still_has_a_page(tmp_path: Path) -> None:
    assert "did not start" in "\n".join(summary(tmp_path))
    (tmp_path / "junit.xml").write_text(XML[:100])
    assert "did not start" in "\n".join(summary(tmp_path))
    assert list(notes(tmp_path)) == []


ROOT = Path(__file__).parents[2]
SKIPPING = """
import pytest

@pytest.mark.docker
def test_skips_itself(): pytest.skip("no such tool")

@pytest.mark.docker
@pytest.mark.skipif(True, reason="an old kernel")
def test_is_skipped(): pass

@pytest.fixture
def lacking(): pytest.skip("nothing to work on")

@pytest.mark.docker
def test_has_nothing(lacking): pass

@pytest.mark.docker
@pytest.mark.xfail(reason="known", strict=True)
def test_is_known_to_fail(): assert False

@pytest.mark.docker
def test_passes(): pass

def test_of_no_container(): pytest.skip("elsewhere")
"""


def skipping(folder: Path, **environment: str) -> str:
    """What pytest says of tests that skip for all kinds of reasons, under the settings of our own."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "conftest.py")
    answering = 'import pytest, conftest\nconftest.why_no_engine = lambda: ""  # whether or not one does here'
    (folder / "test_skipping.py").write_text(SKIPPING.replace("import pytest", answering, 1))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = docker: needs a container engine\npythonpath = .\n")
    command = [sys.executable, "-m", "pytest", "-rsf", "-p", "no:cacheprovider", str(folder)]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("KADSTORM_", "PYTEST_"))}
    done = subprocess.run(
        command, cwd=folder, env={**given, **environment}, capture_output=True, text=True, check=False, timeout=100
    )
    return done.stdout + done.stderr


def test_no_skip_of_a_test_of_containers_passes_where_they_must_be(tmp_path: Path) -> None:
    said = skipping(tmp_path, KADSTORM_NEEDS_DOCKER="1")
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors" in said, said  # of a set-up it is an error
    for why in ("no such tool", "an old kernel", "nothing to work on"):
        assert f"this test was not run: Skipped: {why}" in said, said


def test_elsewhere_they_are_skipped(tmp_path: Path) -> None:
    assert "1 passed, 4 skipped, 1 xfailed" in skipping(tmp_path)


@pytest.mark.parametrize("left", ["", "container", "network", "volume"])
def test_a_job_that_leaves_something_in_the_engine_fails_and_names_it(left: str, tmp_path: Path) -> None:
    kind = {"container": "ps", "network": "network", "volume": "volume"}.get(left, "none")
    docker = tmp_path / "docker"
    labelled = "case $* in *label=kadstorm.session*) ;; *) exit 9 ;; esac"
    docker.write_text(f"#!/bin/sh\n{labelled}\n[ $1 = {kind} ] && echo {left} kadstorm-1 || true\n")
    docker.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / ".ci" / "leftovers"], env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, f"{left} kadstorm-1" in done.stdout) == ((1, True) if left else (0, False)), done
