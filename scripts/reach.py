"""Which tests call which functions, so that a mutant meets the tests that can notice it first.

`Recorder` watches one run of the tests. `Reach` is what it has seen, and orders tests in waves.
"""

from __future__ import annotations

import ast
import builtins
import json
import sys
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

WAVES = (4, 24)
"""How many files of tests the first wave has, and the first two. The last wave has the others."""

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
    programs: list[str]

    @classmethod
    def read(cls, path: Path) -> Reach:
        """Read what a recorder has written."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def waves(self, function: str | None) -> list[list[str]]:
        """The tests for a mutant in this function (None: in any), those of quick files first.

        The last wave also has the other tests of these files, because a fixture can have made the
        calls for several of them, and the tests that start programs.
        """
        reaching = list(self.seconds) if function is None else self.tests.get(function, [])
        mean = self._mean_seconds(reaching)
        files = sorted(mean, key=lambda file: (mean[file], file))
        parts = (files[: WAVES[0]], files[WAVES[0] : WAVES[1]])
        waves = [[test for test in reaching if file_of(test) in part] for part in parts]
        before = {test for wave in waves for test in wave}
        last = [test for test in self.seconds if file_of(test) in mean or test in self.programs]
        waves.append([test for test in last if test not in before])
        return [sorted(wave, key=lambda test: self.seconds[test]) for wave in waves if wave]

    def _mean_seconds(self, tests: Sequence[str]) -> dict[str, float]:
        taken: dict[str, list[float]] = defaultdict(list)
        for test in tests:
            taken[file_of(test)].append(self.seconds[test])
        return {file: sum(each) / len(each) for file, each in taken.items()}


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
        self._tests: dict[str, list[str]] = defaultdict(list)
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
            self._tests[function].append(test)

    def pytest_sessionfinish(self) -> None:
        """Write it all down for `Reach.read`."""
        seen = {"seconds": self._seconds, "tests": self._tests, "programs": self._programs}
        self._written.write_text(json.dumps(seen), encoding="utf-8")


class Chosen:
    """A plugin of pytest that runs the given tests alone, in their order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._rank = {test: rank for rank, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the other tests out."""
        items[:] = [item for item in items if item.nodeid in self._rank]
        items.sort(key=lambda item: self._rank[item.nodeid])
