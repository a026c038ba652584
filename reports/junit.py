"""`junit.xml`: one test case per expectation and per checker, as Jenkins, GitLab and GitHub show them.

What cannot be told is an *error* with the type `inconclusive`: never green, and not a failure of the network either.
If the run itself went wrong while every case passed, a case of its own says so, since a green suite would be a lie.
"""

from __future__ import annotations

from collections.abc import Iterator

from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

from harness.records import Verdict
from reports.summary import CheckResult, ExpectationResult, Summary
from reports.wording import limit_text, measured_text


def junit(summary: Summary) -> bytes:
    """The file's bytes."""
    suite = TestSuite(f"kadstorm.{summary.name}")
    for name in ("seed", "backend", "nodes", "verdict", "replay"):
        suite.add_property(name, str(getattr(summary, name)))
    suite.add_testcases(list(_cases(summary)))
    document = JUnitXml("kadstorm")
    document.add_testsuite(suite)
    content: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return content


def _cases(summary: Summary) -> Iterator[TestCase]:
    for expectation in summary.expectations:
        yield _case(summary, "expectations", expectation.text, expectation.verdict, _expectation_text(expectation))
    for check in summary.checks:
        yield _case(summary, "checks", check.checker, check.verdict, _check_text(check))
    shown = {one.verdict for one in summary.expectations} | {one.verdict for one in summary.checks}
    if summary.verdict != "pass" and shown <= {"pass"}:
        yield _case(summary, "run", summary.verdict, "unknown", "\n".join(summary.reasons))


def _case(summary: Summary, group: str, name: str, verdict: Verdict, text: str) -> TestCase:
    case = TestCase(name, classname=f"kadstorm.{summary.name}.{group}")
    if verdict == "pass":
        case.system_out = text
    else:
        first = text.partition("\n")[0]
        problem = Failure(first, "failed") if verdict == "fail" else Error(first, "inconclusive")
        problem.text = text
        case.result = [problem]
    return case


def _expectation_text(result: ExpectationResult) -> str:
    return f"measured {measured_text(result)}, {limit_text(result)}; {result.rows:,} operations"


def _check_text(result: CheckResult) -> str:
    return "\n".join([result.evidence, *(str(detail) for detail in result.details)])
