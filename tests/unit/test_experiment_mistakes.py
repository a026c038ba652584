"""All mistakes of a file in one pass, each at its place and in the product's words."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ExperimentError
from harness.experiment import load_experiment
from harness.plan import make_plan

MANY = """\
name: mistakes
seed: seven
cluster: {nodes: 0, backend: podman}
load: {rate: fast, users: 5, stores: 120%}
duration: 30s
settle: 5
timeline:
  - {at: 5s, for: 5s, partiton: halves}
  - {at: 40s, kill: {nodes: 2}}
  - {for: 5s, latency: {latency: -3ms, from: nobody, to: all}, pause: {nodes: 1}}
expect:
  - lookup.sucess >= 99%
  - recovery <= 10s after storm
"""
# line, and words that the message must have
EXPECTED = [
    (2, "seed", "seven"),
    (3, "nodes", "at least 1"),
    (3, "backend", "podman"),
    (4, "rate", "fast"),
    (4, "rate", "users", "exclude each other"),
    (4, "stores", "above 100%"),
    (6, "settle", "unit"),
    (8, "no fault `partiton`", "did you mean `partition`?"),
    (9, "starts at 40s", "after the end"),
    (10, "`at`", "missing"),
    (10, "exactly one fault", "`latency`", "`pause`"),
    (10, "latency", "negative"),
    (10, "no selector `nobody`",),
    (12, "no metric `lookup.sucess`", "lookup.success"),
    (13, "no timeline entry `storm`",),
]  # fmt: skip
MEAN = "{exponential: {mean: 2s}}"
JARGON = re.compile(r"Input should|Value error|type=|validation error|pydantic|Field required|Extra inputs", re.I)


def mistakes(folder: Path, text: str) -> list[str]:
    """What is wrong with an experiment, each as `line:column: text`."""
    path = folder / "x.yaml"
    path.write_text(text)
    with pytest.raises(ExperimentError) as caught:
        make_plan(load_experiment(path))
    found = [line.removeprefix(f"{path}:") for line in caught.value.mistakes]
    assert not any(JARGON.search(line) for line in found), found
    return found


def base(cluster: str = "{nodes: 10}", load: str = "{rate: 10/s}", entry: str = "", extra: str = "") -> str:
    """An experiment of four lines and what is to be tested."""
    timeline = f"timeline:\n  - {entry}\n" if entry else ""
    return f"name: x\ncluster: {cluster}\nload: {load}\nduration: 30s\n{timeline}{extra}"


def during(fault: str) -> str:
    """An entry of two seconds."""
    return f"{{at: 1s, for: 2s, {fault}}}"


def test_every_mistake_of_a_bad_file_is_told_and_nothing_else(tmp_path: Path) -> None:
    found = mistakes(tmp_path, MANY)
    for line, *words in EXPECTED:
        assert any(told.startswith(f"{line}:") and all(word in told for word in words) for told in found), words
    assert len(found) == len(EXPECTED), found
    assert [int(told.split(":")[0]) for told in found] == [line for line, *_ in EXPECTED]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (base("{nodes: 10, bootstrap: 11}"), 2, "11 nodes of 10"),
        (base("{nodes: 10, sites: 11}"), 2, "11 sites for 10 nodes"),
        (base("{nodes: 10, node: {kk: 5}}"), 2, "did you mean `k`?"),
        (base("{nodes: 10, node: 5}"), 2, "a mapping is expected"),
        (base("{nodes: true}"), 2, "a whole number is expected"),
        (base("{nodes: 1000000000}"), 2, "at most 10000"),
        (base("[1, 2]"), 2, "a mapping is expected"),
        (base(load="{rate: 10/s, think: 1s}"), 3, "belongs to `users`"),
        (base(load="{users: 5, arrivals: poisson}"), 3, "belongs to `rate`"),
        (base(load="{rate: 0/s}"), 3, "above zero"),
        (base(load="{rate: 10/s, arrivals: poison}"), 3, "did you mean `poisson`?"),
        (base(load="{rate: 10/s, write_acks: 11}"), 3, "at most 10 holders"),
        (base("{nodes: 10, node: {k: 4}}", "{rate: 10/s, write_acks: 5}"), 3, "at most 4 holders"),
        (base(extra="network: {latency: 2ms, jitter: 3ms}\n"), 5, "at most the latency"),
        (base(extra="networks: {}\n"), 5, "did you mean `network`?"),
        (base(extra="seed: -1\n"), 5, "seed"),
        (base(extra=f"seed: 1{'0' * 30}\n"), 5, "seed"),
        (base(extra="expect: lost == 0\n"), 5, "a list is expected"),
        (base(extra="expect: [5]\n"), 5, "an expectation"),
        (base(extra="timeline: 5\n"), 5, "a list is expected"),
        (base(entry="{}"), 6, "`at` is missing"),
        (base(entry="halves"), 6, "an entry"),
        (base(entry="{at: 1s}"), 6, "exactly one fault"),
        (base(entry="{at: 1s, fro: 5s, partition: halves}"), 6, "did you mean `for`?"),
        (base(entry="{at: 1s, for: 0s, partition: halves}"), 6, "above zero"),
        (base(entry="{at: 28s, for: 5s, partition: halves}"), 6, "ends at 33s"),
        (base(entry="{at: 28s, kill: {nodes: 1, restart_after: 5s}}"), 6, "ends at 33s"),
        (base(entry="{at: 1s, for: 5s, kill: {nodes: 1}}"), 6, "takes no `for`"),
        (base(entry=f"{{at: 1s, churn: {{nodes: 1, session: {MEAN}, downtime: {MEAN}}}}}"), 6, "needs `for`"),
        (base(entry="{at: 1s, kill: {nodes: 11}}"), 6, "the cluster has 10"),
        (base(entry="{at: 1s, kill: {nodes: 0}}"), 6, "from 1 on"),
        (base(entry="{at: 1s, kill: {nodes: 0%}}"), 6, "above 0%"),
        (base(entry="{at: 1s, kill: {nodes: node-10}}"), 6, "node-0 to node-9"),
        (base(entry="{at: 1s, kill: {nodes: [node-1, site-77]}}"), 6, "site-0 to site-9"),
        (base(entry="{at: 1s, kill: {nodes: []}}"), 6, "must select something"),
        (base(entry="{at: 1s, kill: }"), 6, "`nodes` is missing"),
        (base(entry="{at: 1s, kill: 3}"), 6, "a mapping is expected"),
        (base(entry="{at: 1s, bandwith: {rate: 1KB/s}}"), 6, "did you mean `bandwidth`"),
        (base(entry="{at: 1s, for: 5s, repeat: {every: 4s, times: 2}, partition: halves}"), 6, "overlap"),
        (base(entry="{at: 1s, for: 5s, repeat: {every: 9s, times: 9}, partition: halves}"), 6, "ends at"),
        (base(entry="{at: 1s, repeat: {every: 4s, times: 2}, partition: halves}"), 6, "needs `for`"),
        (base(entry=during("latency: {latency: 2ms, jitter: 3ms}")), 6, "at most the latency"),
        (base(entry=during("refuse: {toxicity: 50%}")), 6, "100%"),
        (base(entry=during("blackhole: {toxicity: 0%}")), 6, "0.1%"),
        (base(entry=during("partition: {shape: isolate}")), 6, "belong together"),
        (base(entry=during("partition: {shape: halves, nodes: 2}")), 6, "belong together"),
        (base(entry=during("partition: {mode: refuse, one_way: true}")), 6, "one_way"),
        (base(entry=during("partition: {one_way: 1}")), 6, "true or false"),
        (base(entry=during("partition: {shape: isolate, nodes: all}")), 6, "cuts nothing"),
        (base("{nodes: 1}", entry=during("partition: halves")), 6, "cuts nothing"),
        (base("{nodes: 1}", entry=during("latency: {latency: 5ms}")), 6, "no link"),
        (base(entry=during("blackhole: {from: node-3, to: node-3}")), 6, "no link"),
        (base("{nodes: 9, sites: 3}", entry=during("blackhole: {to: node-4}")), 6, "raise cluster.sites to 9"),
        (base(entry="{at: 1s, churn: {nodes: 1, session: {exponential: {mean: 5s}}, downtime: {}}}"), 6, "exactly one"),
        (
            base(entry=during("churn: {nodes: 1, session: {weibul: {}}, downtime: {exponential: {mean: 1s}}}")),
            6,
            "did you mean `weibull`?",
        ),
        (
            base(
                entry=during(
                    "churn: {nodes: 1, session: {weibull: {shape: 0, mean: 1s}}, downtime: {exponential: {mean: 1s}}}"
                )
            ),
            6,
            "above 0.05",
        ),
        (
            base(
                entry=during(
                    "churn: {nodes: 1, session: {exponential: {mean: 900h}}, downtime: {exponential: {mean: 1s}}}"
                )
            ),
            6,
            "nobody would leave",
        ),
        (
            base(entry=f"{during('partition: halves, name: a')}\n  - {{at: 9s, kill: {{nodes: 1}}, name: a}}"),
            7,
            "taken",
        ),
        (base(entry="{at: 1s, kill: {nodes: all}}\n  - {at: 3s, kill: {nodes: 1}}"), 7, "nobody"),
    ],
)
def test_each_rule_is_told_at_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    found = mistakes(tmp_path, text)
    assert any(told.startswith(f"{line}:") and words in told for told in found), found


def test_an_empty_map_says_what_it_needs(tmp_path: Path) -> None:
    assert [told.split(": ", 1)[1] for told in mistakes(tmp_path, "{}")] == [
        "`name` is missing",
        "`duration` is missing",
    ]


def test_an_empty_file_and_a_list_are_told(tmp_path: Path) -> None:
    assert "empty" in mistakes(tmp_path, "")[0]
    assert "mapping" in mistakes(tmp_path, "[1]")[0]


def test_one_wrong_value_hides_no_other(tmp_path: Path) -> None:
    text = base(
        "{nodes: 10, backend: x, sites: 99}",
        "{rate: 10/s, stores: 5, write_acks: 50}",
        "{at: 40s, for: 5, latency: {latency: -3ms, from: node-99}}",
    )
    found = "\n".join(mistakes(tmp_path, text))
    for words in (
        "backend",
        "99 sites",
        "stores",
        "10 holders here, not 50",
        "starts at 40s",
        "not 5",
        "negative",
        "node-99",
    ):
        assert words in found


def test_a_mistake_in_an_override_names_it(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(base())
    with pytest.raises(ExperimentError) as caught:
        load_experiment(path, ["load.rate=fast", "cluster.nodes=0"])
    named = {told.split(": ")[0] for told in caught.value.mistakes}
    assert named == {"--set load.rate=fast", "--set cluster.nodes=0"}


WORDS = st.sampled_from(["at", "for", "name", "nodes", "kill", "partition", "cluster", "load", "rate", "5s", "all"])
SCALARS = st.one_of(WORDS, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False))
TREES = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner), st.dictionaries(WORDS, inner)), max_leaves=12)
TOP = st.sampled_from(["cluster", "load", "duration", "timeline", "expect", "network", "seed"])


@given(st.dictionaries(TOP, TREES))
def test_no_tree_breaks_the_loader(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.yaml"
    path.write_text(json.dumps(tree))
    with pytest.raises(ExperimentError):  # it never has a name
        load_experiment(path)
