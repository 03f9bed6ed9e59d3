"""Whatever goes wrong between a node and its store: what was acknowledged holds, once and in order.

The long variants play seeds for PERDURE_LONG_SECONDS each. `PERDURE_CHAOS=100000` plays that many
seeds instead. `PERDURE_CHAOS_FIRST` says which seed is the first.
`python tests/chaos/chaos.py SEED 1 --burst 10000` plays one of them again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chaos import play, report

FEW = 15
FIRST = int(os.environ.get("PERDURE_CHAOS_FIRST", "1000"))
COUNT = int(os.environ.get("PERDURE_CHAOS", "0"))
BATCH = 100
PROGRAM = Path(__file__).with_name("chaos.py")


@pytest.mark.parametrize("seed", range(FEW))
def test_what_was_acknowledged_holds_through_chaos(seed: int) -> None:
    verdict = play(seed, burst=700)
    assert not verdict.breaches, report(verdict)
    assert verdict.operations > 0


def play_batch(first: int, count: int, *options: str) -> str | None:
    """Play seeds in a process of their own: its output if some failed."""
    command = [sys.executable, str(PROGRAM), str(first), str(count), "--burst", "10000", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr[-3000:] if done.returncode else None


def play_many(long_seconds: float, *options: str) -> None:
    if not COUNT:
        text = play_batch(FIRST, BATCH, "--seconds", str(long_seconds), *options)
        assert text is None, text
        return
    end = FIRST + COUNT
    with ThreadPoolExecutor(2) as processes:
        batches = [
            processes.submit(play_batch, first, min(BATCH, end - first), *options)
            for first in range(FIRST, end, BATCH)
        ]
    failed = [text for batch in batches if (text := batch.result())]
    assert not failed, "\n".join(failed)


@pytest.mark.long
@pytest.mark.timeout(600 + 30 * COUNT)
def test_what_was_acknowledged_holds_through_much_chaos(long_seconds: float) -> None:
    play_many(long_seconds)


@pytest.mark.long
@pytest.mark.timeout(600 + 30 * COUNT)
def test_what_was_acknowledged_holds_on_a_file(long_seconds: float) -> None:
    play_many(long_seconds, "--sqlite")
