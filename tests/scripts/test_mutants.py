"""A mutant that a test notices is killed. Another one survives and is shown with its diff."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

ADULT = '''"""Ages."""


def adult(age):
    return age >= 18
'''

NOTICED = """
from perdure.kernel.age import adult

def test_the_border():
    assert adult(18) and not adult(17)
"""

UNNOTICED = """
from perdure.kernel.age import adult

def test_far_from_the_border():
    assert adult(40)
"""


@pytest.fixture(scope="module")
def mutants() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module("mutants")


def judged(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run the script over a clone that has one module and one test."""
    kernel = folder / "src" / "perdure" / "kernel"
    kernel.mkdir(parents=True)
    for package in (kernel.parent, kernel):
        (package / "__init__.py").touch()
    (kernel / "age.py").write_text(ADULT)
    (folder / "tests").mkdir()
    (folder / "tests" / "test_age.py").write_text(test)
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (folder / "scripts").mkdir()
    for name in ("mutants.py", "breaking.py", "reach.py", "warm.py"):
        (folder / "scripts" / name).write_text((ROOT / "scripts" / name).read_text())
    script = folder / "scripts" / "mutants.py"
    asked = [sys.executable, script, "--count", "0", "--tests", "tests"]
    # The installed plugin would import this clone's perdure before the copy's.
    environment = {"PATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(asked, capture_output=True, text=True, check=False, env=environment)


def test_a_mutant_that_a_test_notices_is_killed(tmp_path: Path) -> None:
    done = judged(tmp_path, NOTICED)
    assert "2 of 2 mutants ran, seed 0: 0 survived (0.0 %)" in done.stdout, (
        done.stdout + done.stderr
    )
    assert done.returncode == 0


def test_a_mutant_that_no_test_notices_is_shown_with_its_diff(tmp_path: Path) -> None:
    done = judged(tmp_path, UNNOTICED)
    assert "src/perdure/kernel/age.py:5: survived" in done.stdout, done.stdout + done.stderr
    assert "-    return age >= 18\n+    return ((age) > (18))\n" in done.stdout
    assert "2 survived (100.0 %)" in done.stdout
    assert done.returncode == 1


def test_tests_that_fail_without_a_mutant_are_reported(tmp_path: Path) -> None:
    done = judged(tmp_path, "def test_broken():\n    assert False\n")
    assert "the tests fail without a mutant" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 2


def test_a_sample_is_the_same_for_the_same_seed(mutants: ModuleType) -> None:
    files = [Path("src/perdure/kernel/data/retry.py")]
    first = mutants.sampled(files, 5, 1)
    assert len(first) == 5
    assert first == mutants.sampled(files, 5, 1)
    assert first != mutants.sampled(files, 5, 2)


def test_every_mutant_is_python(mutants: ModuleType) -> None:
    path = Path("src/perdure/kernel/execution/match.py")
    text = (ROOT / path).read_text()
    found = mutants.mutants_of(path, text)
    assert found
    for mutant in found:
        compile(mutant.applied(text), str(path), "exec")
        assert mutant.applied(text) != text


def test_a_place_is_found_behind_letters_of_several_bytes(mutants: ModuleType) -> None:
    text = 'x = "für" if 1 < 2 else "→"\n'
    changed = {mutant.applied(text) for mutant in mutants.mutants_of(Path("x.py"), text)}
    assert 'x = "für" if ((1) <= (2)) else "→"\n' in changed
