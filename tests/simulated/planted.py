"""Faults that are planted in the engine, and how soon the simulation finds each: `python planted.py [SEEDS]`.

Each takes one rule away that docs/regressions.md or the write path names. The table of
docs/reliability.md comes from here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from unittest.mock import patch

import msgspec

from perdure.kernel.data.commit import Commit, Stored, Verdict
from perdure.kernel.data.message import Message
from perdure.kernel.unit.mailbox import Mailbox
from perdure.kernel.unit.turn import Turn
from perdure.node.loop.committer import Committer
from perdure.node.loop.residents import Resident
from perdure.node.loop.turns import Turns
from perdure.node.ownership.arrivals import Arrivals
from perdure.node.ownership.owner import Owner
from perdure.ports.store import Claim, Incarnation, Page, Wake
from perdure.simulation.play import play
from perdure.store.memory import rows
from perdure.store.memory.store import MemoryStore
from perdure.store.memory.unit import Unit

Fault = Callable[[], AbstractContextManager[object]]
FAULTS: dict[str, Fault] = {}
MOST = 300
RARE = {
    "A turn that the store refused puts its messages behind newer ones",
    "Messages that were stored before come behind those that only the owner has",
    "The wait for the release of a scope begins anew at each renewal of the lease",
}
"""Found by few seeds, or by none of the first hundreds: tests of their own hold these rules."""


def fault(what: str) -> Callable[[Fault], Fault]:
    def named(plant: Fault) -> Fault:
        FAULTS[what] = plant
        return plant

    return named


# ---------------------------------------------------------------- owners


@fault("The store accepts commits of an owner that was replaced")
def no_fence() -> AbstractContextManager[object]:
    def verdict(commit: Commit, stored: Stored, _epoch: int, _incarnation: str | None) -> Verdict:
        if stored.commit == commit.id or stored.version == commit.expect:
            return "applied"
        return "stale"

    return patch.object(rows, "verdict", verdict)


@fault("A claim does not raise the epoch of its scope")
def same_epoch() -> AbstractContextManager[object]:
    def claim(self: rows.Scope, owner: Incarnation) -> Claim:
        claimed = Claim(max(self.epoch, 1), self.clean)
        self.epoch = claimed.epoch
        self.owner = owner
        self.clean = False
        return claimed

    return patch.object(rows.Scope, "claim", claim)


@fault("The wait for the release of a scope begins anew at each renewal of the lease")
def endless_hand_over() -> AbstractContextManager[object]:
    free = Owner._free

    async def forgetful(self: Owner, missing: Sequence[str], living: object) -> list[str]:
        self._missing_since_s = {}
        return await free(self, missing, living)  # type: ignore[arg-type]

    return patch.object(Owner, "_free", forgetful)


@fault("A new owner does not look for instances that are due")
def no_wakes() -> AbstractContextManager[object]:
    async def wakes(self: MemoryStore, *_: object) -> Page[Wake]:
        return Page([], None)

    return patch.object(MemoryStore, "wakes", wakes)


# ---------------------------------------------------------------- messages


@fault("Nobody looks for messages of which no hint has come")
def no_look() -> AbstractContextManager[object]:
    async def look(self: Arrivals) -> None:
        pass

    return patch.object(Arrivals, "look", look)


@fault("A message that was consumed stays in the inbox")
def not_consumed() -> AbstractContextManager[object]:
    consume = rows.Tables._consume

    def some(self: rows.Tables, commit: Commit, unit: Unit) -> None:
        left = msgspec.structs.replace(commit, consume=tuple(commit.consume)[1:])
        consume(self, left, unit)

    return patch.object(rows.Tables, "_consume", some)


@fault("A turn that the store refused forgets the messages that it took")
def not_restored() -> AbstractContextManager[object]:
    def restore(self: Mailbox) -> None:
        self._taken = None

    return patch.object(Mailbox, "restore", restore)


@fault("A turn that the store refused puts its messages behind newer ones")
def restored_behind() -> AbstractContextManager[object]:
    def restore(self: Mailbox) -> None:
        taken, self._taken = self._taken or [], None
        for entry in taken:
            self._file(entry)

    return patch.object(Mailbox, "restore", restore)


@fault("Messages that were stored before come behind those that only the owner has")
def merged_behind() -> AbstractContextManager[object]:
    def merge(self: Mailbox, inbox: Sequence[Message]) -> list[Message]:
        return [message for message in inbox if self.put(message, stored=True)]

    return patch.object(Mailbox, "merge", merge)


@fault("An inbox is read backwards at a take-over")
def backwards() -> AbstractContextManager[object]:
    reload = Mailbox.reload

    def backward(self: Mailbox, inbox: Iterable[Message]) -> list[Message]:
        return reload(self, reversed(list(inbox)))

    return patch.object(Mailbox, "reload", backward)


# ---------------------------------------------------------------- commits


@fault("A message is acknowledged before its commit is durable")
def early_answer() -> AbstractContextManager[object]:
    commit = Turns._commit

    def early(self: Turns, resident: Resident, turn: Turn) -> None:
        if resident.acks is not None and turn.answers:
            resident.answer(turn.answers)
        commit(self, resident, turn)

    return patch.object(Turns, "_commit", early)


@fault("An activity begins before the commit that schedules it is durable")
def early_attempt() -> AbstractContextManager[object]:
    commit = Turns._commit

    def early(self: Turns, resident: Resident, turn: Turn) -> None:
        for call in turn.calls:
            self.attempts.start(resident.unit.id, call)
        commit(self, resident, turn)

    return patch.object(Turns, "_commit", early)


@fault("A commit without an answer is submitted again as another one")
def another_commit() -> AbstractContextManager[object]:
    again = Committer._again

    async def anew(self: Committer, commits: list[Commit], error: Exception) -> list[Verdict]:
        for commit in commits:
            commit.id = os.urandom(16)
        return await again(self, commits, error)  # type: ignore[arg-type]

    return patch.object(Committer, "_again", anew)


@fault("A commit without an answer counts as applied")
def hoped_for() -> AbstractContextManager[object]:
    async def hope(self: Committer, commits: list[Commit], _error: Exception) -> list[Verdict]:
        return ["applied" for _ in commits]

    return patch.object(Committer, "_again", hope)


def find(plant: Fault, most: int) -> tuple[int, str]:
    """The number of seeds until one of them finds the fault, and what it says. 0: none did."""
    with plant():
        for seed in range(1, most + 1):
            verdict = play(seed)
            if verdict.breaches:
                return seed, verdict.breaches[0]
    return 0, ""


def main() -> int:
    logging.disable()
    most = MOST
    if len(sys.argv) > 1:
        most = int(sys.argv[1])
    missed = 0
    for what, plant in FAULTS.items():
        seeds, breach = find(plant, most)
        missed += not seeds
        sys.stdout.write(f"| {what} | {seeds or 'not in ' + str(most)} | {breach[:110]} |\n")
        sys.stdout.flush()
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
