"""The command `kadstorm`: the composition root, the only place that knows all folders.

Nothing heavy is imported before a command needs it: `kadstorm --help` answers at once. Whatever goes wrong on purpose is a
`KadstormError`: its text goes to standard error and its exit code to the shell, without a traceback.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import HarnessError, KadstormError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.interrupt import Interrupt
    from harness.records import Plan

EXIT_PRECEDENCE = (130, 2, 3, 1, 4, 0)  # where several hold, the first of these is the exit code

EPILOG = """\b
Exit codes: 0 pass · 1 an expectation or check failed · 2 wrong usage or file · 3 the harness or the machine failed ·
4 inconclusive (a fault without effect, too little data) · 130 interrupted. Of several, the first of 130, 2, 3, 1, 4.
"""


class Group(click.Group):
    """Turns Kadstorm's errors into texts and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KadstormError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; nothing was running yet", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            ctx.exit(1)


@click.group(cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kadstorm")
def main() -> None:
    """Fault injection and load for peer-to-peer systems.

    Boots a network of nodes with a real Toxiproxy on every link, plays a seeded schedule of faults while Locust drives load,
    records every operation, and gives a verdict and a report.

    \b
    Start with:  kadstorm doctor
                 kadstorm run chaos/experiments/first-storm.yaml
    """


FILES = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
SEED = click.option("--seed", type=int, help="Another seed than the file's.")
NODES = click.option("--nodes", type=int, help="Another number of nodes.")
SETTINGS = click.option(
    "--set", "settings", multiple=True, metavar="PATH=VALUE", help="Any value: load.rate=50/s. Repeatable."
)


@main.command()
@FILES
@SEED
@NODES
@SETTINGS
@click.option("--backend", type=click.Choice(["process", "docker"]), help="Where nodes run.")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder; with several runs, their parent.")
@click.option("--toxiproxy", metavar="PATH", help="The toxiproxy-server to use (or KADSTORM_TOXIPROXY).")
@click.option("--repeat", type=click.IntRange(min=1), default=1, help="Run each so many times.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failed expectation.")
@click.option("--quiet", is_flag=True, help="Only the verdict.")
@click.option(
    "--baseline", type=click.Path(path_type=Path), metavar="DIR", help="Compare with the runs there; exit 1 if worse."
)
@click.pass_context
def run(
    ctx: click.Context,
    files: Sequence[Path],
    seed: int | None,
    nodes: int | None,
    settings: Sequence[str],
    backend: str | None,
    out: Path | None,
    toxiproxy: str | None,
    repeat: int,
    fail_fast: bool,
    quiet: bool,
    baseline: Path | None,
) -> None:
    """Run experiments (YAML), or a plan.json once more.

    The verdict and the report's path are printed; the exit code says how it went. Each run leaves a folder in runs/ with
    every operation, the journal and the report.
    """
    from harness.interrupt import Interrupt
    from harness.toxiproxy import binary

    overrides = _overrides(seed, nodes, backend, settings)
    prepared = _all_prepared(files, overrides)
    if baseline is not None:
        _check_baseline(baseline)
    console = _console()
    found = binary.find(toxiproxy, progress=lambda line: console.print(line, style="dim"))
    _prepare_backends(prepared, found, console)
    codes: list[int] = []
    folders: list[Path] = []
    with Interrupt().installed() as interrupt:
        jobs = [job for job in prepared for _ in range(repeat)]
        for plan, text in jobs:
            if (codes and codes[-1] and fail_fast) or interrupt.received:
                break
            folders.append(_run_folder(plan, out, single=len(jobs) == 1))
            codes.append(_run_one(plan, text, folders[-1], found, interrupt, console, quiet=quiet, fail_fast=fail_fast))
    if baseline is not None and folders and not interrupt.received:
        codes.append(_compare(baseline, folders, (), console))
    ctx.exit(worst(codes))


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--session",
    metavar="[ID]",
    is_flag=False,
    flag_value="",
    help="Not a cluster of its own, but one that `kadstorm up` keeps.",
)
@click.option("--nodes", type=int, help="Nodes of the cluster that it boots (default 20).")
@click.option("--backend", type=click.Choice(["process", "docker"]), help="Where nodes run.")
@click.option("--rate", help="Open model: arrivals a second, such as 500/s.")
@click.option("--users", type=int, help="Closed model: users that wait for their answers.")
@click.option("--think", help="Closed model: time between an answer and the next operation.")
@click.option("--for", "for_", help="How long (default 30s).")
@click.option("--stores", help="Share of stores (default 20%).")
@click.option("--keys", type=int, help="Keys that are stored before.")
@click.option("--value-size", help="Bytes of a value (default 256B).")
@click.option("--processes", type=int, help="Load workers.")
@SEED
@SETTINGS
@click.option("--expect", multiple=True, metavar="EXPECTATION", help="Judge it by this as well. Repeatable.")
@click.option("--find-limit", metavar="OBJECTIVE", help='Step the rate up until it fails: "lookup.p99 <= 100ms".')
@click.option("--step", default="10s", show_default=True, help="With --find-limit: the length of a step.")
@click.option("--up-to", default="5000/s", show_default=True, help="With --find-limit: the highest rate to try.")
@click.option("--ui", is_flag=True, help="Open Locust's page, with a panel to inject faults and heal them.")
@click.option("--ui-host", default="127.0.0.1", show_default=True, help="Where the page listens.")
@click.option("--ui-port", type=click.IntRange(0, 65535), default=8089, show_default=True, help="Its port; 0: any.")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder.")
@click.option("--toxiproxy", metavar="PATH", help="The toxiproxy-server to use (or KADSTORM_TOXIPROXY).")
@click.option("--quiet", is_flag=True, help="Only the verdict.")
@click.pass_context
def load(ctx: click.Context, /, file: Path | None, **given: Any) -> None:
    """Boot a cluster and put load on it, without faults; or, with FILE, on an experiment's cluster.

    With --session the load goes to a cluster that stays. Faults that `kadstorm inject` puts in force meanwhile are in its report.

    \b
    kadstorm load --nodes 30 --rate 500/s --for 30s
    kadstorm load --nodes 30 --find-limit "lookup.p99 <= 100ms"
    kadstorm load --nodes 30 --ui
    kadstorm load --session --rate 50/s --for 60s
    """
    from harness import load_command
    from harness.interrupt import Interrupt
    from harness.plan import make_plan
    from harness.toxiproxy import binary

    options = {name: given["for_" if name == "for" else name.replace("-", "_")] for name in load_command.OPTIONS}
    if given["session"] is not None:
        ctx.exit(_load_of_session(ctx, options, given))
    made = load_command.read(file, options, list(given["settings"]), list(given["expect"]))
    load_command.refuse_impossible(made, load_command.typed(ctx))
    objective, limits = given["find_limit"], {name: given[name] for name in ("step", "up_to")}
    plan = make_plan(made) if objective is None else load_command.stepped(made, objective, **limits)
    console = _console()
    found = binary.find(given["toxiproxy"], progress=lambda line: console.print(line, style="dim"))
    _prepare_backends([(plan, made.text)], found, console)
    folder = _run_folder(plan, given["out"], single=True)
    enough = None if objective is None else lambda: _search_ended(folder)
    with Interrupt().installed() as interrupt:
        if given["ui"]:
            from harness.load_page import Page

            page = Page(plan, folder, made.text, found, interrupt, given["ui_host"], given["ui_port"])
            page.run(click.echo)
            ctx.exit(_report(folder, console))
        code = _run_one(
            plan, made.text, folder, found, interrupt, console, quiet=given["quiet"], fail_fast=False, enough=enough
        )
    ctx.exit(code)


def _load_of_session(ctx: click.Context, options: dict[str, Any], given: dict[str, Any]) -> int:
    """See `load`. Options that choose a cluster, or need one of their own, are refused."""
    from harness import byhand, load_command
    from harness.interrupt import Interrupt

    own = ("FILE", "--ui", "--find-limit", "--toxiproxy", "--nodes", "--backend")
    if refused := [name for name in own if name in load_command.typed(ctx)]:
        raise UsageError(f"{refused[0]} does not go with --session: it is for a cluster that this command boots itself")

    def folder_of(plan: Plan) -> Path:
        return _run_folder(plan, given["out"], single=True)

    def say(line: str) -> None:
        if not given["quiet"]:
            click.echo(line)

    expect, settings = list(given["expect"]), list(given["settings"])
    with Interrupt().installed() as interrupt:
        folder = byhand.load(given["session"] or None, options, settings, expect, folder_of, interrupt, say)
    return _report(folder, _console())


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@SEED
@NODES
@SETTINGS
@click.option("--json", "as_json", is_flag=True, help="Print plan.json, which `kadstorm run` takes.")
def plan(file: Path, seed: int | None, nodes: int | None, settings: Sequence[str], as_json: bool) -> None:
    """Show the schedule that an experiment's seed gives, and run nothing."""
    from harness.plan import describe, plan_bytes

    made, _ = _prepared(file, _overrides(seed, nodes, None, settings))
    if as_json:
        sys.stdout.buffer.write(plan_bytes(made))
    else:
        click.echo(describe(made, shutil.get_terminal_size((100, 24)).columns))


@main.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--open", "open_", is_flag=True, help="Open the report in the browser.")
@click.option(
    "--format",
    "format_",
    metavar="FORMAT",
    help="Print instead, and write nothing: csv, operations-csv, prometheus, json, junit, markdown.",
)
@click.pass_context
def report(ctx: click.Context, run_dir: Path, open_: bool, format_: str | None) -> None:
    """Analyse a stored run again: summary.json, junit.xml, summary.md and report.html are written anew."""
    if format_ is not None:
        from reports import commands

        with _reported():
            told = commands.exported_run(run_dir, format_)
        sys.stdout.buffer.write(told.content)
        ctx.exit(told.exit_code)
    code = _report(run_dir, _console())
    if open_:
        click.launch((run_dir / "report.html").resolve().as_uri())
    ctx.exit(code)


@main.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("new", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="NEW…")
@click.option(
    "--tolerance", multiple=True, metavar="[METRIC=]VALUE", help="What may get worse: 10%, recovery=2s. Repeatable."
)
@click.option("--html", type=click.Path(path_type=Path), default=Path("comparison.html"), show_default=True)
@click.option("--json", "json_", type=click.Path(path_type=Path), help="Write the figures there, too.")
@click.pass_context
def compare(
    ctx: click.Context, base: Path, new: Sequence[Path], tolerance: Sequence[str], html: Path, json_: Path | None
) -> None:
    """Hold runs against others: what got worse, with confidence intervals.

    BASE and NEW are run folders, or folders that hold some (as `run --repeat 5 --out DIR` makes them). Exit codes: 1 if
    something got worse by more than its tolerance, 4 with fewer than three runs on a side, else 0.
    """
    ctx.exit(_compare(base, new, tolerance, _console(), html=html, json=json_))


@main.command()
@click.argument("parent", type=click.Path(path_type=Path), default=Path("runs"), metavar="[DIR]")
@click.option("--name", default="*", metavar="PATTERN", help="Only runs of such experiments: first-*.")
@click.option("--verdict", "verdicts", multiple=True, help="Only runs with this verdict. Repeatable.")
@click.option("--since", default="", metavar="DATE", help="Only runs begun then or later (UTC): 2026-01-31.")
@click.option("--sort", default="began", show_default=True, metavar="COLUMN", help="-lookup.p99: the slowest first.")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="Only the last so many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def history(parent: Path, name: str, verdicts: Sequence[str], since: str, sort: str, limit: int, as_json: bool) -> None:
    """List the runs in a folder (runs/), filtered and sorted."""
    from reports import commands, listing

    with _reported():
        runs = listing.listing(parent, name=name, verdicts=verdicts, since=since, sort=sort, limit=limit)
    if as_json:
        sys.stdout.buffer.write(listing.as_json(runs))
    else:
        click.echo("\n".join(commands.history_lines(runs)))


@main.command("list")
@click.argument("what", type=click.Choice(["faults", "experiments", "shapes", "checkers"]))
def list_(what: str) -> None:
    """List what there is, with options."""
    from harness import catalogue

    for line in catalogue.lines(what):
        click.echo(line)


@main.command()
@click.option("--nodes", type=click.IntRange(min=1), default=20, show_default=True, help="How many nodes are to fit.")
@click.pass_context
def doctor(ctx: click.Context, nodes: int) -> None:
    """Say what this machine can do, and how to mend what it cannot."""
    from harness.doctor import examine

    console, failed = _console(), False
    marks = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}
    for finding in examine(nodes):
        failed = failed or finding.state == "fail"
        console.print(f"{marks[finding.state]} {finding.what}: ", end="")
        console.print(finding.said, markup=False, highlight=False, soft_wrap=True)
        if finding.remedy:
            console.print(f"       → {finding.remedy}", markup=False, highlight=False, soft_wrap=True)
    ctx.exit(3 if failed else 0)


@main.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--all", "everything", is_flag=True, help="End living sessions of this user, too.")
@click.pass_context
def cleanup(ctx: click.Context, dry_run: bool, everything: bool) -> None:
    """Remove what dead sessions left behind, and of no other session anything."""
    from harness.cleanup import sweep
    from harness.session import state_dir

    troubles: list[bool] = []
    for one in sweep(state_dir(), dry_run=dry_run, everything=everything, tell=click.echo):
        click.echo(one.line(dry_run=dry_run))
        for text in one.trouble:
            click.echo(f"  {text}", err=True)
        troubles.append(bool(one.trouble))
    if not troubles:
        click.echo("nothing to remove")
    ctx.exit(3 if any(troubles) else 0)


@main.group()
def images() -> None:
    """Container images of the node and of Toxiproxy."""


@images.command()
@click.option("--offline", is_flag=True, help="Make the base of this machine's Python: no registry is asked.")
@click.option("--toxiproxy", metavar="PATH", help="The toxiproxy-server to use (or KADSTORM_TOXIPROXY).")
@click.option("--target", default="kademlia", show_default=True, help="Whose image.")
@click.option(
    "--load", "of_load", is_flag=True, help="Only the image of Locust's masters and workers; prints its name."
)
def build(offline: bool, toxiproxy: str | None, target: str, of_load: bool) -> None:
    """Build the images, where they are not there already.

    An image is named by a digest of all that went in. Without --offline the base is a slim Python image from a registry.
    `kadstorm run --backend docker` builds what is missing by itself, without a registry where this machine can do that.
    """
    from harness import registry
    from harness.containers import engine, images, load_image
    from harness.toxiproxy import binary

    tell = partial(click.echo, err=of_load)
    with closing(engine.connect()) as found:
        if of_load:
            click.echo(load_image.ensure(found, tell))
            return
        recipe = registry.target(target).image()
        images.build(found, recipe, binary.find(toxiproxy, progress=tell), tell, offline=offline)


@main.command()
@SEED
@NODES
@SETTINGS
@click.option("--backend", type=click.Choice(["process", "docker"]), help="Where nodes run.")
@click.option("--spare", type=click.IntRange(min=0), help="Nodes that `inject join` and `replace` can bring in.")
@click.option("--ttl", default="1h", show_default=True, help="It ends by itself after that.")
@click.option("--toxiproxy", metavar="PATH", help="The toxiproxy-server to use (or KADSTORM_TOXIPROXY).")
def up(
    seed: int | None,
    nodes: int | None,
    settings: Sequence[str],
    backend: str | None,
    spare: int | None,
    ttl: str,
    toxiproxy: str | None,
) -> None:
    """Start a cluster that stays, in the background, for faults by hand."""
    from harness import byhand
    from harness.runfolder import RUNS
    from harness.toxiproxy import binary

    found = binary.find(toxiproxy, progress=lambda line: click.echo(line, err=True))
    overrides = _overrides(seed, nodes, backend, settings)
    click.echo(byhand.up(overrides, spare=spare, ttl=ttl, toxiproxy=found, parent=RUNS, say=click.echo))


SESSION = click.option("--session", metavar="ID", help="Which session, if several stay.")


@main.command()
@SESSION
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_context
def status(ctx: click.Context, session: str | None, as_json: bool) -> None:
    """Say what a session that stays is, and which faults are in force."""
    from harness import byhand

    ctx.exit(byhand.status(session, as_json=as_json, say=click.echo))


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@SESSION
@click.option("--for", "for_", metavar="TIME", help="How long it lasts; without it, until `kadstorm heal`.")
@click.option("--name", help="Its label.")
@click.argument("fault")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def inject(
    ctx: click.Context, session: str | None, for_: str | None, name: str | None, fault: str, options: Sequence[str]
) -> None:
    """Put a fault in force: kadstorm inject partition --shape halves --for 30s.

    Its options are those of `kadstorm list faults`; --for and --name may stand among them, and --session but for churn, which
    has an option of that name: kadstorm inject --session ID churn --session "{exponential: {mean: 10s}}" …
    What was measured of it is printed; the exit code is 4 if it had no effect.
    """
    from harness import byhand

    ctx.exit(byhand.inject(session, fault, options, for_=for_, name=name, say=click.echo))


@main.command()
@SESSION
@click.argument("name", required=False)
@click.pass_context
def heal(ctx: click.Context, session: str | None, name: str | None) -> None:
    """Take a fault back by its name; without one, all that can be."""
    from harness import byhand

    ctx.exit(byhand.ask(session, {"do": "heal", "name": name}, click.echo))


@main.command()
@SESSION
@click.pass_context
def down(ctx: click.Context, session: str | None) -> None:
    """End a session that stays: heal, tear down, leave nothing."""
    from harness import byhand

    ctx.exit(byhand.down(session, click.echo))


# --- composition ----------------------------------------------------------------------------------------------------


def worst(codes: Sequence[int]) -> int:
    """The exit code of several runs."""
    return next((code for code in EXIT_PRECEDENCE if code in codes), 3 if codes else 130)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=False)


def _overrides(seed: int | None, nodes: int | None, backend: str | None, settings: Sequence[str]) -> list[str]:
    named = {"seed": seed, "cluster.nodes": nodes, "cluster.backend": backend}
    return [*settings, *(f"{path}={value}" for path, value in named.items() if value is not None)]


def _all_prepared(files: Sequence[Path], overrides: Sequence[str]) -> list[tuple[Plan, str]]:
    """All files' plans and texts; if any has mistakes, those of all of them are raised together."""
    from harness.errors import ExperimentError

    prepared: list[tuple[Plan, str]] = []
    mistakes: list[str] = []
    for file in files:
        try:
            prepared.append(_prepared(file, overrides))
        except ExperimentError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ExperimentError(mistakes)
    return prepared


def _prepared(file: Path, overrides: Sequence[str]) -> tuple[Plan, str]:
    """A file's plan, and the text of its experiment."""
    from harness.plan import load_plan, make_plan, plan_text

    if file.suffix == ".json":
        if overrides:
            raise UsageError(
                f"{file}: a plan is played as it is; --seed, --nodes, --backend and --set need its experiment"
            )
        made = load_plan(file)
        return made, plan_text(made)
    from harness import registry
    from harness.experiment import load_experiment

    experiment = load_experiment(file, overrides)
    registry.backend(experiment.top.cluster.backend)
    registry.target(experiment.top.cluster.target)
    return make_plan(experiment), experiment.text


def _prepare_backends(prepared: Sequence[tuple[Plan, str]], toxiproxy: Path, console: Console) -> None:
    """See that the machine can do what the plans need, once for each kind of backend and target."""
    from harness import registry
    from harness.plan import powers_by_kind

    tell = partial(console.print, style="dim", highlight=False)
    for (backend, target), needs in sorted(powers_by_kind(plan for plan, _ in prepared).items()):
        registry.backend(backend).prepare(toxiproxy, registry.target(target).image, needs, tell)


def _run_folder(plan: Plan, out: Path | None, *, single: bool) -> Path:
    from harness.runfolder import RUNS, make_run_dir, new_run_dir

    name = str(plan.experiment["name"])
    if out is not None and single:
        return make_run_dir(out)
    return new_run_dir(name, RUNS if out is None else out)


def _run_one(
    plan: Plan,
    text: str,
    folder: Path,
    toxiproxy: Path,
    interrupt: Interrupt,
    console: Console,
    *,
    quiet: bool,
    fail_fast: bool,
    enough: Callable[[], list[str]] | None = None,
) -> int:
    from harness import faults
    from harness.environment import environment
    from harness.live import LiveView, PlainLines
    from harness.runner import Live, Runner

    views: list[LiveView | PlainLines] = []

    def watch(live: Live) -> LiveView | PlainLines:
        views.append(LiveView(live, console) if console.is_terminal else PlainLines(live, console))
        return views[-1]

    if not quiet:
        click.echo(f"{plan.experiment['name']}: seed {plan.seed}, {len(plan.nodes)} nodes, into {folder}")
    runner = Runner(
        plan=plan,
        run_dir=folder,
        experiment_text=text,
        toxiproxy=toxiproxy,
        environment=environment(),
        replay=f"kadstorm run {folder / 'plan.json'}",
        interrupt=interrupt,
        fault_of=faults.get,
        watch=None if quiet else watch,
        failing=(lambda: _failing(folder)) if fail_fast else None,
        enough=enough,
    )
    try:
        runner.run()
    finally:
        for view in views:
            view.close()
    return _report(folder, console)


def _failing(folder: Path) -> list[str]:
    import reports

    return [one.text for one in reports.analyse(folder).expectations if one.verdict == "fail"]


def _search_ended(folder: Path) -> list[str]:
    from reports import history, limit

    seen = history.load(folder)
    return limit.ended(seen, seen.horizon)


@contextmanager
def _reported() -> Iterator[None]:
    """Errors of `reports/` as ours, with their exit codes."""
    import reports

    try:
        yield
    except reports.ReportError as error:
        raise (UsageError if error.exit_code == 2 else HarnessError)(str(error)) from error


def _check_baseline(base: Path) -> None:
    from reports import commands

    with _reported():
        commands.check_baseline(base)


def _compare(
    base: Path,
    new: Sequence[Path],
    tolerance: Sequence[str],
    console: Console,
    *,
    html: Path | None = None,
    json: Path | None = None,
) -> int:
    from reports import commands

    with _reported():
        told = commands.compare_runs(base, new, tolerance, html=html, json=json)
    for line in told.lines:
        console.print(line, highlight=False, soft_wrap=True)
    return told.exit_code


def _report(folder: Path, console: Console) -> int:
    import reports

    with _reported():
        summary = reports.write(folder)
    console.print()
    for line in reports.terminal_lines(summary):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    return int(summary.exit_code)
