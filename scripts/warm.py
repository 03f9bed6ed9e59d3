"""Judging mutants in forks of one pytest session, which has imported and collected all it needs.

Starting pytest costs seconds, and most mutants are killed by the first test. So a session collects
the tests once. Each mutant is a fork of it, in which the functions that differ get their new code.
What a module does while it is imported has happened before the fork, so it takes a session of its
own to judge a mutant outside functions.
"""

from __future__ import annotations

import gc
import os
import signal
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import CodeType, FunctionType

import pytest


@dataclass(frozen=True)
class Work:
    """A mutant for a fork: the file that it breaks, its broken text, and its tests in order.

    Each test has its own time, because many mutants show in a test that never ends.
    """

    target: Path
    text: str
    tests: Mapping[str, float]
    limit_seconds: float


Outcome = tuple[str, str]
"""killed, survived or late (no end of its tests), and the test that failed."""


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """A compiled module's functions and what is inside them."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_of(constant)


class Functions:
    """The functions in memory of some files, by place."""

    def __init__(self, folder: Path) -> None:
        self._live: dict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)
        gc.unfreeze()  # the collection of the tests has hidden all from here
        for each in gc.get_objects():
            if isinstance(each, FunctionType) and each.__code__.co_filename.startswith(str(folder)):
                self._live[self._place(each.__code__)].append(each)
        gc.freeze()

    @staticmethod
    def _place(code: CodeType) -> tuple[str, str, int]:
        return code.co_filename, code.co_qualname, code.co_firstlineno

    def take(self, target: Path, text: str) -> None:
        """Give the functions of a file the code of this text."""
        for code in codes_of(compile(text, str(target), "exec", dont_inherit=True)):
            for function in self._live[self._place(code)]:
                function.__code__ = code


class Judge:
    """A plugin of pytest that judges mutants instead of running the tests once."""

    def __init__(
        self, folder: Path, works: Sequence[Work], judged: Callable[[int, Outcome, float], bool]
    ) -> None:
        """`judged` is called with the number of a work, and says whether to go on."""
        self._folder = folder
        self._works = works
        self._judged = judged
        self._failed = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Judge one after the other, unless tests could not be collected."""
        if session.testsfailed:
            return None
        items = {item.nodeid: item for item in session.items}
        functions = Functions(self._folder)
        for number, work in enumerate(self._works):
            started = time.monotonic()
            tests = {items[test]: seconds for test, seconds in work.tests.items()}
            text = work.target.read_text(encoding="utf-8")
            # Programs that tests start import the broken text.
            work.target.write_text(work.text, encoding="utf-8")
            try:
                outcome = self._in_fork(functions, work, tests)
            finally:
                work.target.write_text(text, encoding="utf-8")
            if not self._judged(number, outcome, time.monotonic() - started):
                break
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the first failure."""
        if report.failed and not self._failed:
            self._failed = report.nodeid

    def _in_fork(
        self, functions: Functions, work: Work, tests: Mapping[pytest.Item, float]
    ) -> Outcome:
        named = self._folder / "failed.txt"
        named.write_text("", encoding="utf-8")
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            code = 3
            try:
                functions.take(work.target, work.text)
                code = self._run(tests)
                named.write_text(self._failed, encoding="utf-8")
            except BaseException:  # a mutant may break anything: whatever ends it has noticed it
                named.write_text(traceback.format_exc(), encoding="utf-8")
            finally:
                os._exit(code)
        return outcome_of(child, work.limit_seconds), named.read_text(encoding="utf-8")

    def _run(self, tests: Mapping[pytest.Item, float]) -> int:
        """Run the tests up to the first failure: 1 if there is one."""
        for test, following in zip_longest(tests, list(tests)[1:]):
            test.add_marker(pytest.mark.timeout(tests[test]))
            test.ihook.pytest_runtest_protocol(item=test, nextitem=following)
            if self._failed:
                return 1
        return 0


def outcome_of(child: int, limit_seconds: float) -> str:
    """What a forked process that leads a group says of a mutant. It is killed when it is late."""
    until = time.monotonic() + limit_seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "late"
        time.sleep(0.02)
