"""The costs of costs.py, in an interpreter of their own.

They count instructions with a trace function. In Python 3.11 that hangs in a process in which code was
interrupted between two instructions before, as the tests of the watchdog do.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COSTS = Path(__file__).with_name("costs.py")
LIMIT_S = 110


def test_nothing_gets_dearer_the_more_instances_there_are() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        str(COSTS),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=LIMIT_S, cwd=COSTS.parents[2]
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-1_000:]
    assert "passed" in done.stdout or "100%" in done.stdout
