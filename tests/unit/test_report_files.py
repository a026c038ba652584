"""What is written into a run's folder, for a seeded run shaped like the first storm and for runs that went wrong."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import reports
from harness.records import NODE_COLUMNS, OPERATION_COLUMNS, Action, Plan, PlannedNode
from reports.checkers import checkers
from reports.files import replace_atomically, write_atomically

FAULTS = (("latency", 10, 16), ("partition", 26, 33), ("churn", 44, 52))
HOSTILE = '</script><script>alert("x")</script> | <b>&amp; [red]'
EXPECT = ["lookup.success >= 99% outside faults", "recovery <= 10s after partition", "lost == 0"]


def schema(columns: dict[str, str]) -> pa.Schema:
    return pa.schema([(name, pa.type_for_alias(alias)) for name, alias in columns.items()])


def operations(seed: int, rate: int, duration: int) -> pd.DataFrame:
    """Poisson arrivals, a fifth stores; late during `latency`, half lost during `partition`; all keys read back."""
    rng = np.random.default_rng(seed)
    intended = np.cumsum(rng.exponential(1 / rate, int(rate * duration * 1.2)))
    intended = intended[intended < duration]
    count = len(intended)
    latency = rng.lognormal(-5, 0.5, count)
    slow, cut = (intended >= 10) & (intended < 16), (intended >= 26) & (intended < 33)
    latency[slow] += 0.3
    failed = cut & (rng.random(count) < 0.5)
    latency[failed] = 5.0
    store = np.arange(count) % 5 == 0
    table = pd.DataFrame(
        {
            "kind": np.where(store, "store", "lookup"),
            "key": [f"{n if is_store else n - n % 5:040x}" for n, is_store in enumerate(store)],
            "intended": intended,
            "started": intended + 0.0005,
            "finished": intended + latency,
            "outcome": np.where(failed, "timeout", "ok"),
            "error": np.where(failed, "no_answer", ""),
            "gateway": [f"node-{n % 20}" for n in range(count)],
            "hops": rng.integers(0, 3, count),
            "rpcs": rng.integers(1, 9, count),
            "acks": np.where(store, 8, -1),
            "phase": "load",
            "worker": "load-0",
            "version": 1,
        }
    )
    acknowledged = table[(table["kind"] == "store") & (table["outcome"] == "ok")]
    again = acknowledged.assign(kind="lookup", phase="readback", intended=67.0, started=67.0, finished=67.01)
    return pd.concat([table, again], ignore_index=True)


def storm(
    folder: Path, *, spoil: Callable[[pd.DataFrame, list[dict[str, Any]]], None] | None = None, **more: Any
) -> Path:
    """Write a run folder: 60 s, 100 operations a second, 20 nodes, three faults. ``spoil`` changes rows and events."""
    experiment = {
        "name": "storm",
        "description": "Slow links, a partition, churn.",
        "cluster": {"nodes": 20, "backend": "process"},
        "load": {"rate_per_1000s": 100_000, "timeout_us": 5_000_000, "think_us": 0, "users": None},
        "duration_us": 60_000_000,
        "timeline": [{"at": f"{at}s", "for": f"{until - at}s", name: {"nodes": "25%"}} for name, at, until in FAULTS],
        "expect": EXPECT,
        **more,
    }
    actions = [
        Action(at_us=at * 10**6, until_us=until * 10**6, fault=name, name=name, entry=n, targets=["site-0", "site-1"])
        for n, (name, at, until) in enumerate(FAULTS)
    ]
    nodes = [PlannedNode(f"node-{n}", f"{n:040x}", f"site-{n}") for n in range(20)]
    (folder / "plan.json").write_bytes(
        msgspec.json.encode(Plan(schema=1, seed=7, experiment=experiment, nodes=nodes, actions=actions))
    )
    rows, events = operations(7, 100, 60), journal()
    if spoil is not None:
        spoil(rows, events)
    lines = [json.dumps({"wall": "2026-01-02T03:04:05.000+00:00", **event}) for event in events]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "operations").mkdir(exist_ok=True)
    columns = {name: alias for name, alias in OPERATION_COLUMNS.items() if name in rows}
    table = pa.Table.from_pandas(rows, schema=schema(columns), preserve_index=False)
    with (
        pa.OSFile(str(folder / "operations" / "load-0.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table, max_chunksize=500)
    samples = [
        {**dict.fromkeys(NODE_COLUMNS, 9), "t": float(t), "name": node.name, "up": True}
        for t in range(60)
        for node in nodes
    ]
    with pa.OSFile(str(folder / "nodes.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema(NODE_COLUMNS)) as out:
        out.write_batch(pa.RecordBatch.from_pylist(samples, schema=schema(NODE_COLUMNS)))
    return folder


def journal() -> list[dict[str, Any]]:
    detail = {"id": "s", "environment": {"cpus": 2}, "replay": "kadstorm run plan.json", "seed": 7}
    events: list[dict[str, Any]] = [
        {"t": None, "event": "session", "detail": detail},
        {"t": 0.0, "event": "clock"},
    ]
    for n, (name, at, until) in enumerate(FAULTS):
        base = {"name": name, "fault": name, "action": n, "targets": ["site-0", "site-1"]}
        events += [
            {**base, "t": at, "event": "inject"},
            {**base, "t": at + 1, "event": "observe", "observed": {"delay_ms": 150.5, "pairs": 64}, "effective": True},
            {**base, "t": until, "event": "heal"},
            {**base, "t": until + 0.05, "event": "healed"},
            {**base, "t": until + 0.1, "event": "heal-observed", "effective": True},
        ]
    timings = {"boot_s": 2.0, "preload_s": 0.5, "run_s": 60.0, "teardown_s": 0.5}
    return [
        *events,
        {"t": 66.0, "event": "phase", "name": "readback"},
        {"t": 68.0, "event": "end", "detail": {"reasons": [], "timings": timings}},
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = storm(tmp_path_factory.mktemp("storm"))
    reports.write(folder)
    return folder


def test_a_good_run_passes_and_leaves_every_file_and_no_other(written: Path) -> None:
    summary = json.loads((written / "summary.json").read_text())
    assert (summary["verdict"], summary["exit_code"], summary["reasons"]) == ("pass", 0, [])
    results = {
        "summary.json",
        "junit.xml",
        "summary.md",
        "report.html",
        "operations.parquet",
        "nodes.parquet",
        "tables.parquet",
    }
    inputs = {"plan.json", "events.jsonl", "operations", "nodes.arrow"}
    assert {path.name for path in written.iterdir()} == results | inputs


def test_the_summary_has_everything_that_contracts_promise(written: Path) -> None:
    summary = json.loads((written / "summary.json").read_text())
    assert {
        "schema",
        "name",
        "seed",
        "backend",
        "nodes",
        "verdict",
        "reasons",
        "store",
        "lookup",
        "outcomes",
        "faults",
    } <= set(summary)
    assert {"expectations", "checks", "timings", "environment", "replay"} <= set(summary)
    figures = {"count", "success", "rate", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "hops", "rpcs"}
    assert figures <= set(summary["lookup"])
    assert figures <= set(summary["store"])
    asked = {"name", "fault", "at", "for", "targets", "asked", "observed", "effective", "recovery_s"}
    assert all(asked <= set(fault) for fault in summary["faults"])
    assert [(fault["name"], fault["at"], fault["for"]) for fault in summary["faults"]] == [
        ("latency", 10.0, 6.0),
        ("partition", 26.0, 7.0),
        ("churn", 44.0, 8.0),
    ]
    assert {"boot_s", "preload_s", "run_s", "teardown_s", "report_s"} <= set(summary["timings"])


def test_figures_are_numpys_of_all_rows_of_the_load(written: Path) -> None:
    summary = json.loads((written / "summary.json").read_text())
    rows = pd.read_parquet(written / "operations.parquet")
    load = rows[rows["phase"] == "load"]
    for kind in ("store", "lookup"):
        mine = load[load["kind"] == kind]
        latency = (mine["finished"] - mine["intended"]).to_numpy() * 1000
        assert summary[kind]["count"] == len(mine) == sum(summary["outcomes"][kind].values())
        for name, q in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p999_ms", 0.999), ("max_ms", 1)):
            assert summary[kind][name] == pytest.approx(float(np.quantile(latency, q)), rel=1e-9)


def test_a_stored_run_gives_the_same_results_again(written: Path) -> None:
    names = ("summary.json", "junit.xml", "summary.md", "report.html", "operations.parquet")
    before = {name: (written / name).read_bytes() for name in names}
    reports.write(written)
    timing = re.compile(rb'"report_s": [\d.]+')
    for name in names:
        assert timing.sub(b"", (written / name).read_bytes()) == timing.sub(b"", before[name]), name


def test_junit_has_a_case_per_expectation_and_per_checker(written: Path) -> None:
    cases = ET.parse(written / "junit.xml").getroot().findall(".//testcase")
    assert [case.get("name") for case in cases] == [*EXPECT, *checkers()]
    assert not any(case.findall("failure") or case.findall("error") for case in cases)


class Page(HTMLParser):
    """What a browser would ask for, and the headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.wanted: list[str] = []
        self.headings: list[str] = []
        self.scripts = 0
        self._heading = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self._heading = tag in ("h1", "h2", "h3")
        self.wanted += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        if self._heading and data.strip():
            self.headings.append(data.strip())


def test_the_page_asks_for_nothing_and_is_small_enough(written: Path) -> None:
    text = (written / "report.html").read_text()
    page = Page(text)
    assert page.wanted == ["data:,"]
    assert "default-src 'none'" in text
    assert len(text.encode()) < 1_500_000
    assert page.headings[:5] == ["storm", "Timeline", "Latency by percentile", "Expectations", "Faults"]


def test_the_page_shows_its_figures_and_its_chart_without_scripts(written: Path) -> None:
    text = re.sub(r"<script.*?</script>", "", (written / "report.html").read_text(), flags=re.DOTALL)
    assert text.count("<svg") == 2
    for told in ("Passed:", "lookup.success &gt;= 99% outside faults", "kadstorm run plan.json", "took effect"):
        assert told in text


def test_what_users_write_never_becomes_markup(tmp_path: Path) -> None:
    def spoil(rows: pd.DataFrame, events: list[dict[str, Any]]) -> None:
        rows.loc[rows["outcome"] == "timeout", "error"] = HOSTILE
        events.insert(-1, {"t": 1.0, "event": "member-exit", "name": HOSTILE, "detail": {"exit": 1, "log": HOSTILE}})

    summary = reports.write(storm(tmp_path, spoil=spoil, name=HOSTILE, description=HOSTILE))
    text = (tmp_path / "report.html").read_text()
    assert Page(text).scripts == 3
    assert "<script>alert" not in text
    assert "<b>" not in (tmp_path / "summary.md").read_text()
    assert ET.parse(tmp_path / "junit.xml").getroot() is not None
    assert HOSTILE.replace("[", "\\[") in "".join(reports.terminal_lines(summary))


def test_a_failure_is_red_everywhere(tmp_path: Path) -> None:
    def spoil(rows: pd.DataFrame, events: list[dict[str, Any]]) -> None:
        gone = rows.index[rows["phase"] == "readback"][:3]
        rows.loc[gone, ["outcome", "error"]] = "not_found"

    summary = reports.write(storm(tmp_path, spoil=spoil))
    assert (summary.verdict, summary.exit_code) == ("fail", 1)
    assert summary.sentence == "Failed: lost == 0: measured 3, the limit is 0 (1 more reason below)."
    assert len(ET.parse(tmp_path / "junit.xml").getroot().findall(".//failure")) == 2
    assert "| `lost == 0` | 3 | FAIL |" in (tmp_path / "summary.md").read_text()
    assert '<span class="chip fail">fail</span> lost == 0' in (tmp_path / "report.html").read_text()


def test_an_inert_fault_makes_a_run_inconclusive(tmp_path: Path) -> None:
    def spoil(rows: pd.DataFrame, events: list[dict[str, Any]]) -> None:
        next(event for event in events if event["event"] == "observe")["effective"] = False

    summary = reports.write(storm(tmp_path, spoil=spoil))
    assert (summary.verdict, summary.exit_code, summary.reasons) == (
        "inconclusive",
        4,
        ["faults: latency had no effect"],
    )
    (problem,) = ET.parse(tmp_path / "junit.xml").getroot().findall(".//error")
    assert problem.get("type") == "inconclusive"


def test_a_run_that_went_wrong_is_never_a_green_suite(tmp_path: Path) -> None:
    def spoil(rows: pd.DataFrame, events: list[dict[str, Any]]) -> None:
        events[-1]["detail"]["reasons"] = [{"kind": "error", "text": "taking down the player: oops"}]

    summary = reports.write(storm(tmp_path, spoil=spoil))
    assert (summary.verdict, summary.exit_code) == ("error", 3)
    assert len(ET.parse(tmp_path / "junit.xml").getroot().findall(".//error")) == 1


def test_a_run_that_never_booted_has_a_report_too(tmp_path: Path) -> None:
    def spoil(rows: pd.DataFrame, events: list[dict[str, Any]]) -> None:
        reason = {"kind": "error", "text": "node-3 did not start: exit 1"}
        events[1:] = [{"t": None, "event": "end", "detail": {"reasons": [reason], "timings": {}}}]

    storm(tmp_path, spoil=spoil)
    (tmp_path / "operations" / "load-0.arrow").unlink()
    (tmp_path / "nodes.arrow").unlink()
    summary = reports.write(tmp_path)
    assert (summary.verdict, summary.reasons[0]) == ("error", "node-3 did not start: exit 1")
    assert summary.lookup.success is None
    assert "node-3 did not start" in (tmp_path / "report.html").read_text()


def test_a_file_is_there_as_a_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_atomically(target, "old")

    def half(path: Path) -> None:
        path.write_text("half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(reports.ReportWriteError, match=r"report\.html: cannot be written: No space left on device"):
        replace_atomically(target, half)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
