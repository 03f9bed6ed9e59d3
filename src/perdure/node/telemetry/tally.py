"""The tally of a node: whole numbers that are counted always, with or without OpenTelemetry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.kernel.data.commit import Commit, UnitRow
    from perdure.kernel.unit.turn import Milestones


@dataclass(frozen=True, slots=True)
class NodeMetrics:
    """What a node has done since it started, and what it does now. A copy: it does not change any more.

    Since the start: `turns` taken and `commits` made durable; `turn_failures`, turns that were discarded (an error, or
    too long); `refusals`, commits that the store refused (a start of an id that exists is one); instances that
    `started`, `completed`, `failed`, were `cancelled` (terminated and replaced ones, too) or `set_aside`; `attempts` of
    activities that ended, and those of them that failed or were given up (`attempt_failures`).

    Now: instances in memory (`residents`), attempts that run (`running`), and those that wait for a free slot
    (`waiting`).
    """

    turns: int = 0
    commits: int = 0
    turn_failures: int = 0
    refusals: int = 0
    started: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    set_aside: int = 0
    attempts: int = 0
    attempt_failures: int = 0
    residents: int = 0
    running: int = 0
    waiting: int = 0


class Tally:
    """Counts what is durable (turns, instances) and what has happened (attempts), on the node's loop."""

    __slots__ = (
        "attempt_failures",
        "attempts",
        "cancelled",
        "commits",
        "completed",
        "failed",
        "refusals",
        "set_aside",
        "started",
        "turn_failures",
        "turns",
    )

    def __init__(self) -> None:
        """Nothing has happened."""
        self.turns = self.commits = self.turn_failures = self.refusals = 0
        self.started = self.completed = self.failed = self.cancelled = self.set_aside = 0
        self.attempts = self.attempt_failures = 0

    def take_turn(self, commit: Commit | None, milestones: Milestones | None) -> None:
        """Count a turn that is durable."""
        self.turns += 1
        if commit is not None:
            self.commits += 1
            if milestones is not None:
                self._pass_milestones(milestones, commit.row)

    def discard_turn(self) -> None:
        """Count a turn that must count as never taken."""
        self.turn_failures += 1

    def refuse_commit(self) -> None:
        """Count a commit that the store has refused."""
        self.refusals += 1

    def end_attempt(self, *, failed: bool) -> None:
        """Count an attempt of an activity that has ended."""
        self.attempts += 1
        if failed:
            self.attempt_failures += 1

    def _pass_milestones(self, passed: Milestones, row: UnitRow) -> None:
        """Count a durable turn's milestones; `row` is the row that it committed."""
        self.started += passed.started
        self.set_aside += passed.held
        self.cancelled += len(passed.replaced)
        if not passed.ended:
            return
        if row.status == "completed":
            self.completed += 1
        elif row.status == "failed":
            self.failed += 1
        else:
            self.cancelled += 1

    def snapshot(self, residents: int, running: int, waiting: int) -> NodeMetrics:
        """The numbers as they are now."""
        counted = {name: getattr(self, name) for name in self.__slots__}
        return NodeMetrics(**counted, residents=residents, running=running, waiting=waiting)
