"""Every example runs as written: it asserts what it shows, and prints it. New files are found by themselves."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import perdure.logs

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))

# Two programs that test_demo.py runs: the demo, and the shop that it kills.
ELSEWHERE = {"demo", "shop"}


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples import as they do for a user who is in their folder, and leave no module behind."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    perdure.logs.reset()
    for name in set(NAMES) & set(sys.modules) - before:
        del sys.modules[name]


def test_there_are_examples_and_those_that_are_run_elsewhere_exist() -> None:
    assert "hello" in NAMES
    assert set(NAMES) > ELSEWHERE
    assert not [path for path in EXAMPLES.rglob("*.py") if path.parent != EXAMPLES]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELSEWHERE])
@pytest.mark.usefixtures("importable")
async def test_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
    if inspect.iscoroutinefunction(module.main):
        await module.main()
    else:
        await asyncio.to_thread(module.main)
    assert capsys.readouterr().out.strip(), "an example prints what it shows"


@pytest.mark.parametrize("name", NAMES)
def test_an_example_can_be_run_as_a_program(name: str) -> None:
    assert '\nif __name__ == "__main__":\n' in (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_list_of_examples_has_it_in_its_own_words(name: str) -> None:
    docstring = (
        ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) or ""
    )
    shown = docstring.split("\n\n")[0].replace("\n", " ")
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert shown, "an example says what it shows"
    assert f"| [{name}.py]({name}.py) | {shown} |" in listed
