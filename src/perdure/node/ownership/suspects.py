"""Suspects: finding out which instance ends the process, without blame for those only present.

When a node starts and finds that the last owner did not release its scopes, each instance that was
at work then is counted. The count stands in its row. It is written in one commit per batch that is
loaded, before any of the batch runs. Progress clears the count.

    counted ──▶ one of a few: on a brief trial, alone ──▶ no crash: it runs
            ──▶ one of many: it runs, until it has been at `crash_failures` crashes
            ──▶ then held back ──▶ trial, by halves ──▶ no crash within `trial_ms`: it runs
                                     │
                the next start: those on trial are the only candidates, until one is alone
                                     │
                held back for `control_ms`, to see whether the others crash without it,
                and then on trial again

Theory of operation. Suspects that are few run one by one, each with a durable mark, until their
first turn is over and a moment has passed. So an instance whose turn ends the process is alone with
its mark at its second crash. It is held back for `control_ms`, to see that the others live without
it, and then runs alone once more. It is suspended at its third crash.

Many would wait too long for that, and an instance may do its harm later than in its turn. For those
there are trials of many. Instances from `crash_failures` crashes on are candidates. They are held
back: their messages gather and wait, and their rows say so. That lasts until all have been loaded
and counted, which takes long where there are many. The first half then gets a mark in its rows and
is let go. The other half waits. If nothing happens in `trial_ms`, the mark is taken away and the
other half follows, so that all are at work after a few seconds. If the process ends meanwhile, the
next start finds the marks. Instances that waited are cleared, and instances that were marked are
halved again. All others keep their count and go on.

An instance that was alone on trial at a crash may still be innocent: the process may have been
ended from outside. So the instance is held back next time while all others run. A crash in that
time clears it. It is suspended only after `crash_failures` crashes alone, with a quiet time without
it between them.

An instance may need longer than `trial_ms` to do its harm, and so pass its trial. Its count goes
on, and trials last longer, the more crashes there were.

Scopes that were claimed together have one search. A node has one trial at a time, so that a crash
in it names its cause. Searches that wait for that hold their candidates back, and a crash clears
those.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from perdure.kernel.data.commit import CLOSED, Commit, UnitRow
from perdure.kernel.data.message import Start
from perdure.kernel.data.placement import scope_of
from perdure.kernel.unit.held import POISONED, REASONS
from perdure.kernel.unit.lifecycle import pending_row
from perdure.node.loop.patience import Patience, Stopped
from perdure.node.ownership.blame import Blame, free, poisoned
from perdure.node.ownership.ledger import Ledger
from perdure.ports.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from perdure.node.loop.residents import Resident
    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.scope import Scope
    from perdure.node.ownership.trial import Trial
    from perdure.ports.clock import Clock
    from perdure.ports.store import Loaded

logger = logging.getLogger("perdure.node")

_LOOK_S = 0.02
"""How often to look whether an instance has been loaded, or is between two turns."""
_FEW = 64
"""So many suspects are tried one by one, from their first crash on. More of them run at once."""
_BRIEF_MS = 250
"""How long a brief trial lasts at most, behind the turn."""
_LOOK_MS = 5
"""How often to look whether an instance on a brief trial has made progress."""
_LONGER = 4
_LONGER_MOST = 16
"""How much longer trials last after another `crash_failures` crashes, and how much at most."""
_CONTROL_LONGER = 3
"""By how much the second time of control is longer than the first."""
_BRIEF_TRIALS = 2
"""All brief trials together end after the time of so many trials, also where the store is slow."""
_CONTROL_TRIALS = 5
"""A time of control behind a brief trial lasts as long as so many trials, or longer."""
_NAMED = 5
"""Instances that a log record names."""


class _Candidate(NamedTuple):
    """An instance that is held back: its row as it is in the store, and its blame."""

    resident: Resident
    version: int
    row: UnitRow
    blame: Blame


class Suspects:
    """Sees each instance between its load and its first turn, in scopes that were claimed together.

    Those that may end the process are held back.
    """

    def __init__(
        self,
        turns: Turns,
        scopes: Sequence[Scope],
        clock: Clock,
        options: NodeOptions,
        trial: Trial,
        search: Callable[[], None],
    ) -> None:
        """All that were at work in scopes that their last owner did not release are suspects.

        `trial` is that of the node. `search` has `run` called, unless it is under way.
        """
        self._turns = turns
        self._scopes = {scope.name: scope for scope in scopes}
        self._clock = clock
        self._options = options
        self._trial = trial
        self._patience = Patience(turns.node_name, options.store_retry_ms)
        self._ledger = Ledger(turns.store, self._scopes, clock, self._patience)
        self._claimed_at = clock.now_ms()
        self._counting = any(scope.is_crashed for scope in scopes)
        # While it counts: the instances that were counted, and those that a scan has found and that
        # were not yet (an ordered set).
        self._seen: set[str] = set()
        self._expected: dict[str, None] = {}
        self._candidates: dict[str, _Candidate] = {}
        self._on_trial: set[str] = set()
        # Those that were let go, and whose rows still say that they are held back.
        self._free_to_run: set[str] = set()
        self._look_for_search = search
        # Counting takes so long that those with few crashes are not held back for it.
        self._is_late = False

    def expect(self, units: Iterable[str]) -> None:
        """A scan has found these: they are to be counted before there is a trial."""
        if not self._counting:
            return
        for unit in units:
            if unit not in self._seen:
                self._expected[unit] = None

    @property
    def scopes(self) -> list[Scope]:
        """The scopes that the node still has."""
        return list(self._scopes.values())

    def leave(self, scope: Scope) -> list[Resident]:
        """The scope goes: let none of its candidates run. Return those that were held back."""
        del self._scopes[scope.name]
        gone = [c for c in self._candidates.values() if c.row.scope == scope.name]
        for candidate in gone:
            del self._candidates[candidate.row.id]
        return [candidate.resident for candidate in gone]

    def stop(self) -> None:
        """Wait for the store no longer, and let no candidate run."""
        self._patience.stop()

    # ------------------------------------------------------------ between load and turn

    async def admit(
        self, batch: Sequence[tuple[Resident, Loaded]]
    ) -> list[tuple[Resident, Loaded]]:
        """Count units that are loaded for the first time after a crash. Return those that may run.

        The rows of units that are held back say so in the commit that counts them. They do not run
        until they are on trial. The next crash may come before that, and then they have no part in
        it.
        """
        commits: list[Commit] = []
        held: dict[str, Blame] = {}
        for _, found in batch:
            if found.row is not None and isinstance(self._clock, SystemClock):
                # The owner before may have had a clock that is ahead of this one.
                self._clock.go_on_from(found.row.updated_at)
            if found.id in self._candidates:
                # It was held back already, and is loaded again because a message came.
                held[found.id] = self._candidates[found.id].blame
                continue
            row = self._row_of(found)
            if row is None:
                continue
            blame = self._blame_of(found, row)
            if self._is_suspect(found, blame) or self._is_held_on(found, row):
                held[found.id] = blame
                blame = blame.waiting()
            if blame.number != row.suspect:
                row = msgspec.structs.replace(row, suspect=blame.number)
                commits += self._ledger.commit(found.version, row)
        try:
            applied = await self._ledger.write(commits)
        except Stopped:
            return list(batch)  # none of them runs uncounted: the scope takes no turns any more
        admitted: list[tuple[Resident, Loaded]] = []
        for resident, found in batch:
            if found.id in applied:
                found.version, found.row = found.version + 1, applied[found.id]
            # A scope may have gone while its rows were written. A unit of it that was held from now
            # on would never be taken out of memory.
            if found.id in held and found.row is not None and found.row.scope in self._scopes:
                blame = held[found.id]
                self._candidates[found.id] = _Candidate(resident, found.version, found.row, blame)
                if not self._counting:
                    self._look_for_search()
            else:
                self._free_to_run.discard(found.id)
                admitted.append((resident, found))
            self._note(found.id)
        return admitted

    def _note(self, unit: str) -> None:
        self._expected.pop(unit, None)
        if self._counting:
            self._seen.add(unit)

    def _is_first(self, found: Loaded) -> bool:
        """Whether the unit is seen for the first time after a crash."""
        if not self._counting or found.id in self._seen:
            return False
        scope = self._scopes.get(self._scope_of(found))
        return scope is not None and scope.is_crashed

    def _scope_of(self, found: Loaded) -> str:
        if found.row is not None:
            return found.row.scope
        # Its start says where it will be. The first message is not always that.
        for message in found.inbox:
            if isinstance(message.body, Start):
                return message.scope
        return scope_of(found.id, self._turns.store.info.shards)

    def _row_of(self, found: Loaded) -> UnitRow | None:
        """The row of a unit that may run."""
        row = found.row
        if row is None and self._is_first(found):
            row = self._row_of_start(found)
        if row is None or not _may_run(row):
            return None
        return row

    def _blame_of(self, found: Loaded, row: UnitRow) -> Blame:
        """The blame that the unit has now."""
        blame = Blame.read(row.suspect)
        if self._is_first(found):
            if blame.state != "free" or self._was_at_work(found):
                return blame.after_crash()
            return blame
        if found.id in self._on_trial or self._is_held_on(found, row):
            return blame  # it must stay for as long as the trial, or the time of control, does
        return blame.freed()  # it waits no longer, or the mark is of a life that ended in order

    def _is_suspect(self, found: Loaded, blame: Blame) -> bool:
        """Whether to hold the unit back until it is tried."""
        if not self._is_first(found):
            return False
        if blame.is_on_trial or blame.crashes >= self._options.crash_failures:
            return True
        # A few are tried one by one. Many run at once: each of them would wait for all the others.
        return blame.crashes > 0 and len(self._candidates) < _FEW and not self._is_late

    def _is_held_on(self, found: Loaded, row: UnitRow) -> bool:
        """Whether it has a time of control, and its last owner has given its scope up in order.

        That time begins anew here. It would run without a mark otherwise.
        """
        if self._is_first(found) or found.id in self._free_to_run:
            return False
        blame = Blame.read(row.suspect)
        return blame.state == "held" and blame.alone > 0

    def _was_at_work(self, found: Loaded) -> bool:
        """Whether the unit had something to do when the last owner crashed."""
        row = found.row
        if row is not None and row.wake_at is not None and row.wake_at <= self._claimed_at:
            return True
        # A message that came later was not there when the process ended.
        return any(message.visible_at <= self._claimed_at for message in found.inbox)

    def _row_of_start(self, found: Loaded) -> UnitRow | None:
        """The first row of an instance whose start waits in the inbox.

        Its first turn may have ended the process, and then it has no row yet.
        """
        for message in found.inbox:
            if isinstance(message.body, Start) and message.visible_at <= self._claimed_at:
                return pending_row(found.id, message, message.body, message.scope)
        return None

    # ------------------------------------------------------------ writing rows

    async def _rewrite(
        self, candidates: Sequence[_Candidate], become: Callable[[Blame], Blame]
    ) -> list[_Candidate]:
        """Write the new blame of candidates into their rows. Return the candidates with it.

        Those whose scope has gone are left out.
        """
        commits: list[Commit] = []
        for _, version, row, blame in candidates:
            number = become(blame).number
            if number != row.suspect:
                changed = msgspec.structs.replace(row, suspect=number)
                commits += self._ledger.commit(version, changed)
        applied = await self._ledger.write(commits)
        written: list[_Candidate] = []
        for candidate in candidates:
            unit = candidate.row.id
            if unit not in self._candidates:
                continue  # its scope has gone
            current = candidate._replace(blame=become(candidate.blame))
            if unit in applied:
                current = current._replace(version=candidate.version + 1, row=applied[unit])
            self._candidates[unit] = current
            written.append(current)
        return written

    # ------------------------------------------------------------ after the first scan

    async def run(self) -> None:
        """Wait until all have been counted, and then find out which of them it was."""
        with suppress(Stopped):  # the next start goes on with the search
            await self._find()

    async def _find(self) -> None:
        await self._all_counted()
        self._counting = False
        for scope in self._scopes.values():
            scope.has_counted()
        self._seen.clear()
        async with self._trial.taken(self._let_low_go):
            await self._search()

    def _let_low_go(self) -> None:
        """Those with few crashes wait no longer: most of them are innocent."""
        self._let_go(self._low())

    def _low(self) -> list[_Candidate]:
        """Those with few crashes, which were on no trial. By id, because their order is chance."""
        most = self._options.crash_failures
        found: list[_Candidate] = []
        for candidate in self._candidates.values():
            blame = candidate.blame
            if blame.crashes < most and not blame.is_on_trial:
                found.append(candidate)
        return sorted(found, key=lambda c: c.row.id)

    async def _search(self) -> None:
        # By id, because the order in which they were loaded is chance.
        candidates = sorted(self._candidates.values(), key=lambda c: c.row.id)
        marked = [c for c in candidates if c.blame.is_on_trial]
        if not marked:
            low = self._low()
            for candidate in low:
                if candidate.blame.alone:  # its time of control was not over at its last owner
                    await self._control([candidate], was_brief=True)
            await self._briefly([c for c in low if not c.blame.alone])
            candidates = [c for c in candidates if c.row.id in self._candidates]
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
        # The process ended during a trial, so only one that was on trial can have ended it.
        self._let_go([c for c in candidates if not c.blame.is_on_trial])
        if len(marked) == 1:
            await self._alone(marked[0])
            return
        text = "the process ended while %d instances were on trial, so it may be one of them: %s"
        self._log(logging.WARNING, text, len(marked), _names(marked))
        # Brief trials of several nodes have ended together. Each of them is tried again alone.
        brief = [c for c in marked if c.blame.state == "brief"]
        await self._briefly(brief)
        rest = [c for c in marked if c.row.id in self._candidates]
        if rest:
            await self._halves(rest)

    async def _all_counted(self) -> None:
        """Wait until the instances that the scan has found are loaded, or cannot be."""
        late_at = self._clock.now_ms() + self._options.trial_ms
        while self._expected:
            if not self._is_late and self._clock.now_ms() >= late_at:
                self._is_late = True
                self._let_low_go()
            unit = next(iter(self._expected))
            if self._turns.memory.loader.is_waiting(unit):
                await asyncio.sleep(_LOOK_S)
            else:
                self._expected.pop(unit, None)

    async def _halves(self, candidates: Sequence[_Candidate]) -> None:
        """Let the first half run on trial, then the other."""
        self._trial.take_long()
        half = (len(candidates) + 1) // 2
        part = candidates[:half]
        # Their rows say that they wait before the others run: a crash would come too early else.
        waiting = await self._rewrite(candidates[half:], Blame.waiting)
        await self._try(part, len(waiting))
        await self._try(waiting, 0)

    async def _briefly(self, candidates: Sequence[_Candidate]) -> None:
        """Let them run one by one, each with a mark, for as long as their first turn takes.

        What ends the process in its turn is alone then. All of them together are watched no longer
        than one trial lasts.
        """
        if not candidates:
            return
        watched_ms = min(_BRIEF_MS, self._options.trial_ms // len(candidates))
        over_at = self._clock.now_ms() + _BRIEF_TRIALS * self._options.trial_ms
        for candidate in candidates:
            if candidate.row.id not in self._candidates:
                continue  # its scope has gone
            if self._clock.now_ms() >= over_at:
                # The store is slow. The others have waited long enough.
                self._let_low_go()
                return
            written = await self._rewrite([candidate], Blame.on_brief_trial)
            if not written:
                continue
            unit = candidate.row.id
            self._on_trial.add(unit)
            self._let_go(written)
            await self._loaded([unit])
            await self._watch(unit, watched_ms)
            await self._free([unit])
            self._on_trial.discard(unit)

    async def _watch(self, unit: str, watched_ms: int) -> None:
        """Wait until it has made progress, or has left memory, or the time is up."""
        until = self._clock.now_ms() + watched_ms
        while (left_ms := until - self._clock.now_ms()) > 0:
            resident = self._turns.memory.residents.get(unit)
            if resident is None:
                return
            row = resident.unit.row
            # A row that is not durable yet does not count: the crash may come before.
            if resident.state == "idle" and row is not None and not row.suspect:
                return
            await self._pass(min(_LOOK_MS, left_ms))

    async def _try(self, part: Sequence[_Candidate], waiting: int) -> None:
        """Mark them, let them run, and see whether the process survives it."""
        part = await self._rewrite(part, Blame.on_trial)
        if not part:
            return  # their scopes have gone
        trial_ms = self._trial_ms(part)
        text = "on trial for %.1f s, while %d wait: %s"
        self._log(logging.WARNING, text, trial_ms / 1000, waiting, _names(part))
        units = [c.row.id for c in part]
        self._on_trial.update(units)
        self._let_go(part)
        await self._loaded(units)
        await self._pass(trial_ms)
        await self._free(units)
        self._on_trial.difference_update(units)

    async def _alone(self, candidate: _Candidate) -> None:
        """The process ended while this one was on trial alone."""
        unit = candidate.row.id
        blame = candidate.blame.held_back()
        most = self._options.crash_failures
        was_brief = candidate.blame.state == "brief"
        # A brief trial is so short that two crashes in it, with quiet between them, prove more than
        # two in a long one.
        if blame.alone >= most or (was_brief and blame.alone > 1 and blame.deaths >= most):
            text = "%r is suspended: it ran at %d crashes of the process, alone at %d of them"
            self._log(logging.ERROR, text, unit, blame.deaths, blame.alone)
            del self._candidates[unit]
            self._turns.memory.hold(unit, poisoned(unit, blame))
            return
        text = (
            "the process ended while %r was on trial alone (%d of %d times). It waits, to see "
            "whether the others crash without it. Then it runs on trial again"
        )
        self._log(logging.WARNING, text, unit, blame.alone, most)
        await self._control(await self._rewrite([candidate], Blame.held_back), was_brief)

    async def _control(self, held: Sequence[_Candidate], was_brief: bool) -> None:
        """See whether the process ends without the one that is held back, and try it again."""
        control_ms = self._options.control_ms
        if any(candidate.blame.alone > 1 for candidate in held):
            # Twice in a row alone is hardly chance. So the proof without it is a better one now.
            control_ms *= _CONTROL_LONGER
        elif was_brief:
            # Longer than all brief trials take together. An instance that does its harm always at
            # the same time of a life cannot meet both trials of an innocent one.
            control_ms = max(control_ms, _CONTROL_TRIALS * self._options.trial_ms)
        self._trial.take_long()
        await self._pass(control_ms)
        if was_brief:
            await self._briefly(held)
        else:
            await self._try(held, 0)

    def _trial_ms(self, part: Sequence[_Candidate]) -> int:
        """Longer, the more crashes the trials before have not explained."""
        rounds = max(c.blame.crashes for c in part) // self._options.crash_failures
        longer = 1
        # The first round is the first trial, which has its plain time.
        for _ in range(rounds - 1):
            longer = min(longer * _LONGER, _LONGER_MOST)
        return self._options.trial_ms * longer

    # ------------------------------------------------------------ letting go, and afterwards

    def _let_go(self, candidates: Iterable[_Candidate]) -> None:
        """Load them again, with the messages that have come meanwhile, and let them run."""
        for candidate in candidates:
            # Its scope may have gone while the store was asked.
            if self._candidates.pop(candidate.row.id, None) is not None:
                self._free_to_run.add(candidate.row.id)
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
        """Take the marks away. An instance that has made progress has lost its mark already."""
        left = list(units)
        while left:
            busy = [unit for unit in left if not self._turns.memory.revise_suspect(unit, free)]
            absent = [unit for unit in busy if self._turns.memory.residents.get(unit) is None]
            done = await self._free_absent(absent)
            left = [unit for unit in busy if unit not in done]
            if left:
                await asyncio.sleep(_LOOK_S)

    async def _free_absent(self, units: Sequence[str]) -> set[str]:
        """Take the marks of units that have left memory away.

        Return the units that have no mark now, and those whose scope has gone. The others have come
        back into memory meanwhile.
        """
        if not units:
            return set()
        commits: list[Commit] = []
        for found in await self._patience.ask(self._turns.store.load, units):
            row = found.row
            if row is not None and _may_run(row) and free(row.suspect) != row.suspect:
                row = msgspec.structs.replace(row, suspect=free(row.suspect))
                commits += self._ledger.commit(found.version, row)
        applied = await self._ledger.write(commits)
        refused = {commit.unit for commit in commits if commit.unit not in applied}
        return set(units) - refused

    def _log(self, level: int, text: str, *args: object) -> None:
        logger.log(level, text, *args, extra={"node": self._turns.node_name})


def _may_run(row: UnitRow) -> bool:
    return row.status not in CLOSED and row.reason != REASONS[POISONED]


def _names(candidates: Sequence[_Candidate]) -> str:
    """The first few ids, for people."""
    named = ", ".join(repr(c.row.id) for c in candidates[:_NAMED])
    more = len(candidates) - _NAMED
    if more <= 0:
        return named
    return f"{named} and {more} more"
