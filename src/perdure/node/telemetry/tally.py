"""The tally of a node: whole numbers that are always counted, with or without OpenTelemetry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.kernel.data.commit import Commit, UnitRow
    from perdure.kernel.unit.turn import Milestones


@dataclass(frozen=True, slots=True)
class NodeMetrics:
    """The work of a node since it started, and at the moment. It is a copy and does not change.

    Since the start: `turns` that were taken and `commits` that became durable. `turn_failures` are
    turns that were discarded, for an error or because they took too long. `refusals` are commits
    that the store refused. A start of an id that exists is one of them. Instances that `started`,
    `completed`, `failed`, were `cancelled` (terminated and replaced ones, too) or were `suspended`
    by the node. `attempts` of activities that ended. `attempt_failures` are those of them that
    failed or were given up.

    At the moment: instances in memory (`residents`), attempts that run (`running`), and attempts
    that wait for a free slot (`waiting`).
    """

    turns: int = 0
    commits: int = 0
    turn_failures: int = 0
    refusals: int = 0
    started: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    suspended: int = 0
    attempts: int = 0
    attempt_failures: int = 0
    residents: int = 0
    running: int = 0
    waiting: int = 0


class Tally:
    """Counts turns and instances when they are durable, and attempts when they have ended.

    It is written on the node's loop.
    """

    __slots__ = (
        "attempt_failures",
        "attempts",
        "cancelled",
        "commits",
        "completed",
        "failed",
        "refusals",
        "started",
        "suspended",
        "turn_failures",
        "turns",
    )

    def __init__(self) -> None:
        """Nothing has happened."""
        self.turns = 0
        self.commits = 0
        self.turn_failures = 0
        self.refusals = 0
        self.started = 0
        self.completed = 0
        self.failed = 0
        self.cancelled = 0
        self.suspended = 0
        self.attempts = 0
        self.attempt_failures = 0

    def take_turn(self, commit: Commit | None, milestones: Milestones | None) -> None:
        """Count a turn that is durable."""
        self.turns += 1
        if commit is not None:  # a turn that changed nothing has none
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
        """Count a durable turn's milestones. `row` is the row that it committed."""
        self.started += passed.started
        self.suspended += passed.held
        # A run that is replaced has no turn of its own in which it ends.
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
        """The numbers as they are now, with those that other parts of the node have."""
        # Each is one integer, so that a thread may read them while the loop counts.
        counted = {name: getattr(self, name) for name in self.__slots__}
        return NodeMetrics(**counted, residents=residents, running=running, waiting=waiting)
