"""Which tests call which functions, so that a mutant meets the tests that can notice it first.

`Recorder` watches one run of the tests. `Reach` is what it has seen.
"""

from __future__ import annotations

import ast
import builtins
import json
import sys
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

MARK = "perdure_function_is_called"
"""The name that marked functions call."""

UNRECORDED = f"import builtins\nbuiltins.{MARK} = str\n"
"""The module that lets the marks of a process do nothing."""

STARTS = frozenset({"subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec"})
"""Events of a process that starts another, whose calls the recorder does not see."""


AnyFunction = TypeVar("AnyFunction", ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Reach:
    """The seconds that each test took, the tests that call each function, those of programs."""

    seconds: dict[str, float]
    tests: dict[str, list[str]]
    programs: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Reach:
        """Read what a recorder has written."""
        seen = json.loads(path.read_text(encoding="utf-8"))
        names = list(seen["seconds"])
        tests = {
            function: [names[number] for number in numbers]
            for function, numbers in seen["tests"].items()
        }
        return cls(seen["seconds"], tests, frozenset(seen["programs"]))

    def tests_for(self, function: str | None) -> list[str]:
        """The tests for a mutant in this function (None: outside functions), quick ones first.

        Behind those that call the function come the others of their files, because a fixture can
        have made the call for several of them, and the tests that start programs.
        """
        calling = list(self.seconds) if function is None else self.tests.get(function, [])
        files = {file_of(test) for test in calling}
        near = [test for test in self.seconds if file_of(test) in files or test in self.programs]
        first = set(calling)
        return sorted(near, key=lambda test: (test not in first, self.seconds[test]))


def file_of(test: str) -> str:
    """The file of a test."""
    return test.partition("::")[0]


class Marker(ast.NodeTransformer):
    """Has each function of a file say that it was called."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Begin a function with a mark."""
        return self._marked(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:
        """The same."""
        return self._marked(node)

    def _marked(self, node: AnyFunction) -> AnyFunction:
        name = f"{self._file}:{node.lineno}"
        self.generic_visit(node)
        node.body[1 if ast.get_docstring(node) else 0 : 0] = ast.parse(f"{MARK}({name!r})").body
        return node


def marked(file: Path, text: str) -> str:
    """The text of a file in which each function says that it was called."""
    return ast.unparse(Marker(file).visit(ast.parse(text)))


class Recorder:
    """A plugin of pytest that notes which functions of marked files each test calls.

    A trace function would do without marks. It makes a turn so slow that tests of limits fail.
    """

    def __init__(self, written: Path) -> None:
        self._written = written
        self._seconds: dict[str, float] = {}
        self._tests: dict[str, list[int]] = defaultdict(list)
        self._programs: list[str] = []
        self._called: set[str] = set()
        self._starts_program = False
        sys.addaudithook(self._on_event)
        setattr(builtins, MARK, self._called.add)

    def _on_event(self, event: str, _: object) -> None:
        if event in STARTS:
            self._starts_program = True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Watch one test with its fixtures."""
        self._called.clear()
        self._starts_program = False
        started = time.monotonic()
        try:
            return (yield)
        finally:
            self._note(item.nodeid, time.monotonic() - started)

    def _note(self, test: str, seconds: float) -> None:
        self._seconds[test] = seconds
        if self._starts_program:
            self._programs.append(test)
        for function in self._called:
            self._tests[function].append(len(self._seconds) - 1)

    def pytest_sessionfinish(self) -> None:
        """Write it all down for `Reach.read`."""
        seen = {"seconds": self._seconds, "tests": self._tests, "programs": self._programs}
        self._written.write_text(json.dumps(seen), encoding="utf-8")


class Chosen:
    """A plugin of pytest that runs the given tests alone, in their order."""

    def __init__(self, tests: Iterable[str]) -> None:
        self._rank = {test: rank for rank, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the other tests out."""
        items[:] = [item for item in items if item.nodeid in self._rank]
        items.sort(key=lambda item: self._rank[item.nodeid])
