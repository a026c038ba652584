"""YAML with the place of everything: whatever is wrong with the text is told, never raised as something else."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.document import parse, read
from harness.errors import ExperimentError


def told(text: str) -> list[str]:
    """All that is wrong with a text, as lines."""
    try:
        return [f"{mark}: {what}" for mark, what in parse(text, "FILE").mistakes]
    except ExperimentError as error:
        return error.mistakes


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("a: [1, 2\nb: 3\n", "FILE:2:", "not YAML"),
        ("a: 1\n---\nb: 2\n", "FILE:2:1:", "not YAML"),
        ("a:\n  b: 1\n  b: 2\n", "FILE:3:3:", "`b` is written twice"),
        ("a: \x07\n", "FILE:1:4:", "not YAML"),
        ("a: &x [*x]\n", "FILE:1:4:", "contains itself"),
        ("a: !!python/object:os.system x\n", "FILE:1:4:", "no meaning here"),
        ("a: !thing [1]\n", "FILE:1:4:", "no meaning here"),
        ("? [a, b]\n: 1\n", "FILE:1:3:", "a key is a word"),
        ("a: " + "[" * 3000, "FILE:1:1:", "nested too deeply"),
    ],
)
def test_what_is_wrong_with_the_text_is_told_with_its_place(text: str, start: str, words: str) -> None:
    (only,) = told(text)
    assert only.startswith(start)
    assert words in only


def test_a_small_file_cannot_blow_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert any("too many values" in text for text in told("\n".join(lines)))


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xff\n")
    cases = {"none.yaml": "No such file", ".": "directory", "latin.yaml": ":2:4: .*UTF-8"}
    for name, words in cases.items():
        with pytest.raises(ExperimentError, match=words):
            read(tmp_path / name)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(tmp_path / "x.yaml").data == {"a": 1}


def test_scalars_are_what_people_mean() -> None:
    text = "[12:30, on, 'no', 0x10, 010, 1_000, 2024-01-01, 1.5, true, ~, '5', 25%, 100/s]"
    assert parse(text, "FILE").data == [
        "12:30", "on", "no", "0x10", 10, "1_000", "2024-01-01", 1.5, True, None, "5", "25%", "100/s"
    ]  # fmt: skip


@given(st.text(max_size=40))
def test_any_text_is_read_or_told(text: str) -> None:
    told(text)


def test_every_value_and_key_has_its_place() -> None:
    document = parse("a: 1\nb:\n  - {c: x}\n", "FILE")
    assert str(document.mark(("b", 0, "c"))) == "FILE:3:9"
    assert str(document.mark(("b", 0, "c"), key=True)) == "FILE:3:6"
    assert str(document.mark(("b", 0, "missing"))) == "FILE:3:5"


def overridden(*assignments: str) -> Any:
    document = parse("seed: 1\nload: {rate: 5/s}\nempty:\ntimeline:\n- {at: 1s}\n", "FILE")
    for assignment in assignments:
        document.override(assignment)
    return document.data


def test_overrides_replace_add_and_reach_into_lists() -> None:
    data = overridden("load.rate=50/s", "cluster.node.k=8", "timeline.0.at=3s", "empty.x=y", "seed=7")
    assert data == {
        "seed": 7,
        "load": {"rate": "50/s"},
        "empty": {"x": "y"},
        "timeline": [{"at": "3s"}],
        "cluster": {"node": {"k": 8}},
    }


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("timeline.4.at=1s", "there is no"),
        ("timeline.x=1s", "there is no"),
        ("seed.x=1", "there is no"),
        ("seed=[", "no YAML"),
        ("load.=1", "PATH=VALUE"),
        ("seed", "PATH=VALUE"),
    ],
)
def test_a_wrong_override_is_named(assignment: str, words: str) -> None:
    with pytest.raises(ExperimentError, match=words) as caught:
        overridden(assignment)
    assert str(caught.value).startswith(f"--set {assignment}: ")
