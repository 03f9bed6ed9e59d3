"""docs/conformance-engine.md has every case of the reference, and each test that it names exists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "conformance-engine.md"
NAMES = Path(__file__).with_name("reference_cases.txt")
SUITE = ROOT / "src" / "perdure" / "testing" / "conformance"
COUNTS = {"end to end": 552, "in source": 63, "python": 42, "samples": 11, "seen": 7, "read": 20}
PARTS = {
    "end to end": "## End to end",
    "in source": "## In-source tests",
    "python": "## duroxide-python",
    "samples": "## Samples",
    "seen": "### Seen in 0.2.2",
    "read": "### Found by reading 0.1.26",
}

Row = tuple[str, list[str], str]


def named() -> dict[str, list[str]]:
    """The groups and their cases."""
    groups: dict[str, list[str]] = {}
    cases: list[str] = []
    for line in NAMES.read_text("utf-8").splitlines():
        if line.startswith("["):
            cases = groups[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            cases += line.split(" | ")
    return groups


@cache
def part(name: str) -> dict[str, list[Row]]:
    """The tables of a part of the page, by their headings."""
    text = PAGE.read_text("utf-8")
    begin = text.index(PARTS[name])
    marks = ["##", "###"] if name in ("seen", "read") else ["##"]
    ends = [text.find(f"\n{mark} ", begin + 5) for mark in marks]
    tables: dict[str, list[Row]] = {}
    rows: list[Row] = []
    for line in text[begin : min((e for e in ends if e >= 0), default=len(text))].splitlines():
        if line.startswith(("### ", "## Samples")):
            rows = tables[line.lstrip("# ")] = []
        elif line.startswith("| ") and not line.startswith("| case |"):
            case, tests, note = (cell.strip() for cell in line.strip("|").split(" | "))
            rows.append((case.strip("`"), re.findall(r"`([^`]+)`", tests), note))
    return tables


def rows(name: str) -> list[Row]:
    return [row for table in part(name).values() for row in table]


@pytest.mark.parametrize("name", ["end to end", "in source"])
def test_every_case_is_there_once_and_in_order(name: str) -> None:
    groups = named()
    found = part(name)
    wanted = [group for group in groups if f"{group} ({len(groups[group])})" in found]
    assert [f"{group} ({len(groups[group])})" for group in wanted] == list(found)
    for group in wanted:
        assert [case for case, _, _ in found[f"{group} ({len(groups[group])})"]] == groups[group]


def test_no_group_is_missing() -> None:
    headings = [
        heading.partition(" (")[0] for name in ("end to end", "in source") for heading in part(name)
    ]
    assert headings == list(named())


@pytest.mark.parametrize("name", COUNTS)
def test_so_many_there_are(name: str) -> None:
    assert len(rows(name)) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_each_has_a_test_or_a_reason(name: str) -> None:
    for case, tests, note in rows(name):
        assert tests or len(note) > 15, case
        assert not note or note.endswith("."), case
        assert tests or name not in ("seen", "read"), f"{case}: a defect needs its regression test"


@cache
def functions_of(file: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, functions)
    }


@pytest.mark.parametrize("name", COUNTS)
def test_each_test_exists(name: str) -> None:
    for case, tests, _ in rows(name):
        for test in tests:
            if "::" in test:
                file, _, function = test.partition("::")
                assert function.partition("[")[0] in functions_of(ROOT / file), (case, test)
            else:
                section, _, function = test.partition(".")
                assert function in functions_of(SUITE / f"{section}.py"), (case, test)


def test_each_parameter_exists(request: pytest.FixtureRequest) -> None:
    wanted = {
        test for name in COUNTS for _, tests, _ in rows(name) for test in tests if "[" in test
    }
    wanted -= {item.nodeid for item in request.session.items}
    if wanted:  # not the whole suite runs: ask for the rest
        assert sorted(wanted - collected({test.partition("::")[0] for test in wanted})) == []


def collected(files: set[str]) -> set[str]:
    """The ids of all tests in these files."""
    options = ["-o", "addopts=", "-q", "-p", "no:cacheprovider", "--collect-only"]
    command = [sys.executable, "-m", "pytest", *options, *sorted(files)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout[-2_000:]
    return set(done.stdout.splitlines())


def test_the_first_lines_count_right() -> None:
    without = sum(not tests for _, tests, _ in rows("end to end"))
    total = COUNTS["end to end"]
    assert (
        f"{total} cases: {total - without} have a test here, {without} have no meaning."
        in PAGE.read_text("utf-8")
    )
