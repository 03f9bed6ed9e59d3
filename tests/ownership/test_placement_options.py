"""Weight, groups and labels of a node: code, file, environment and command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure import NodeOptions
from perdure.cli.serving import _placed
from perdure.errors import UsageError

FILE = """
[node]
weight = 50
groups = ["default", "billing"]

[node.labels]
zone = "eu-1"
disk = "ssd"
"""


def test_a_file_and_the_environment_set_them(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(FILE)
    options = NodeOptions.load(path, {})
    assert options.weight == 50
    assert options.groups == ("default", "billing")
    assert options.labels == {"zone": "eu-1", "disk": "ssd"}
    given = {"PERDURE_WEIGHT": "7", "PERDURE_GROUPS": "a, b,", "PERDURE_LABELS": "zone=us,x=1"}
    options = NodeOptions.load(path, given)
    assert options.weight == 7
    assert options.groups == ("a", "b")
    assert options.labels == {"zone": "us", "x": "1"}


def test_the_command_line_comes_before_both() -> None:
    options = NodeOptions(weight=5, groups=("a",), labels={"zone": "eu", "disk": "ssd"})
    assert _placed(options, None, None, None) == options
    placed = _placed(options, 0, "b,c", ["zone=us"])
    assert placed.weight == 0
    assert placed.groups == ("b", "c")
    assert placed.labels == {"zone": "us", "disk": "ssd"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"weight": -1}, "NodeOptions.weight"),
        ({"weight": 1_000_001}, "NodeOptions.weight is 1000000 at most"),
        ({"groups": "default"}, "NodeOptions.groups must be a tuple of names"),
        ({"groups": ("pin",)}, "'pin' cannot be the name of a group"),
        ({"groups": ("a/b",)}, "'a/b' cannot be the name of a group"),
        ({"labels": {"zone": "a b"}}, "'a b' cannot be in a label"),
        ({"labels": {"zone": 1}}, "1 cannot be in a label"),
        ({"labels": {"": "x"}}, "'' cannot be in a label"),
        ({"labels": {f"l{n}": "x" for n in range(33)}}, "32 labels at most, got 33"),
        ({"labels": ["zone=eu"]}, "NodeOptions.labels must map names to texts"),
    ],
)
def test_what_they_cannot_be_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        NodeOptions(**given)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('groups = "a"', "groups must be a list of names"),
        ("groups = [1]", "1 cannot be the name of a group"),
        ('labels = "a=b"', "labels must be a table"),
        ("labels = {zone = 1}", "1 cannot be in a label"),
        ("weight = 1.5", "weight must be a whole number"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f"[node]\n{text}\n")
    with pytest.raises(UsageError, match=said):
        NodeOptions.load(path, {})


def test_a_label_without_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="'zone' is no label"):
        NodeOptions.load(None, {"PERDURE_LABELS": "zone"})
    with pytest.raises(UsageError, match="'zone' is no label"):
        _placed(NodeOptions(), None, None, ["zone"])
