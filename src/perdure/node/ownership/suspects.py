"""Suspects: finding out which instance ends the process, without blaming those that were only there.

When a node starts and finds that the last owner did not release its scopes, each instance that was at work then is
counted: in its row, in one commit per batch that is loaded, before any of it runs. Progress clears the count. So the
first crashes cost nothing but that.

    counted ──▶ below `crash_failures`: it runs
            ──▶ a candidate: held back ──▶ trial, by halves ──▶ no crash within `trial_ms`: it runs
                                                 │
                              the next start: those on trial are the only candidates, until it is one alone
                                                 │
                        held back for `control_ms`, to see whether the others crash without it; then on trial again

Theory of operation. Instances from `crash_failures` crashes on are candidates. They are held back: their messages
gather and wait, and their rows say so. That lasts until all have been loaded and counted, which takes long where there
are many. The first half then gets a mark in its rows and is let go; the other half waits. If nothing happens in
`trial_ms`, the mark is taken away and the other half follows, so that all are at work after a few
seconds. If the process ends meanwhile, the next start finds the marks: those that waited are cleared, those that were
marked are halved again, and whatever else ran keeps its count and goes on.

One that was alone on trial at a crash may still be innocent: somebody from outside may have ended the process. So it is
held back next time while all others run. A crash in that time clears it. It is set aside only after `crash_failures`
crashes alone, with a quiet time without it between them.

An instance may need longer than `trial_ms` to do its harm, and so pass its trial. Its count goes on, and trials last
longer, the more crashes there were.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from perdure.errors import Failure
from perdure.kernel.data.commit import CLOSED, Commit, UnitRow
from perdure.kernel.data.message import Start
from perdure.kernel.unit.held import POISONED, REASONS
from perdure.kernel.unit.lifecycle import pending_row
from perdure.node.loop.patience import Patience, Stopped
from perdure.node.ownership.blame import Blame, free
from perdure.ports.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from perdure.kernel.data.commit import Verdict
    from perdure.node.loop.residents import Resident
    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.scope import Scope
    from perdure.ports.clock import Clock
    from perdure.ports.store import Loaded

logger = logging.getLogger("perdure.node")

_LOOK_S = 0.02
"""How often to look whether an instance has been loaded, or is between two turns."""
_LONGER, _LONGER_MOST = 4, 16
"""By how much trials last longer after another `crash_failures` crashes, and by how much at most."""
_CONTROL_LONGER = 3
"""By how much the second time of control is longer than the first."""
_NAMED = 5
"""Instances that a log record names."""


class _Candidate(NamedTuple):
    """An instance that is held back, as it stands in the store, and what is known of it."""

    resident: Resident
    version: int
    row: UnitRow
    blame: Blame


class Suspects:
    """Sees each instance between its load and its first turn, and holds back those that may end the process."""

    def __init__(
        self,
        turns: Turns,
        scope: Scope,
        clock: Clock,
        options: NodeOptions,
    ) -> None:
        """All who were at work in a scope are suspects if its last owner did not release it."""
        self._turns = turns
        self._scope = scope
        self._clock = clock
        self._options = options
        self._patience = Patience(turns.node_name, options.store_retry_ms)
        self._claimed_at = clock.now_ms()
        self._counting = scope.is_crashed
        self._seen: set[str] = set()
        self._expected: dict[str, None] = {}
        self._candidates: dict[str, _Candidate] = {}
        self._on_trial: set[str] = set()

    def expect(self, units: Iterable[str]) -> None:
        """A scan has found these: they are to be counted before there is a trial."""
        if self._counting:
            self._expected.update((unit, None) for unit in units if unit not in self._seen)

    def stop(self) -> list[Resident]:
        """Wait for the store no longer, and let nobody run. Those that were held back."""
        self._patience.stop()
        return [candidate.resident for candidate in self._candidates.values()]

    # ------------------------------------------------------------ between load and turn

    async def admit(
        self, batch: Sequence[tuple[Resident, Loaded]]
    ) -> list[tuple[Resident, Loaded]]:
        """Count those that are loaded for the first time after a crash. Those that may run now.

        The rows of those that are held back say so in the commit that counts them. They do not run
        until it is their turn, so the next crash may come before that and is none of their doing.
        """
        commits: list[Commit] = []
        held: dict[str, Blame] = {}
        for _, found in batch:
            if found.row is not None and isinstance(self._clock, SystemClock):
                self._clock.go_on_from(found.row.updated_at)
            if found.id in self._candidates:
                held[found.id] = self._candidates[found.id].blame
                continue
            row = self._row_of(found)
            if row is None:
                continue
            blame = self._blame_of(found, row)
            if self._is_suspect(found, blame):
                held[found.id] = blame
                blame = blame.waiting()
            if blame.number != row.suspect:
                row = msgspec.structs.replace(row, suspect=blame.number)
                commits.append(self._commit(found.id, found.version, row))
        try:
            applied = await self._write(commits)
        except Stopped:
            return list(batch)  # nobody runs uncounted: the scope takes no turns of them any more
        if self._patience.is_over:
            # The scope goes, and the answer has come too late to hold anything back. What would be
            # held from now on, nobody would take out of memory.
            return list(batch)
        admitted: list[tuple[Resident, Loaded]] = []
        for resident, found in batch:
            if found.id in applied:
                found.version, found.row = found.version + 1, applied[found.id]
            if found.id in held and found.row is not None:
                blame = held[found.id]
                self._candidates[found.id] = _Candidate(resident, found.version, found.row, blame)
            else:
                admitted.append((resident, found))
            self._note(found.id)
        return admitted

    def _note(self, unit: str) -> None:
        self._expected.pop(unit, None)
        if self._counting:
            self._seen.add(unit)

    def _is_first(self, found: Loaded) -> bool:
        """Whether the unit is seen for the first time after a crash."""
        return self._counting and found.id not in self._seen

    def _row_of(self, found: Loaded) -> UnitRow | None:
        """The row of a unit that may run."""
        row = found.row
        if row is None and self._is_first(found):
            row = self._row_of_start(found)
        return row if row is not None and _may_run(row) else None

    def _blame_of(self, found: Loaded, row: UnitRow) -> Blame:
        """What is known of the unit now."""
        blame = Blame.read(row.suspect)
        if self._is_first(found):
            counts = blame.state != "free" or self._was_at_work(found)
            return blame.after_crash() if counts else blame
        if found.id in self._on_trial:
            return blame
        return blame.freed()  # it waits no longer, or the mark is of a life that ended in order

    def _is_suspect(self, found: Loaded, blame: Blame) -> bool:
        """Whether to hold the unit back until it is tried."""
        if not self._is_first(found):
            return False
        return blame.state == "trial" or blame.crashes >= self._options.crash_failures

    def _was_at_work(self, found: Loaded) -> bool:
        """Whether the unit had something to do when the last owner crashed."""
        if (
            found.row is not None
            and found.row.wake_at is not None
            and found.row.wake_at <= self._claimed_at
        ):
            return True
        return any(message.visible_at <= self._claimed_at for message in found.inbox)

    def _row_of_start(self, found: Loaded) -> UnitRow | None:
        """An instance whose start was posted and whose first turn may have killed the node has no row yet."""
        for message in found.inbox:
            if isinstance(message.body, Start) and message.visible_at <= self._claimed_at:
                return pending_row(found.id, message, message.body, self._turns.store.info.shards)
        return None

    # ------------------------------------------------------------ writing rows

    def _commit(self, unit: str, version: int, row: UnitRow) -> Commit:
        now = self._clock.now_ms()
        return Commit(os.urandom(16), self._scope.fence, now, unit, version, row)

    async def _write(self, commits: Sequence[Commit]) -> dict[str, UnitRow]:
        """Make these durable, however long it takes; the rows that were accepted.

        One that is refused belongs to somebody else by now, which its next turn will be told.
        """
        if not commits:
            return {}
        verdicts = await self._patience.ask(self._submit, commits)
        return {
            c.unit: c.row
            for c, verdict in zip(commits, verdicts, strict=True)
            if verdict == "applied"
        }

    async def _submit(self, commits: Sequence[Commit]) -> list[Verdict]:
        return [*await self._turns.store.commit(commits)]

    async def _rewrite(
        self, candidates: Sequence[_Candidate], become: Callable[[Blame], Blame]
    ) -> list[_Candidate]:
        """Write what is known about candidates, who are held back; as they stand in the store after that."""
        commits: list[Commit] = []
        for _, version, row, blame in candidates:
            number = become(blame).number
            if number != row.suspect:
                commits.append(
                    self._commit(row.id, version, msgspec.structs.replace(row, suspect=number))
                )
        applied = await self._write(commits)
        written: list[_Candidate] = []
        for candidate in candidates:
            unit, now = candidate.row.id, candidate._replace(blame=become(candidate.blame))
            if unit in applied:
                now = now._replace(version=candidate.version + 1, row=applied[unit])
            self._candidates[unit] = now
            written.append(now)
        return written

    # ------------------------------------------------------------ after the first scan

    async def run(self) -> None:
        """Wait until everybody has been counted, then find out who it was."""
        with suppress(Stopped):  # the next start goes on with it
            await self._find()

    async def _find(self) -> None:
        await self._all_counted()
        self._counting = False
        self._scope.has_counted()
        self._seen.clear()
        candidates = sorted(self._candidates.values(), key=lambda c: c.row.id)
        marked = [c for c in candidates if c.blame.state == "trial"]
        if not candidates:
            return
        if not marked:
            text = (
                "%d instances were at work at each of the last crashes of the process, up to %d: %s"
            )
            most = max(c.blame.crashes for c in candidates)
            self._log(logging.WARNING, text, len(candidates), most, _names(candidates))
            await self._halves(candidates)
            return
        self._let_go([c for c in candidates if c.blame.state != "trial"])
        if len(marked) == 1:
            await self._alone(marked[0])
            return
        text = "the process ended while %d instances were on trial, so it may be one of them: %s"
        self._log(logging.WARNING, text, len(marked), _names(marked))
        await self._halves(marked)

    async def _all_counted(self) -> None:
        """Wait until those that the scan has found are loaded, or cannot be."""
        while self._expected:
            unit = next(iter(self._expected))
            if self._turns.memory.loader.is_waiting(unit):
                await asyncio.sleep(_LOOK_S)
            else:
                self._expected.pop(unit, None)

    async def _halves(self, candidates: Sequence[_Candidate]) -> None:
        """Let the first half run on trial, then the other."""
        half = (len(candidates) + 1) // 2
        part, waiting = candidates[:half], candidates[half:]
        waiting = await self._rewrite(waiting, Blame.waiting)
        await self._try(part, len(waiting))
        if waiting:
            await self._try(waiting, 0)

    async def _try(self, part: Sequence[_Candidate], waiting: int) -> None:
        """Mark them, let them run, and see whether the process survives it."""
        trial_ms = self._trial_ms(part)
        text = "on trial for %.1f s, while %d wait: %s"
        self._log(logging.WARNING, text, trial_ms / 1000, waiting, _names(part))
        part = await self._rewrite(part, Blame.on_trial)
        units = [c.row.id for c in part]
        self._on_trial.update(units)
        self._let_go(part)
        await self._loaded(units)
        await self._pass(trial_ms)
        await self._free(units)
        self._on_trial.difference_update(units)

    async def _alone(self, candidate: _Candidate) -> None:
        """The process ended while this one was on trial alone."""
        unit, blame = candidate.row.id, candidate.blame.held_back()
        if blame.alone >= self._options.crash_failures:
            self._log(
                logging.ERROR,
                "%r is set aside: it ran alone at %d crashes of the process",
                unit,
                blame.alone,
            )
            del self._candidates[unit]
            self._turns.memory.set_aside(unit, _poisoned(unit, blame.alone))
            return
        control_ms = self._options.control_ms * (1 if blame.alone == 1 else _CONTROL_LONGER)
        text = (
            "the process ended while %r was on trial alone (%d of %d times). It waits for %.1f s, to see whether the "
            "others crash without it; then it runs on trial again"
        )
        self._log(
            logging.WARNING,
            text,
            unit,
            blame.alone,
            self._options.crash_failures,
            control_ms / 1000,
        )
        (candidate,) = await self._rewrite([candidate], Blame.held_back)
        await self._pass(control_ms)
        await self._try([candidate], 0)

    def _trial_ms(self, part: Sequence[_Candidate]) -> int:
        """Longer, the more crashes the trials before have not explained."""
        rounds = max(c.blame.crashes for c in part) // self._options.crash_failures
        longer = 1
        for _ in range(rounds - 1):
            longer = min(longer * _LONGER, _LONGER_MOST)
        return self._options.trial_ms * longer

    # ------------------------------------------------------------ letting go, and afterwards

    def _let_go(self, candidates: Iterable[_Candidate]) -> None:
        """Load them again, with what has come for them meanwhile, and let them run."""
        for candidate in candidates:
            del self._candidates[candidate.row.id]
            self._turns.memory.loader.load(candidate.resident)

    async def _loaded(self, units: Iterable[str]) -> None:
        """Wait until they have been loaded."""
        left = list(units)
        while left:
            left = [unit for unit in left if self._turns.memory.loader.is_waiting(unit)]
            if left:
                await asyncio.sleep(_LOOK_S)

    async def _pass(self, ms: int) -> None:
        """Wait by the node's clock."""
        over = asyncio.Event()
        alarm = self._clock.call_after(ms, over.set)
        try:
            await over.wait()
        finally:
            alarm.cancel()

    async def _free(self, units: Iterable[str]) -> None:
        """Take the marks away of those that have not made progress meanwhile, which does it, too."""
        left = list(units)
        while left:
            busy = [unit for unit in left if not self._turns.memory.revise_suspect(unit, free)]
            absent = [unit for unit in busy if self._turns.memory.residents.get(unit) is None]
            done = await self._free_absent(absent)
            left = [unit for unit in busy if unit not in done]
            if left:
                await asyncio.sleep(_LOOK_S)

    async def _free_absent(self, units: Sequence[str]) -> set[str]:
        """The same for units that have left memory; those that it was done for. The others have come back."""
        if not units:
            return set()
        commits: list[Commit] = []
        for found in await self._patience.ask(self._turns.store.load, units):
            row = found.row
            if row is not None and _may_run(row) and free(row.suspect) != row.suspect:
                row = msgspec.structs.replace(row, suspect=free(row.suspect))
                commits.append(self._commit(found.id, found.version, row))
        applied = await self._write(commits)
        return set(units) - {c.unit for c in commits if c.unit not in applied}

    def _log(self, level: int, text: str, *args: object) -> None:
        logger.log(level, text, *args, extra={"node": self._turns.node_name})


def _may_run(row: UnitRow) -> bool:
    return row.status not in CLOSED and row.reason != REASONS[POISONED]


def _names(candidates: Sequence[_Candidate]) -> str:
    """The first few ids, for people."""
    named = ", ".join(repr(c.row.id) for c in candidates[:_NAMED])
    more = len(candidates) - _NAMED
    return named if more <= 0 else f"{named} and {more} more"


def _poisoned(unit: str, crashes: int) -> Failure:
    return Failure(
        POISONED,
        f"{unit!r} ran alone at {crashes} crashes of the process, and without it there was none. "
        "Mend the code (look for what ends the process), deploy it, and release the instance with retry().",
        "poison",
        retryable=False,
    )
