"""The Pythons at hand: the running one, those on the PATH, and those that PERDURE_PYTHONS names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
MINORS = range(11, 16)
RUNNING = f"3.{sys.version_info.minor}"

_PROBE = "import sys, anyio, perdure; print('3.%d' % sys.version_info.minor)"


def environment(hash_seed: int) -> dict[str, str]:
    """The environment of a process of the proof."""
    return os.environ | {"PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": str(hash_seed)}


def _probe(python: str) -> tuple[str | None, str]:
    """The version of an interpreter that can run the package, or None and why it cannot."""
    try:
        done = subprocess.run(
            [python, "-c", _PROBE], env=environment(0), capture_output=True, text=True, timeout=60
        )
    except OSError as error:
        return None, str(error)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return None, _telling(lines) if lines else f"exit status {done.returncode}"
    return done.stdout.strip(), ""


def _telling(lines: list[str]) -> str:
    """A traceback ends with what happened; other programs begin with it."""
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


@cache
def interpreters() -> tuple[dict[str, str], list[str]]:
    """Interpreters by version, and a line for each candidate that cannot be used."""
    usable, unusable = {RUNNING: sys.executable}, []
    named = [p for p in os.environ.get("PERDURE_PYTHONS", "").split(os.pathsep) if p]
    found = [shutil.which(f"python3.{minor}") for minor in MINORS if f"3.{minor}" != RUNNING]
    for python in [*named, *(f for f in found if f is not None)]:
        version, reason = _probe(python)
        if version is None:
            unusable.append(f"{python}: {reason}")
        else:
            usable.setdefault(version, python)
    return usable, unusable
