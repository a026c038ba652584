"""What other programs get: schemas, Prometheus, CSV, tidy frames, lists of runs; and what broken folders are told."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest
from click.testing import CliRunner

import reports
from harness.cli import main
from harness.records import NODE_COLUMNS, OPERATION_COLUMNS
from reports.compare import compare, load_side, tolerances_of
from reports.listing import SORTS, listing
from reports.schemas import FOLDER, PUBLISHED, encoded
from tests.unit.test_report_files import FAULTS, HOSTILE, storm

SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)*)\} (NaN|[-+.e\d]+)')


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "storm"
    folder.mkdir()
    reports.write(storm(folder))
    return folder


def printed(run: Path, format_: str) -> str:
    result = CliRunner().invoke(main, ["report", str(run), "--format", format_])
    assert result.exit_code == 0, result.output
    return result.output


# --- schemas ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schemas_are_those_of_the_code(name: str) -> None:
    assert (FOLDER / name).read_bytes() == encoded(PUBLISHED[name]), "run `python -m reports.schemas`"


def test_what_is_really_written_fits_the_published_schemas(run: Path) -> None:
    side = load_side([run])
    comparison = json.loads(msgspec.json.encode(compare(side, side, tolerances_of([]))))
    for name, document in (
        ("summary.schema.json", json.loads((run / "summary.json").read_text())),
        ("comparison.schema.json", comparison),
    ):
        schema = json.loads((FOLDER / name).read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(document, schema)


def test_a_schema_refuses_what_is_no_summary(run: Path) -> None:
    document = json.loads((run / "summary.json").read_text())
    document["verdict"] = "green"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json.loads((FOLDER / "summary.schema.json").read_text()))


# --- formats ----------------------------------------------------------------------------------------------------------


def test_prometheus_text_has_every_family_announced_once_and_only_whole_samples(run: Path) -> None:
    lines = printed(run, "prometheus").splitlines()
    announced = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(announced) == len(set(announced)) == 7
    samples = [SAMPLE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(samples)
    assert {found[1].removesuffix("_sum").removesuffix("_count") for found in samples if found} == set(announced)


def test_prometheus_figures_are_the_summarys_in_seconds(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    text = printed(run, "prometheus")
    found = re.search(r'kadstorm_latency_seconds\{.*kind="lookup",quantile="0.99"\} (\S+)', text)
    assert found is not None
    assert float(found[1]) == pytest.approx(summary["lookup"]["p99_ms"] / 1000)
    assert f'outcome="ok"}} {summary["outcomes"]["lookup"]["ok"]}\n' in text


def test_labels_are_escaped_whatever_users_write(tmp_path: Path) -> None:
    text = printed(storm(tmp_path, name=f'{HOSTILE}\\"\n'), "prometheus")
    assert all(line.startswith("#") or SAMPLE.fullmatch(line) for line in text.splitlines())


def test_csv_has_a_row_per_figure(run: Path) -> None:
    rows = {row["metric"]: row for row in csv.DictReader(io.StringIO(printed(run, "csv")))}
    summary = json.loads((run / "summary.json").read_text())
    assert float(rows["lookup.p99"]["value"]) == summary["lookup"]["p99_ms"]
    assert (rows["lookup.p99"]["unit"], rows["verdict"]["value"], rows["keys.lost"]["value"]) == ("ms", "pass", "0")
    assert {f"recovery after {name}" for name, *_ in FAULTS} <= set(rows)


def test_csv_of_operations_has_every_row_and_column(run: Path) -> None:
    table = pyarrow.csv.read_csv(io.BytesIO(printed(run, "operations-csv").encode()))
    assert table.column_names == list(OPERATION_COLUMNS)
    assert len(table) == len(pd.read_parquet(run / "operations.parquet"))


def test_a_format_that_there_is_not_is_told_before_anything_is_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(tmp_path / "none"), "--format", "xml"])
    assert (result.exit_code, "no such format (formats: csv" in result.output) == (2, True)


# --- frames -----------------------------------------------------------------------------------------------------------


def test_frames_are_tidy_and_keys_stay_in_arrow(run: Path) -> None:
    loaded = reports.load(run)
    assert list(loaded.operations.columns) == [*OPERATION_COLUMNS, "latency", "lag", "ok", "during"]
    assert loaded.operations["key"].dtype == pd.ArrowDtype(pa.string())
    assert isinstance(loaded.operations["outcome"].dtype, pd.CategoricalDtype)
    assert loaded.operations["intended"].is_monotonic_increasing
    assert list(loaded.nodes.columns) == list(NODE_COLUMNS)
    assert list(loaded.faults["name"]) == [name for name, *_ in FAULTS]
    assert len(loaded.events) == len((run / "events.jsonl").read_text().splitlines())


def test_frames_give_the_figures_of_the_summary(run: Path) -> None:
    loaded = reports.load(str(run))
    lookups = loaded.load[loaded.load["kind"] == "lookup"]
    assert lookups["latency"].quantile(0.99) * 1000 == pytest.approx(loaded.summary.lookup.p99_ms)
    assert lookups["ok"].mean() == loaded.summary.lookup.success
    slow = lookups[lookups["during"] == "latency"]["intended"]
    assert (slow.min() >= 10, slow.max() <= 21.1) == (True, True)


# --- broken and foreign folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("plan.json", b'{"schema": 1', "plan.json: is no plan of Kadstorm's"),
        (
            "plan.json",
            b'{"schema": 99, "seed": 1, "experiment": {}, "nodes": [], "actions": []}',
            "plan.json: has schema 99",
        ),
        ("events.jsonl", b"not a journal\n", "events.jsonl:1: is no event"),
        ("operations.parquet", b"PAR1 and no more", "operations.parquet: is no readable Parquet file"),
        ("nodes.parquet", b"", "nodes.parquet: is no readable Parquet file"),
        ("tables.parquet", b"PAR1PAR1", "tables.parquet: is no readable Parquet file"),
    ],
)
def test_a_broken_file_is_named_and_nothing_is_written(
    run: Path, tmp_path: Path, file: str, content: bytes, told: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(run, folder)
    for stream in ("nodes.arrow", "tables.arrow", "operations"):  # what is left after a clean-up: the Parquet files
        path = folder / stream
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (folder / file).write_bytes(content)
    (folder / "summary.json").unlink()
    for command in (["report"], ["compare", str(run)]):
        result = CliRunner().invoke(
            main, [*command, str(folder), *(["--html", str(tmp_path / "c")] * (len(command) - 1))]
        )
        assert result.exit_code == 2
        assert told in result.output
        assert "Traceback" not in result.output
    assert not (folder / "summary.json").exists()


def test_a_run_whose_streams_are_gone_gives_the_same_results_from_parquet(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(run, folder)
    (folder / "nodes.arrow").unlink()
    shutil.rmtree(folder / "operations")
    reports.write(folder)
    timing = re.compile(r'"report_s": [\d.]+')
    for name in ("summary.json", "junit.xml", "summary.md", "report.html"):
        assert timing.sub("", (folder / name).read_text()) == timing.sub("", (run / name).read_text()), name


# --- history ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def several(run: Path, tmp_path: Path) -> Path:
    """Three runs: seeds 1 to 3, the second one failed, the third one never analysed."""
    for seed in (1, 2, 3):
        folder = tmp_path / f"run-{seed}"
        folder.mkdir()
        for name in ("plan.json", "events.jsonl", "summary.json"):
            shutil.copy(run / name, folder / name)
        summary = json.loads((folder / "summary.json").read_text())
        summary |= {"seed": seed, "verdict": "fail" if seed == 2 else "pass"}
        summary["lookup"]["p99_ms"] = 10.0 * (4 - seed)
        (folder / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "run-3" / "summary.json").unlink()
    (tmp_path / "no-run").mkdir()
    return tmp_path


def names(parent: Path, **options: Any) -> list[str]:
    return [one.folder.name for one in listing(parent, **options)]


def test_runs_are_listed_filtered_and_sorted(several: Path) -> None:
    assert names(several) == ["run-1", "run-2", "run-3"]
    assert names(several, verdicts=["fail"]) == ["run-2"]
    assert names(several, verdicts=["unread"]) == ["run-3"]
    assert names(several, name="st*") == ["run-1", "run-2"]
    assert names(several, sort="lookup.p99") == ["run-2", "run-1", "run-3"]
    assert names(several, sort="-lookup.p99") == ["run-1", "run-2", "run-3"]
    assert names(several, limit=1) == ["run-3"]
    assert names(several, since="2026-01-03") == []
    assert names(several, since="2026-01-02") == ["run-1", "run-2", "run-3"]


@pytest.mark.parametrize("column", SORTS)
def test_every_column_sorts(several: Path, column: str) -> None:
    assert len(names(several, sort=column)) == len(names(several, sort=f"-{column}")) == 3


def test_history_prints_a_table_or_json(several: Path) -> None:
    result = CliRunner().invoke(main, ["history", str(several), "--json"])
    assert [row["seed"] for row in json.loads(result.output)] == [1, 2, None]
    result = CliRunner().invoke(main, ["history", str(several)])
    assert (result.exit_code, len(result.output.splitlines())) == (0, 4)
    assert all(str(several / f"run-{seed}") in result.output for seed in (1, 2, 3))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["nowhere"], "there is no such folder"), ([".", "--sort", "speed"], "no column `speed` (columns: began")],
)
def test_history_says_what_is_wrong(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["history", *arguments])
    assert (result.exit_code, told in result.output) == (2, True)


def test_a_summary_that_is_none_is_named(several: Path) -> None:
    (several / "run-1" / "summary.json").write_text("{}")
    result = CliRunner().invoke(main, ["history", str(several)])
    assert result.exit_code == 2
    assert "run-1/summary.json: is no summary of a run" in result.output
