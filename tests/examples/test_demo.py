"""`make demo`: the program ends well and leaves nothing behind, and its own check finds what it is there to find."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def demo(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("demo")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder of its own, where temporary folders usually are."""
    with tempfile.TemporaryDirectory(prefix="perdure-test-") as name:
        yield Path(name)


def test_the_demo_survives_its_kill_and_cleans_up(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9" in done.stdout
    assert "cut off by the kill" in done.stdout
    assert "Every step happened once." in done.stdout
    # An attempt that fails is said, whether or not a program has set up its logs.
    assert done.stderr.startswith("attempt 1 of activity 'charge' of 'order-1003' failed: Conn")
    assert done.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["one", "two"]])
def test_the_shop_says_how_it_is_used(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["shop.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "shop.py"), run_name="__main__")
    assert str(ended.value.code).startswith("usage: python shop.py FOLDER")


def test_its_check_accepts_a_right_ledger_and_finds_each_wrong_one(demo: ModuleType) -> None:
    began = demo.Step(1.0, 100, "order-1", "charge", "began", "key", 1, "")
    done = replace(began, at=2.0, what="done")
    again = replace(began, at=3.0, pid=200)
    assert demo.problems([began, again, replace(done, pid=200)], set(), 100) == []
    (twice,) = demo.problems([began, done, replace(done, at=4.0, key="other")], set(), 100)
    assert twice == "order-1: charge happened 2 times"
    (repeated,) = demo.problems([began, done, again], {("order-1", "charge")}, 100)
    assert "ran again" in repeated
    (lost,) = demo.problems([began, again], set(), 100)
    assert lost == "order-1: charge was begun and never done"
