"""Two and three owners of one store: whatever is handed to and fro, what was acknowledged holds.

`python tests/chaos/handover.py SEED 1` plays one of the seeds again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos import report
from fleet import Fleet
from handover import play

FEW = 20
FIRST = int(os.environ.get("PERDURE_CHAOS_FIRST", "1000"))
MANY = 1_000_000
PROGRAM = Path(__file__).with_name("handover.py")


@pytest.mark.parametrize("seed", range(FEW))
def test_what_was_acknowledged_holds_while_scopes_change_hands(seed: int) -> None:
    verdict = play(seed)
    assert not verdict.breaches, report(verdict)
    assert verdict.operations > 0


@pytest.mark.parametrize("seed", range(FEW))
def test_what_was_acknowledged_holds_while_nodes_of_a_cluster_are_parted_and_killed(
    seed: int,
) -> None:
    verdict = play(seed, kind=Fleet)
    assert not verdict.breaches, report(verdict)
    assert verdict.operations > 0


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("kind", ["--crowd", "--fleet"])
def test_what_was_acknowledged_holds_while_scopes_change_hands_often(
    long_seconds: float, kind: str
) -> None:
    command = [sys.executable, str(PROGRAM), str(FIRST), str(MANY), "--seconds", str(long_seconds)]
    if kind == "--fleet":
        command.append(kind)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3_000:]
