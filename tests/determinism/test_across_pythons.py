"""A journal moves between Pythons: each takes over what another ran, or refuses it clearly and changes nothing.

asyncio differs between some Pythons (3.12 changed `wait_for`, 3.13 `TaskGroup`), so a refusal is allowed. It names
a Python, and the Python that ran the program last goes on with it afterwards. The Pythons are those of the proof of
determinism: `PERDURE_PYTHONS` names more of them, `PERDURE_FUZZ` says how many programs there are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from crossing import Handed, Script
from interpreters import MINORS, RUNNING, environment, interpreters
from test_random_programs import BATCH, FIRST, LIMIT_S, PROGRAMS, run

PROGRAMS_A_WAY = max(PROGRAMS // 20, 1)
CROSSING_PROGRAM = Path(__file__).with_name("crossing.py")


@dataclass
class Crossed:
    """What a Python found when it took over what another had run."""

    way: str
    went_on: int
    refused: int
    wrong: dict[str, str]


def cross(way: list[str], first: int, count: int, folder: Path) -> list[Crossed]:
    """Run programs on the first Python of a way, and hand them on along it."""
    usable, _ = interpreters()
    file = folder / f"{'-'.join(way)}-{first}"
    run(usable[way[0]], 3, "record", first, count, file)
    scripts = msgspec.msgpack.decode(file.read_bytes(), type=list[Script])
    file.write_bytes(msgspec.msgpack.encode([Handed(script, 1, way[0]) for script in scripts]))
    crossed = []
    for number, (before, version) in enumerate(pairwise(way)):
        command = [usable[version], str(CROSSING_PROGRAM), str(first), str(file), str(file)]
        done = subprocess.run(
            command, env=environment(number), capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.returncode == 0, f"from {before} to {version}: {done.stderr[-3000:]}"
        crossed.append(Crossed(f"from {before} to {version}", **json.loads(done.stdout)))
    file.unlink()
    return crossed


@pytest.mark.timeout(LIMIT_S * len(MINORS))
def test_each_python_takes_over_or_refuses(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    usable, _ = interpreters()
    others = [version for version in usable if version != RUNNING]
    if not others:
        pytest.skip("no second Python is at hand: PERDURE_PYTHONS can name some")
    jobs = [
        (way, FIRST + first, min(BATCH, PROGRAMS_A_WAY - first))
        for other in others
        for way in ([RUNNING, other, RUNNING, other], [other, RUNNING, other, RUNNING])
        for first in range(0, PROGRAMS_A_WAY, BATCH)
    ]
    with ThreadPoolExecutor(2) as processes:
        crossed = [
            c for found in processes.map(lambda job: cross(*job, tmp_path), jobs) for c in found
        ]
    with capfd.disabled():
        for way in dict.fromkeys(c.way for c in crossed):
            own = [c for c in crossed if c.way == way]
            sys.stderr.write(
                f"\n{way}: {sum(c.went_on for c in own)} went on, {sum(c.refused for c in own)} refused"
            )
        sys.stderr.write("\n")
    wrong = {f"{c.way} seed {seed}": problem for c in crossed for seed, problem in c.wrong.items()}
    assert not wrong, f"{len(wrong)} programs were wrong: {dict(list(wrong.items())[:3])}"
    assert sum(c.went_on for c in crossed) > 10 * sum(c.refused for c in crossed)
