"""A clone works wherever it lies: in a folder called `perdure`, as `git clone` makes it, under a path with spaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTED = (  # by the place of a file, through a socket beside the store, in a program of its own
    "tests/interceptors/test_no_wrapping.py",
    "tests/kernel_loop/test_refusals.py",
    "tests/instances/test_turns_that_never_end.py",
)


def test_a_clone_named_perdure_under_a_long_path_with_spaces(tmp_path: Path) -> None:
    clone = tmp_path / "a folder with spaces" / ("deep-" * 20) / "perdure"
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", clone)
    (clone / ".venv").symlink_to(
        sys.prefix
    )  # so that installed packages, too, lie under a folder `perdure`
    python = clone / ".venv" / "bin" / Path(sys.executable).name
    done = subprocess.run(
        [python, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={clone / 'tmp'}", *TESTED],
        cwd=clone,
        env=os.environ | {"PYTHONPATH": str(clone / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
