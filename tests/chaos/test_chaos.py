"""Whatever goes wrong between a node and its store: what was acknowledged holds, once and in order.

`PERDURE_CHAOS=100000` plays that many seeds in the long variant, `PERDURE_CHAOS_FIRST` says which
one is the first; `python tests/chaos/chaos.py SEED 1` plays one again.
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
MANY = int(os.environ.get("PERDURE_CHAOS", "1000"))
BATCH = 100
PROGRAM = Path(__file__).with_name("chaos.py")


@pytest.mark.parametrize("seed", range(FEW))
def test_what_was_acknowledged_holds_through_chaos(seed: int) -> None:
    verdict = play(seed, burst=700)
    assert not verdict.breaches, report(verdict)
    assert verdict.operations > 0


def play_batch(first: int, *options: str) -> str | None:
    count = min(BATCH, FIRST + MANY - first)
    command = [sys.executable, str(PROGRAM), str(first), str(count), "--burst", "10000", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr[-3000:] if done.returncode else None


@pytest.mark.long
@pytest.mark.timeout(60 + 5 * MANY)
def test_what_was_acknowledged_holds_through_much_chaos() -> None:
    with ThreadPoolExecutor(2) as processes:
        failed = [text for text in processes.map(play_batch, range(FIRST, FIRST + MANY, BATCH)) if text]
    assert not failed, "\n".join(failed)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_was_acknowledged_holds_on_a_file() -> None:
    text = play_batch(FIRST, "--sqlite")
    assert text is None, text
