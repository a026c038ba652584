"""A run's results in other programs' formats: Prometheus text, CSV of the figures, CSV of every operation."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from reports.analysis import Analysis
from reports.errors import ReportUsageError
from reports.summary import Figures, Summary

VERDICTS: Final = {"pass": 1, "fail": 0}  # anything else: not a number
QUANTILES: Final = {"p50_ms": "0.5", "p90_ms": "0.9", "p99_ms": "0.99", "p999_ms": "0.999"}
FATES: Final = ("lost", "unreachable", "stale", "wrong", "unread")


def exported(analysis: Analysis, format_: str) -> bytes:
    """The run in one of FORMATS. Raises as `check_format`."""
    check_format(format_)
    return FORMATS[format_](analysis)


def check_format(format_: str) -> None:
    """Raises:
    ReportUsageError: there is no such format.
    """
    if format_ not in FORMATS:
        raise ReportUsageError(f"--format {format_}: no such format (formats: {', '.join(FORMATS)})")


# --- Prometheus text (exposition format 0.0.4) ------------------------------------------------------------------------


def prometheus(analysis: Analysis) -> bytes:
    """The final figures, for a push gateway or the node exporter's textfile collector. Seconds and shares."""
    return "".join(f"{line}\n" for line in _prometheus(analysis)).encode()


def _prometheus(analysis: Analysis) -> Iterator[str]:
    summary = analysis.summary
    run = {"experiment": summary.name, "seed": str(summary.seed), "backend": summary.backend}
    yield from _family("kadstorm_run_info", "gauge", "The run's verdict, as a label.")
    yield _sample("kadstorm_run_info", {**run, "verdict": summary.verdict}, 1)
    yield from _family("kadstorm_operations_total", "counter", "Operations that were due, by how they ended.")
    for kind, outcomes in summary.outcomes.items():
        for outcome, count in outcomes.items():
            yield _sample("kadstorm_operations_total", {**run, "kind": kind, "outcome": outcome}, count)
    yield from _family("kadstorm_latency_seconds", "summary", "From when an operation was due to its end.")
    for kind, figures in (("lookup", summary.lookup), ("store", summary.store)):
        yield from _latency({**run, "kind": kind}, figures)
    yield from _family("kadstorm_keys", "gauge", "Acknowledged keys, by what became of them.")
    yield _sample("kadstorm_keys", {**run, "fate": "acknowledged"}, analysis.fates.acknowledged)
    for fate in FATES:
        yield _sample("kadstorm_keys", {**run, "fate": fate}, len(analysis.fates.found(fate)))
    yield from _family(
        "kadstorm_recovery_seconds", "gauge", "From a fault's heal until all is as before; NaN: unknown."
    )
    for fault in summary.faults:
        yield _sample("kadstorm_recovery_seconds", {**run, "fault": fault.name}, fault.recovery_s)
    yield from _family("kadstorm_expectation_passed", "gauge", "1 if it holds, 0 if not, NaN if that cannot be told.")
    for one in summary.expectations:
        labels = {**run, "expectation": one.text}
        yield _sample("kadstorm_expectation_passed", labels, VERDICTS.get(one.verdict))
    yield from _family("kadstorm_check_passed", "gauge", "1 if it passed, 0 if not, NaN if that cannot be told.")
    for check in summary.checks:
        yield _sample("kadstorm_check_passed", {**run, "check": check.checker}, VERDICTS.get(check.verdict))


def _latency(labels: dict[str, str], figures: Figures) -> Iterator[str]:
    for field, quantile in QUANTILES.items():
        value = getattr(figures, field)
        yield _sample(
            "kadstorm_latency_seconds", {**labels, "quantile": quantile}, None if value is None else value / 1000
        )
    total = (figures.mean_ms or 0.0) / 1000 * figures.count
    yield _sample("kadstorm_latency_seconds_sum", labels, total)
    yield _sample("kadstorm_latency_seconds_count", labels, figures.count)


def _family(name: str, kind: str, told: str) -> Iterator[str]:
    yield f"# HELP {name} {told}"
    yield f"# TYPE {name} {kind}"


def _sample(name: str, labels: dict[str, str], value: float | None) -> str:
    told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{told}}} {'NaN' if value is None else repr(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


# --- CSV --------------------------------------------------------------------------------------------------------------


def figures_csv(analysis: Analysis) -> bytes:
    """A row per figure: experiment, seed, metric, value, unit; what is unknown has an empty value."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(["experiment", "seed", "metric", "value", "unit"])
    summary = analysis.summary
    for metric, value, unit in _figures(analysis, summary):
        rows.writerow([summary.name, summary.seed, metric, "" if value is None else value, unit])
    return written.getvalue().encode()


def _figures(analysis: Analysis, summary: Summary) -> Iterator[tuple[str, float | str | None, str]]:
    yield ("verdict", summary.verdict, "")
    units = {"success": "share", "rate": "1/s"}
    for kind, figures in (("lookup", summary.lookup), ("store", summary.store)):
        for name, value in msgspec.structs.asdict(figures).items():
            yield (f"{kind}.{name.removesuffix('_ms')}", value, "ms" if name.endswith("_ms") else units.get(name, ""))
    yield ("keys.acknowledged", analysis.fates.acknowledged, "")
    for fate in FATES:
        yield (f"keys.{fate}", len(analysis.fates.found(fate)), "")
    for fault in summary.faults:
        yield (f"recovery after {fault.name}", fault.recovery_s, "s")


def operations_csv(analysis: Analysis) -> bytes:
    """Every operation, with the columns of records.OPERATION_COLUMNS, by due times."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    table = analysis.history.operations.sort_by([("intended", "ascending"), ("finished", "ascending")])
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.string()))
    sink = pa.BufferOutputStream()
    arrow_csv.write_csv(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _json(analysis: Analysis) -> bytes:
    from reports.summary import encoded

    return encoded(analysis.summary)


def _junit(analysis: Analysis) -> bytes:
    from reports.junit import junit

    return junit(analysis.summary)


def _markdown(analysis: Analysis) -> bytes:
    from reports.markdown import markdown

    return markdown(analysis).encode()


FORMATS: Final[dict[str, Callable[[Analysis], bytes]]] = {
    "csv": figures_csv,
    "operations-csv": operations_csv,
    "prometheus": prometheus,
    "json": _json,
    "junit": _junit,
    "markdown": _markdown,
}
