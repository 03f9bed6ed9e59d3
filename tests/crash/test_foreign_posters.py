"""Others post while the node is killed: their letters come once and in order, whichever life takes them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from perdure.testing.crash import LifeServer, crash_in_processes

PROGRAM = Path(__file__).with_name("foreign.py")
TARGET = f"{PROGRAM}:foreign_scenario"
POSTERS = ("ann", "bob")
CRASHES = int(os.environ.get("PERDURE_CRASHES_BESIDE", "0"))
"""Real kills of the long variant, instead of those of PERDURE_LONG_SECONDS."""

Beside = Callable[[str], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def posters() -> Iterator[Beside]:
    """Tells two processes where to post, and waits until they have."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in POSTERS
    ]

    @contextmanager
    def beside(url: str) -> Iterator[None]:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{url}\n")
            process.stdin.flush()
        yield
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"

    yield beside
    for process in processes:
        process.communicate()


def test_kills_beside_foreign_posters_change_nothing(
    servers: Sequence[LifeServer], posters: Beside
) -> None:
    report = crash_in_processes(TARGET, every=8, first=4, servers=servers, beside=posters)
    assert report.crashes >= 2


@pytest.mark.long
@pytest.mark.timeout(600 + 2 * CRASHES)
def test_many_kills_beside_foreign_posters_change_nothing(
    servers: Sequence[LifeServer], posters: Beside, long_seconds: float
) -> None:
    crashes = 0
    until_s = time.monotonic() + long_seconds
    while crashes < CRASHES if CRASHES else time.monotonic() < until_s:
        crashes += crash_in_processes(TARGET, servers=servers, beside=posters).crashes
    assert crashes >= 5
