"""What a CI job shows: counts, failures and annotations, also where pytest broke off."""

from __future__ import annotations

from pathlib import Path

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
