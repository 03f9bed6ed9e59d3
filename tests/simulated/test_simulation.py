"""Random work on nodes of which any may fail: what was acknowledged holds, once and in order.

`python -m perdure.simulation --first SEED --seeds 1` plays one of the seeds again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import planted

from perdure.simulation.plan import plan
from perdure.simulation.play import play, shrink

FIRST = int(os.environ.get("PERDURE_SIMULATE_FIRST", "1000"))
SEEDS = int(os.environ.get("PERDURE_SIMULATE", "0"))
MANY = 1_000_000
PARTS = 6
PART = 20


@pytest.mark.parametrize("part", range(PARTS))
def test_what_was_acknowledged_holds(part: int) -> None:
    for seed in range(part * PART, (part + 1) * PART):
        verdict = play(seed)
        assert not verdict.breaches, verdict.describe()
        assert verdict.operations > 0


def run(*options: str, hash_seed: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perdure.simulation", *options]
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_seed_is_the_same_run_in_each_process() -> None:
    options = ["--first", "2", "--seeds", "6", "--digests"]
    first = run(*options, hash_seed=1)
    assert first.stdout.count("seed ") == 6, first.stdout + first.stderr[-3_000:]
    assert run(*options, hash_seed=2).stdout == first.stdout


def test_parts_that_are_left_out_leave_the_others_as_they_were() -> None:
    whole = plan(2)
    name = whole.names[0]
    rest = whole.without([name])
    assert rest.names == whole.names[1:]
    kept = whole.names[1]
    assert rest.stream(kept).random() == whole.stream(kept).random()


def test_a_planted_fault_is_found_and_made_small() -> None:
    with planted.same_epoch():
        verdict = play(1)
        assert verdict.by_kind["old epoch"]
        smallest = shrink(verdict)
    assert smallest.by_kind["old epoch"]
    assert len(smallest.plan.names) < len(verdict.plan.names)
    assert "old epoch: " in smallest.describe()


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("what", sorted(planted.FAULTS.keys() - planted.RARE))
def test_each_planted_fault_is_found(what: str) -> None:
    seed, breach = planted.find(planted.FAULTS[what], planted.MOST)
    assert seed, f"no seed up to {planted.MOST} has found it"
    assert breach


@pytest.mark.long
@pytest.mark.timeout(3_600 + SEEDS)
def test_what_was_acknowledged_holds_for_long(long_seconds: float) -> None:
    options = ["--first", str(FIRST), "--processes", "2", "--shrink"]
    if SEEDS:
        options += ["--seeds", str(SEEDS)]
    else:
        options += ["--seeds", str(MANY), "--seconds", str(long_seconds)]
    done = run(*options)
    assert done.returncode == 0, done.stdout + done.stderr[-3_000:]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_long_backlog(long_seconds: float) -> None:
    options = ["--first", str(FIRST), "--seeds", str(MANY), "--seconds", str(long_seconds)]
    done = run(*options, "--burst", "10000")
    assert done.returncode == 0, done.stdout + done.stderr[-3_000:]
