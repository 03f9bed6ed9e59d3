"""Refusals: how a node goes on after a commit that the store has not accepted.

stale     another commit came first: load the unit, and take the turn again
fenced    another node owns the scope: give up all of it
invalid   the turn is never recorded: take it again, and suspend the instance if that does not help
sql       a statement of the program cannot run: the same
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import SqlRefused
from perdure.runlog import show_logs

if TYPE_CHECKING:
    from perdure.kernel.data.commit import Verdict
    from perdure.kernel.unit.turn import Turn
    from perdure.node.loop.memory import Memory
    from perdure.node.loop.residents import Resident
    from perdure.node.surroundings import Surroundings


class Refusals:
    """Takes units that were refused back to where they can go on from."""

    def __init__(self, given: Surroundings, memory: Memory) -> None:
        """Units leave `memory`, or are loaded there again."""
        self._given = given
        self._memory = memory

    def take(self, resident: Resident, turn: Turn, verdict: Verdict, *, unsure: bool) -> None:
        """The commit of a turn was refused.

        `unsure`: an earlier try may have been applied without an answer.
        """
        given, memory = self._given, self._memory
        given.tally.refuse_commit()
        if given.metrics is not None:
            kind: str = "sql"
            if not isinstance(verdict, SqlRefused):
                kind = verdict
            given.metrics.refused(kind)
        if isinstance(verdict, SqlRefused) or verdict == "invalid":
            # The same turn is never recorded. After `stale` and `fenced` it is taken again, and its
            # records are shown then.
            show_logs(turn.logs, discarded=True)
        if isinstance(verdict, SqlRefused):
            statement = f"the statement {verdict.statement} of its commit ({verdict.why})"
            memory.discard(resident, f"the store cannot run {statement}")
        elif verdict == "stale":
            memory.reload(resident)
        elif verdict == "fenced":
            self._fenced(resident, unsure=unsure)
        elif resident.unit.held is None:
            memory.discard(resident, "the store refused its commit as invalid")
        else:
            # The turn was to record why the unit is held. Another one would do the same.
            memory.refuse(resident, "the store refused the commit as invalid")

    def _fenced(self, resident: Resident, *, unsure: bool) -> None:
        """Another node owns the scope. Nothing of it may be done here any more."""
        given, unit, scope = self._given, resident.unit, resident.scope
        if unsure:
            # A new owner has written since. Which of the two took the messages cannot be known.
            text = f"the request for {unit.id!r} may have been recorded: another node owns it now"
            resident.refuse_taken(StoreUnavailable(text, "unknown"))
        if given.ownership.is_alone:
            # A node without a cluster is assigned no other scope, so it stops.
            self._memory.refuse(resident, "another node owns its scope now")
            text = (
                f"another node has taken over what node {given.node_name!r} owned (found at a"
                f" commit of {unit.id!r}). Nothing that was acknowledged is lost. Look for a"
                " second node on the same store"
            )
            given.failed(StoreUnavailable(text))
            return
        self._memory.expel(resident, unit.row)
        if scope is not None:
            given.ownership.lose(scope)
