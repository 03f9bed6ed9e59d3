"""The simulation as a program: `python -m perdure.simulation --first 1 --seeds 1000`.

Each seed that fails is printed with what it chose. It plays the same again, alone as well.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from perdure.simulation.play import BURST, play, shrink

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from perdure.simulation.play import Verdict

_CHUNK = 8
"""Seeds that a process plays before it is given others."""


def main() -> int:
    """Play seeds. Returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m perdure.simulation", description=__doc__)
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds (100)")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="begin no seed after so long"
    )
    parser.add_argument("--processes", type=int, default=1, help="how many play at once (1)")
    parser.add_argument("--burst", type=int, default=BURST, help=f"the longest backlog ({BURST})")
    parser.add_argument("--without", default="", help="leave these parts out: kill-0,sender-2")
    parser.add_argument("--shrink", action="store_true", help="look for the smallest case")
    parser.add_argument("--digests", action="store_true", help="print the digest of each seed")
    given = parser.parse_args()
    without = [name for name in given.without.split(",") if name]
    seeds = range(given.first, given.first + given.seeds)
    total: Counter[str] = Counter()
    played = failing = 0
    until_s = time.monotonic() + given.seconds
    for verdict in _verdicts(seeds, given.processes, given.burst, without):
        played += 1
        total.update(verdict.by_kind)
        total["operations"] += verdict.operations
        total["mishaps"] += verdict.mishaps
        if given.digests:
            _say(f"seed {verdict.plan.seed}: {verdict.digest}")
        if verdict.breaches:
            failing += 1
            _say(verdict.describe())
            if given.shrink:
                _say(f"the smallest case:\n{shrink(verdict, burst=given.burst).describe()}")
        if time.monotonic() > until_s:
            break
    _say(f"{failing} of {played} seeds failed: {json.dumps(dict(total))}")
    return int(failing > 0)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _verdicts(
    seeds: range, processes: int, burst: int, without: Collection[str]
) -> Iterator[Verdict]:
    one = partial(_quietly, burst=burst, without=without)
    if processes == 1:
        yield from map(one, seeds)
        return
    # Verdicts come in the order of the seeds, so that the output is the same in each run.
    with ProcessPoolExecutor(processes) as pool:
        try:
            yield from pool.map(one, seeds, chunksize=_CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def _quietly(seed: int, *, burst: int, without: Collection[str]) -> Verdict:
    """Play a seed without the log records of each mishap."""
    logging.disable()
    return play(seed, burst=burst, without=without)


if __name__ == "__main__":
    sys.exit(main())
