"""The commands `up`, `status`, `inject`, `heal` and `down`: what they ask of a standing session, and what they print.

See `standing.py` for the session itself. Functions raise KadstormError and return exit codes; they print through ``say``.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness import faults
from harness.errors import HarnessError, UsageError
from harness.interrupt import Interrupt
from harness.plan import load_plan, make_plan, powers_needed
from harness.quantities import parse_time
from harness.records import EXPERIMENT_FILE, PLAN_FILE, Plan
from harness.runfolder import new_run_dir, write_inputs
from harness.session import SOCKET, Lock, recorded_sessions, state_dir
from harness.standing import Conversation, send

SUPERVISOR_LOG = "supervisor.log"
ENDING = 60.0  # s for a session to end
NAME = "by-hand"

Say = Callable[[str], None]


class NoSession(HarnessError):
    """The session that is meant is not there."""


def up(overrides: Sequence[str], *, spare: int | None, ttl: str, toxiproxy: Path, parent: Path, say: Say) -> str:
    """Start a session in the background and wait until it is ready; its id. Raises KadstormError."""
    from harness import document, experiment, registry

    seconds = _time(ttl, "--ttl") / 1e6
    source = document.parse(json.dumps({"name": NAME, "duration": ttl}), "kadstorm up")
    for assignment in overrides:
        source.override(assignment)
    checked = experiment.check(source)
    nodes = checked.top.cluster.nodes
    plan = make_plan(checked, spare=max(4, nodes // 2) if spare is None else spare)
    plan.experiment["durable"] = True  # faults to come may keep data
    cluster = plan.experiment["cluster"]
    image = registry.target(cluster["target"]).image
    registry.backend(cluster["backend"]).prepare(toxiproxy, image, powers_needed(plan), say)
    run_dir = new_run_dir(NAME, parent)
    write_inputs(run_dir, checked.text, plan)
    config = {"run_dir": str(run_dir.resolve()), "toxiproxy": str(toxiproxy), "ttl_s": seconds}
    with (run_dir / SUPERVISOR_LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness.standing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # it outlives this command and its terminal
        )
    return _await_ready(process, config, run_dir, say)


def _await_ready(process: subprocess.Popen[bytes], config: dict[str, Any], run_dir: Path, say: Say) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(config).encode() + b"\n")
        process.stdin.close()
        for line in process.stdout:
            told = json.loads(line)
            if "error" in told:
                raise HarnessError(f"the session did not start: {told['error']}")
            if "ready" in told:
                say(f"ready: {told['links']} links; journal and logs in {run_dir}")
                return str(told["ready"])
            if "said" in told:
                say(told["said"])
    except BaseException:
        process.send_signal(signal.SIGTERM)  # also on Ctrl-C: half a session is none
        process.wait()
        raise
    raise HarnessError(f"the session did not start (exit code {process.wait()}); see {run_dir / SUPERVISOR_LOG}")


def standing_sessions() -> list[Path]:
    """Folders of the sessions that stay and live, oldest first."""
    alive = []
    for folder, _ in recorded_sessions(state_dir()):
        lock = Lock(folder / "lock")
        if not (folder / SOCKET).exists():
            continue
        if lock.acquire():
            lock.release()  # nobody holds it: dead, a matter for `cleanup`
        else:
            alive.append(folder)
    return alive


def chosen(session: str | None) -> Path:
    """The folder of the session that is meant: the only one, or the one of that name.

    Raises:
        NoSession: there is none, or none of that name.
        UsageError: there are several.
    """
    there = standing_sessions()
    names = ", ".join(folder.name for folder in there)
    if session is not None:
        found = [folder for folder in there if folder.name == session]
        if not found:
            raise NoSession(f"no session `{session}` stays; there are: {names or 'none'}")
        return found[0]
    if not there:
        raise NoSession("no session stays: start one with `kadstorm up`")
    if len(there) > 1:
        raise UsageError(f"several sessions stay, name one with --session: {names}")
    return there[0]


def ask(session: str | None, request: dict[str, Any], say: Say) -> int:
    """Send a request and say what comes back; the exit code. Raises KadstormError."""
    folder = chosen(session)
    try:
        for line in send(folder / SOCKET, request):
            if "error" in line and "done" in line:
                say(str(line["error"]))
            elif "done" not in line:
                say(_line(line))
            if "done" in line:
                return int(line["done"])
    except OSError as error:
        raise HarnessError(f"{folder.name}: its supervisor does not answer: {error.strerror}") from error
    raise HarnessError(f"{folder.name}: its supervisor ended in the middle of an answer")


def status(session: str | None, *, as_json: bool, say: Say) -> int:
    """What a session is and has in force."""
    folder = chosen(session)
    told = next(iter(send(folder / SOCKET, {"do": "status"})))
    if as_json:
        say(json.dumps(told))
        return 0
    states = list(told["members"].values())
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("running", "paused", "dead") if state in states)
    say(f"{told['session']}: {told['backend']}, {counts}, {told['spare']} spare; ends in {told['ends_in_s']:.0f} s")
    say(f"journal and logs: {told['run_dir']}")
    for fault in told["faults"]:
        end = "until it is healed" if fault["ends_in_s"] is None else f"for {fault['ends_in_s']:.0f} s more"
        say(f"in force: {fault['name']} {end}, on {', '.join(fault['targets'])}")
    if told["loads"]:
        say(f"under load from {told['loads']} `kadstorm load`")
    if not told["faults"]:
        say("no fault is in force")
    for gap in told["toxiproxy_gaps_s"]:
        say(f"Toxiproxy was away for {gap} s")
    return 0


def load(
    session: str | None,
    options: Mapping[str, Any],
    settings: list[str],
    expect: list[str],
    folder_of: Callable[[Plan], Path],
    interrupt: Interrupt,
    say: Say,
) -> Path:
    """Have a session's supervisor put load on its cluster, until that has ended; the run folder.

    ``options`` and ``settings`` are those of `load_command.read`. Ctrl-C ends the load in order, and what it recorded is kept.

    A session that vanishes in the middle leaves a journal without an end, so that the report's verdict is `error`.

    Raises:
        KadstormError: it did not begin.
    """
    from harness import load_command  # a twentieth of a second, which `status` and `heal` need not take

    if fixed := [one for one in settings if one.startswith(("cluster.", "network."))]:
        raise UsageError(f"--set {fixed[0]}: the cluster of a session that stays is as `kadstorm up` made it")
    there = chosen(session)
    told = next(iter(send(there / SOCKET, {"do": "status"})))
    home = Path(told["run_dir"])
    typed = {key: value for key, value in options.items() if value is not None}
    offered = None if "seed" in typed else next(iter(send(there / SOCKET, {"do": "seed"})))["seed"]
    given = {"seed": offered, "for": "30s"} | typed
    made = load_command.read(home / EXPERIMENT_FILE, given, ["name=load", "settle=0s", *settings], expect)
    plan, of_session = make_plan(made), load_plan(home / PLAN_FILE)
    plan.nodes, plan.experiment["cluster"] = of_session.nodes, of_session.experiment["cluster"]
    folder = folder_of(plan)
    write_inputs(folder, made.text, plan)
    say(f"load on {there.name}: seed {plan.seed}, {len(told['gateways'])} gateways, into {folder}")
    request = {"do": "load", "run_dir": str(folder.resolve()), "seed": plan.seed, "offered": plan.seed == offered}
    try:
        with Conversation(there / SOCKET, request) as conversation:
            _follow(conversation, interrupt, say)
    except OSError as error:
        raise HarnessError(f"{there.name}: its supervisor does not answer: {error.strerror}") from error
    return folder


def _follow(conversation: Conversation, interrupt: Interrupt, say: Say) -> None:
    """Say how a load goes on, until it or its session ends. Raises KadstormError if it did not begin."""
    left = False
    for line in conversation:
        if interrupt.received and not left:
            left = True
            say(f"{interrupt.received}: ending the load")
            conversation.leave()
        if "error" in line:
            raise UsageError(line["error"]) if line.get("done") == 2 else HarnessError(line["error"])
        if "done" in line:
            return
        if "progress" in line:
            say(progress(line))
        elif "said" in line:
            say(str(line["said"]))
    say("the session vanished in the middle of the load; what was recorded until then is kept")


def progress(line: Mapping[str, Any]) -> str:
    """One line about the last second or so of a load."""
    words = []
    for kind, plural in (("lookup", "lookups"), ("store", "stores")):
        stats = line[kind]
        if stats["count"]:
            p99 = "" if stats["p99_ms"] is None else f", p99 {stats['p99_ms']:.0f} ms"
            words.append(f"{plural} {stats['rate']:.0f}/s, {100 * stats['ok'] / stats['count']:.1f} % ok{p99}")
    return f"{line['progress']:5.0f} s of {line['of']:g} s: {'; '.join(words) or 'nothing has finished yet'}"


def inject(
    session: str | None, fault: str, words: Sequence[str], *, for_: str | None, name: str | None, say: Say
) -> int:
    """Put a fault in force; ``words`` are its options as typed: ``--shape halves``, and ours where it has none of that name."""
    options = options_of(words)
    known = faults.get(fault).Options.model_fields
    ours = {key: str(options.pop(key)) for key in ("for", "name", "session") if key in options and key not in known}
    session, for_, name = ours.get("session", session), ours.get("for", for_), ours.get("name", name)
    request = {
        "do": "inject",
        "fault": fault,
        "options": options,
        "for_us": None if for_ is None else _time(for_, "--for"),
        "name": name,
    }
    return ask(session, request, say)


def down(session: str | None, say: Say) -> int:
    """End a session, and wait until it has."""
    folder = chosen(session)
    for line in send(folder / SOCKET, {"do": "down"}):
        if "said" in line:
            say(line["said"])
    deadline = time.monotonic() + ENDING
    while folder.exists():
        if (folder / "session.json").exists() and not Lock(folder / "lock").is_held():
            raise HarnessError(
                f"{folder.name} has ended, but something of it could not be removed: `kadstorm cleanup` tries again"
            )
        if time.monotonic() > deadline:
            raise HarnessError(f"{folder.name} does not end; `kadstorm cleanup --all` ends it")
        time.sleep(0.05)  # its folder is the last thing to go: that it is gone is all that can be seen from here
    say(f"{folder.name}: ended")
    return 0


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """``--restart-after 4s --one-way`` -> {"restart_after": "4s", "one_way": True}. Values are YAML. Raises UsageError."""
    options: dict[str, Any] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise UsageError(f"an option such as --shape halves is expected, not `{word}`")
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            value = left.pop(0) if left and not left[0].startswith("--") else "true"
        try:
            options[key.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--{key}: `{value}` is no YAML") from error
    return options


def _time(text: str, option: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def _line(told: dict[str, Any]) -> str:
    if "said" in told:
        return str(told["said"])
    if "targets" in told:
        return f"{told['name']}: on {', '.join(told['targets'])}"
    if told.get("event") == "error":
        return f"{told['name']}: {told.get('message')}"
    words: dict[tuple[str, Any], str] = {
        ("observe", True): "in effect",
        ("observe", False): "had no effect",
        ("heal-observed", True): "has ended",
        ("heal-observed", False): "is still felt",
    }
    word = words.get((str(told.get("event")), told.get("effective")), "cannot be told")
    seen = ", ".join(f"{key} {value}" for key, value in told.get("observed", {}).items())
    return f"{told['name']}: {word} ({seen})" if seen else f"{told['name']}: {word}"
