"""The supervisor: runs workflow code on the node's event loop, and stops code that does not end.

Code that is loaded and code that takes a turn runs under the watchdog. A turn also runs inside the
interceptors of turns. Any error of the code, and a turn that was interrupted, comes back as a
value: `Discarded`, with the cause for people.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from perdure.guard.watchdog import StuckTurn
from perdure.interceptor import TurnInfo, around_turn, overriding
from perdure.kernel.execution.match import user_line
from perdure.kernel.loop.loop import NeverIdle
from perdure.kernel.unit.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.kernel.data.commit import Fence
    from perdure.kernel.unit.kinds import Unit, Working
    from perdure.node.loop.residents import Resident
    from perdure.node.surroundings import Surroundings
    from perdure.ports.store import Loaded

T = TypeVar("T")

logger = logging.getLogger("perdure.node")


@dataclass(frozen=True, slots=True)
class Discarded:
    """A turn, or a load, that must count as never taken, and why."""

    cause: str


class Supervisor:
    """Loads units and has them take turns."""

    def __init__(self, given: Surroundings) -> None:
        """Nothing runs yet."""
        options = given.options
        self._watchdog = given.watchdog
        self._limit_ms = options.turn_limit_ms
        self._interceptors = overriding(given.interceptors, "turn")
        self._slice_s = options.turn_slice_ms / 1000
        self._node_name = given.node_name

    def load(self, resident: Resident, found: Loaded) -> Discarded | None:
        """Give a unit its row, its journal and its inbox, and replay its code."""
        unit = resident.unit
        return self._guarded(unit, partial(unit.load, found, released=resident.released))

    def advance(
        self, resident: Resident, now: int, fence: Fence, commit_id: bytes
    ) -> Turn | Working | Discarded:
        """Have a unit take a turn at time `now` (ms), with the messages in its mailbox."""
        unit, mailbox = resident.unit, resident.mailbox
        advance = partial(unit.advance, mailbox, now, fence, commit_id, self._is_spent)
        # A unit that is held runs no code, so an interceptor that fails must not stop that turn.
        if self._interceptors and not unit.is_poison:
            return self._guarded(unit, partial(self._intercepted, unit, len(mailbox), advance))
        return self._guarded(unit, advance)

    def _is_spent(self) -> bool:
        """Whether the turn that runs has had its share of time."""
        return monotonic() >= self._watchdog.began_s + self._slice_s

    def _intercepted(
        self, unit: Unit, messages: int, advance: Callable[[], Turn | Working]
    ) -> Turn | Working:
        """Take a turn inside the interceptors."""
        info = TurnInfo(unit.id, messages)
        # Interceptors have no value to pass on, so the turn comes back by this list.
        taken: list[Turn | Working] = []

        def advance_inside() -> None:
            turn = advance()
            taken.append(turn)
            # A turn whose work is not over commits when that has ended.
            info.commits = not isinstance(turn, Turn) or turn.commit is not None
            if unit.row is not None:
                info.workflow, info.execution = unit.row.type, unit.row.execution

        around_turn(self._interceptors, info, advance_inside)
        return taken[0]

    def _guarded(self, unit: Unit, body: Callable[[], T]) -> T | Discarded:
        try:
            found = self._watchdog.run(unit.id, body)
        except NeverIdle as error:
            # The workflow's loop has counted its callbacks. The watchdog need not wait for the end.
            return Discarded(f"{error}, at {_line(unit, [])}")
        except Exception as error:
            logger.exception("a turn of %r failed", unit.id, extra=ids_of(unit, self._node_name))
            return Discarded(f"{type(error).__name__}: {error}")
        if isinstance(found, StuckTurn):
            line = _line(unit, found.stack)
            return Discarded(f"it took longer than {self._limit_ms} ms, at {line}")
        return found


def ids_of(unit: Unit, node_name: str) -> dict[str, object]:
    """The ids in log records about a unit."""
    ids: dict[str, object] = {"node": node_name, "instance": unit.id}
    row = unit.row
    if row is not None:
        ids |= {"execution": row.execution, "workflow": row.type, "version": row.type_version}
    return ids


def _line(unit: Unit, stack: list[str]) -> str:
    """The line at which the code of a turn was stopped."""
    line = user_line(stack) or unit.where()
    if line is not None:
        return line
    if stack:  # a library runs without a line of the user's below it
        return stack[-1]
    return "an unknown line"
