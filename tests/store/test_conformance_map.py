"""docs/conformance-store.md: complete, and true about which tests there are."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAP = ROOT / "docs" / "conformance-store.md"
SECTIONS = ROOT / "src" / "perdure" / "testing" / "conformance"
CASES = {
    "atomicity": 4,
    "error_handling": 5,
    "instance_creation": 4,
    "instance_locking": 11,
    "lock_expiration": 13,
    "multi_execution": 5,
    "queue_semantics": 8,
    "management": 7,
    "long_polling": 5,
    "poison_message": 9,
    "cancellation": 16,
    "deletion": 13,
    "prune": 4,
    "bulk_deletion": 4,
    "capability_filtering": 20,
    "sessions": 33,
    "custom_status": 7,
    "tag_filtering": 10,
    "kv_store": 35,
}


@cache
def functions_of(file: Path) -> list[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        node.name
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, functions)
    ]


def rows() -> dict[str, list[tuple[str, list[str], str]]]:
    found: dict[str, list[tuple[str, list[str], str]]] = {}
    group = ""
    for line in MAP.read_text("utf-8").splitlines():
        if line.startswith("## "):
            group = line[3:]
        elif line.startswith("| `"):
            case, tests, remark = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(group, []).append(
                (case.strip("`"), re.findall(r"`([^`]+)`", tests), remark)
            )
    return found


def test_every_case_is_listed_once() -> None:
    assert {group: len(cases) for group, cases in rows().items()} == CASES
    assert sum(CASES.values()) == 213
    names = [case for cases in rows().values() for case, _, _ in cases]
    assert len(set(names)) == 213


def test_every_case_has_a_test_or_a_reason() -> None:
    for cases in rows().values():
        for case, tests, remark in cases:
            assert tests or len(remark) > 20, case


def test_every_test_exists() -> None:
    for cases in rows().values():
        for case, tests, remark in cases:
            named = [*tests, *re.findall(r"`(tests/[^`]+)`", remark)]
            for test in named:
                if "::" in test:
                    file, name = test.split("::")
                    assert name in functions_of(ROOT / file), (case, test)
                else:
                    section, name = test.split(".")
                    assert name in functions_of(SECTIONS / f"{section}.py"), (case, test)


def test_no_test_of_the_suite_hides_another() -> None:
    names = [
        name
        for file in SECTIONS.glob("*.py")
        for name in functions_of(file)
        if name.startswith("test_")
    ]
    assert sorted(names) == sorted(set(names))
