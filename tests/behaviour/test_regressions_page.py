"""docs/regressions.md names a test for each rule, and each of these tests exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "regressions.md"
NAMED = sorted(set(re.findall(r"`((?:tests|src)/[^`]+)`", PAGE.read_text("utf-8"))))


def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("name", NAMED)
def test_each_test_exists(name: str) -> None:
    file, _, function = name.partition("::")
    assert (ROOT / file).exists()
    if function:
        assert function in functions_of(ROOT / file)


def test_each_rule_has_a_test() -> None:
    faults = re.split(r"\n(?=\*\*)", PAGE.read_text("utf-8").partition("## What searches")[0])[1:]
    assert len(faults) > 25
    for fault in faults:
        assert "*Rule" in fault, fault
        assert "\n- `" in fault, fault
