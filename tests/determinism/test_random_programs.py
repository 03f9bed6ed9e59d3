"""The proof of determinism: random programs, told the same again in other processes, byte for byte.

Each supported Python at hand records and checks for itself: 3.12 changed `wait_for` and 3.13 `TaskGroup`, so journals
may differ between versions. `PERDURE_FUZZ=100000` runs that many programs, from seed
`PERDURE_FUZZ_FIRST` on, so that a long proof can be made in parts; `PERDURE_PYTHONS` names more interpreters,
separated as in PATH.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from interpreters import RUNNING, environment, interpreters

PROGRAMS = int(os.environ.get("PERDURE_FUZZ", "800"))
FIRST = int(os.environ.get("PERDURE_FUZZ_FIRST", "0"))
PROGRAMS_ELSEWHERE = max(PROGRAMS // 5, 1)
BATCH = 500
BATCH_OF_LONG = 200
BATCH_PROGRAM = Path(__file__).with_name("batch.py")
LIMIT_S = 120 + PROGRAMS // 10


@dataclass
class Batch:
    """What two processes found."""

    version: str
    programs: int
    events: int
    wrong: dict[str, str]


def run(
    python: str, hash_seed: int, mode: str, first: int, count: int, file: Path
) -> tuple[int, int, dict[str, str]]:
    command = [python, str(BATCH_PROGRAM), mode, str(first), str(count), str(file)]
    done = subprocess.run(
        command, env=environment(hash_seed), capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, f"{mode} of {first} on {python}: {done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    return found["programs"], found["events"], found["wrong"]


def prove(version: str, python: str, first: int, count: int, folder: Path) -> Batch:
    file = folder / f"{version}-{first}"
    _, _, wrong = run(python, 1 + first % 7, "record", first, count, file)
    programs, events, wrong_elsewhere = run(python, 1_000 + first, "check", first, count, file)
    file.unlink()
    return Batch(version, programs, events, wrong | wrong_elsewhere)


@pytest.mark.timeout(LIMIT_S)
def test_programs_run_the_same_everywhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    usable, unusable = interpreters()
    jobs = [
        (version, python, FIRST + first, min(BATCH, total - first))
        for version, python in usable.items()
        for total in (PROGRAMS if version == RUNNING else PROGRAMS_ELSEWHERE,)
        for first in range(0, total, BATCH)
    ]
    with ThreadPoolExecutor(2) as processes:
        batches = list(processes.map(lambda job: prove(*job, tmp_path), jobs))
    lines = [f"not covered, because the package cannot run there: {line}\n" for line in unusable]
    for version in usable:
        own = [b for b in batches if b.version == version]
        lines.append(
            f"Python {version}: {sum(b.programs for b in own)} programs, {sum(b.events for b in own)} events\n"
        )
    with capfd.disabled():
        sys.stderr.writelines(["\n", *lines])
    wrong = {
        f"{b.version} seed {seed}": problem for b in batches for seed, problem in b.wrong.items()
    }
    assert not wrong, f"{len(wrong)} programs differ: {dict(list(wrong.items())[:3])}"
    assert sum(b.programs for b in batches if b.version == RUNNING) == PROGRAMS
    assert sum(b.events for b in batches) > 20 * sum(b.programs for b in batches)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_further_programs_run_the_same(tmp_path: Path, long_seconds: float) -> None:
    """As many as there is time for, from where the other test ends."""
    ends_s = time.monotonic() + long_seconds
    first, wrong = FIRST + PROGRAMS, dict[str, str]()
    while not wrong and time.monotonic() < ends_s:
        wrong = prove(RUNNING, sys.executable, first, BATCH_OF_LONG, tmp_path).wrong
        first += BATCH_OF_LONG
    assert not wrong, f"{len(wrong)} programs differ: {dict(list(wrong.items())[:3])}"
