"""The bounds of scripts/shape.py bite: each one fails for a tree that crosses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SHAPE = ROOT / "scripts" / "shape.py"

# A bound for each figure that the clean tree below keeps.
BOUNDS = {
    "foreign-writes-kernel": 0,
    "foreign-writes-node": 0,
    "foreign-writes-store": 0,
    "expression-decisions": 0,
    "comments": 10,
    "semicolons": 0,
    "wide-lines": 0,
    "circles-run-time": 0,
    "circles-types": 0,
}

CLEAN = '"""A module of plain words."""\n\n# Why it is so.\nif True:\n    x = 1\n'

FOREIGN = CLEAN + "\ndef f(other):\n    other.x = 1\n"
TYPES = (
    "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from perdure.kernel import run\n"
)

# The figure that is crossed, and the files that cross it.
CROSSED = {
    "foreign-writes-kernel": {"kernel/run.py": FOREIGN},
    "foreign-writes-node": {"node/turns.py": FOREIGN},
    "foreign-writes-store": {"store/rows.py": FOREIGN},
    "expression-decisions": {"app.py": CLEAN + "y = 1 if x else 2\n"},
    "comments": {"app.py": CLEAN + "y = 1\n" * 100},
    "semicolons": {"app.py": '"""One thought is here; another is there."""\n# Why.\n'},
    "wide-lines": {"app.py": CLEAN + f"y = '{'-' * 100}'\n"},
    "circles-run-time": {
        "kernel/run.py": CLEAN + "from perdure.kernel import unit\n",
        "kernel/unit.py": CLEAN + "from . import run\n",
    },
    "circles-types": {
        "kernel/run.py": CLEAN + TYPES.replace("kernel import run", "node import turns"),
        "node/turns.py": CLEAN + TYPES,
    },
}

TITLES = {
    "foreign-writes-kernel": "writes to others / 1,000 lines, kernel",
    "foreign-writes-node": "writes to others / 1,000 lines, node",
    "foreign-writes-store": "writes to others / 1,000 lines, store",
    "expression-decisions": "decisions in expressions : statements",
    "comments": "comments / 100 lines",
    "semicolons": "semicolons / 1,000 docstring words",
    "wide-lines": "lines over 100 columns",
    "circles-run-time": "modules in import circles, run time",
    "circles-types": "modules in circles of packages, types",
}


def tree(folder: Path, files: dict[str, str]) -> Path:
    """A clone with these files in its package, and the bounds."""
    for name, text in {"__init__.py": CLEAN, **files}.items():
        path = folder / "src" / "perdure" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    bounds = "\n".join(f"{key} = {value}" for key, value in BOUNDS.items())
    (folder / "pyproject.toml").write_text(f"[tool.perdure.shape]\n{bounds}\n")
    return folder


def shape(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SHAPE, folder], capture_output=True, text=True, check=False
    )


def worse(printed: str) -> list[str]:
    """The titles of the figures that crossed their bounds."""
    return [line[:42].strip() for line in printed.splitlines() if line.endswith("  worse")]


def test_a_tree_within_its_bounds_passes(tmp_path: Path) -> None:
    done = shape(tree(tmp_path, {"kernel/run.py": CLEAN, "node/turns.py": CLEAN}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert worse(done.stdout) == []
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("key", BOUNDS)
def test_each_bound_bites(key: str, tmp_path: Path) -> None:
    done = shape(tree(tmp_path, CROSSED[key]))
    assert done.returncode == 1, done.stdout + done.stderr
    assert worse(done.stdout) == [TITLES[key]]


def test_an_object_may_write_its_own_attributes(tmp_path: Path) -> None:
    own = (
        CLEAN
        + "\nclass Run:\n    def end(self):\n        self.done = True\n        self.count += 1\n"
    )
    assert shape(tree(tmp_path, {"kernel/run.py": own})).returncode == 0


def test_a_circle_within_a_package_may_be_for_types(tmp_path: Path) -> None:
    files = {
        "kernel/run.py": CLEAN + TYPES.replace("import run", "import unit"),
        "kernel/unit.py": CLEAN + "from perdure.kernel import run\n",
    }
    assert shape(tree(tmp_path, files)).returncode == 0


def test_a_bound_that_is_missing_fails(tmp_path: Path) -> None:
    clone = tree(tmp_path, {})
    project = clone / "pyproject.toml"
    project.write_text(project.read_text().replace("wide-lines = 0\n", ""))
    done = shape(clone)
    assert done.returncode != 0
    assert "wide-lines" in done.stderr
