"""Another Python takes over what one Python ran: `python crossing.py FIRST FROM TO`.

`FROM` has the programs that were handed over, from seed FIRST on. Each is loaded from a random point, as a node loads
it after an upgrade. Then it either goes on, to its end and through evictions, or is held by a mismatch that names a
Python and changes nothing in the journal. A Python that ran a program last must go on with it. `TO` gets what the next
Python can take over. One line of JSON says how many programs went on, how many were refused, and what was wrong.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import continuations  # noqa: F401  # it registers its kinds of programs
import msgspec
from drive import Drive, Recorded, play
from interpreters import RUNNING
from random_programs import app

from perdure.errors import Failure
from perdure.kernel.data.commit import CLOSED, decode_commit

Script = list[Recorded]


class Handed(msgspec.Struct):
    """A program that may be taken over after any turn from `since` on, and the Python that ran it last."""

    script: Script
    since: int
    python: str


class Crossing(Drive):
    """A unit whose turns so far were made elsewhere. `held` are the failures that its loads ended with."""

    def __init__(self) -> None:
        super().__init__(app)
        self.held: list[Failure] = []

    def take_over(self, script: Script) -> None:
        for recorded in script:
            if recorded.commit:
                self.shelf.apply(decode_commit(recorded.commit))
            self.script.append(recorded)
            self.now = recorded.now
        self.load()

    def load(self) -> None:
        super().load()
        if self.unit.held is not None:
            self.held.append(self.unit.held)

    def stored(self) -> list[bytes]:
        return [chunk.events for chunk in self.shelf.journal()]


def open_turns(handed: Handed) -> list[int]:
    """The turns after which the program can be taken over: it is still open then."""
    turns = enumerate(handed.script, 1)
    return [
        turn
        for turn, recorded in turns
        if turn >= handed.since
        and recorded.commit
        and decode_commit(recorded.commit).row.status not in CLOSED
    ]


def refusal(drive: Crossing, last: str) -> str | None:
    """What is wrong about a refusal, if anything."""
    failure, stored = drive.held[0], drive.stored()
    if last == RUNNING:
        return f"refused by the Python that ran it last: {failure.message}"
    remedies = (
        "the execution began on Python 3.",
        f"If another Python than {RUNNING} has run it since it began",
    )
    if failure.type != "NondeterminismError" or not any(
        remedy in failure.message for remedy in remedies
    ):
        return f"held with {failure}"
    drive.turn()
    if drive.stored() != stored:
        return "a refused program changed its journal"
    if (drive.row.status, drive.row.reason) != ("suspended", "nondeterminism"):
        return f"a refused program is {drive.row.status} ({drive.row.reason})"
    return None


def main(first: int, source: Path, target: Path) -> None:
    went_on, refused = 0, 0
    wrong: dict[int, str] = {}
    given = msgspec.msgpack.decode(source.read_bytes(), type=list[Handed])
    for seed, handed in enumerate(given, first):
        random = Random(seed + 5)
        turns = open_turns(handed)
        if not turns:
            continue
        since = random.choice(turns)
        drive = Crossing()
        drive.take_over(handed.script[:since])
        if drive.held:
            refused += 1
            problem = refusal(drive, handed.python)
            given[seed - first] = Handed(drive.script, len(drive.script), handed.python)
        else:
            went_on += 1
            play(drive, random, evictions=0.3)
            problem = f"held after it had gone on: {drive.held[0].message}" if drive.held else None
            given[seed - first] = Handed(drive.script, since, RUNNING)
        drive.unit.close_memory()
        if problem is not None:
            wrong[seed] = problem[:2000]
    target.write_bytes(msgspec.msgpack.encode(given))
    sys.stdout.write(json.dumps({"went_on": went_on, "refused": refused, "wrong": wrong}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
