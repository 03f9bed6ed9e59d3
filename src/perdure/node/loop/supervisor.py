"""The supervisor: runs workflow code on the node's event loop, and stops what does not end.

Code that is loaded and code that takes a turn runs under the watchdog and inside the interceptors of
turns. Whatever it raises, and a turn that was interrupted, comes back as a value: `Discarded`, with
the cause for people.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

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

logger = logging.getLogger("perdure.node")


@dataclass(frozen=True, slots=True)
class Discarded:
    """A turn, or a load, that must count as never taken, and why."""

    cause: str


class Slice:
    """The share of time that one turn may use."""

    __slots__ = ("_ends_s", "_length_s")

    def __init__(self, length_ms: int) -> None:
        """Each turn has so much."""
        self._length_s = length_ms / 1000
        self._ends_s = 0.0

    def begin(self) -> None:
        """A turn begins."""
        self._ends_s = monotonic() + self._length_s

    def is_spent(self) -> bool:
        """Whether the turn has had its share."""
        return monotonic() >= self._ends_s


class Supervisor:
    """Loads units and has them take turns."""

    def __init__(self, given: Surroundings) -> None:
        """Nothing runs yet."""
        options = given.options
        self._watchdog = given.watchdog
        self._clock = given.clock
        self._limit_ms = options.turn_limit_ms
        self._interceptors = overriding(given.interceptors, "turn")
        self._slice = Slice(options.turn_slice_ms)
        self._node_name = given.node_name

    def load(self, resident: Resident, found: Loaded) -> Discarded | None:
        """Give a unit what is stored of it, which replays its code."""
        unit, released = resident.unit, resident.released

        def body() -> None:
            unit.load(found, released=released)

        return self._guarded(unit, body)

    def advance(
        self, resident: Resident, fence: Fence, commit_id: bytes
    ) -> Turn | Working | Discarded:
        """Have a unit take a turn with what is in its mailbox."""
        unit, mailbox = resident.unit, resident.mailbox
        turn: Turn | Working | None = None

        def advance() -> None:
            nonlocal turn
            self._slice.begin()
            now = self._clock.now_ms()
            turn = unit.advance(mailbox, now, fence, commit_id, self._slice.is_spent)

        body = advance
        # A unit that is set aside runs no code, so an interceptor that fails must not stop that turn.
        if self._interceptors and not unit.is_poison:
            info = TurnInfo(unit.id, len(mailbox))

            def advance_inside() -> None:
                advance()
                assert turn is not None
                # A turn whose work is not over commits when that has ended.
                info.commits = not isinstance(turn, Turn) or turn.commit is not None
                if unit.row is not None:
                    info.workflow, info.execution = unit.row.type, unit.row.execution

            def intercepted() -> None:
                around_turn(self._interceptors, info, advance_inside)

            body = intercepted
        discarded = self._guarded(unit, body)
        if discarded is not None:
            return discarded
        assert turn is not None
        return turn

    def _guarded(self, unit: Unit, body: Callable[[], None]) -> Discarded | None:
        try:
            stuck = self._watchdog.run(unit.id, body)
        except NeverIdle as error:
            return Discarded(f"{error}, at {_line(unit, [])}")
        except Exception as error:
            logger.exception("a turn of %r failed", unit.id, extra=ids_of(unit, self._node_name))
            return Discarded(f"{type(error).__name__}: {error}")
        if stuck is not None:
            line = _line(unit, stuck.stack)
            return Discarded(f"it took longer than {self._limit_ms} ms, at {line}")
        return None


def ids_of(unit: Unit, node_name: str) -> dict[str, object]:
    """What log records about a unit carry."""
    ids: dict[str, object] = {"node": node_name, "instance": unit.id}
    row = unit.row
    if row is not None:
        ids |= {"execution": row.execution, "workflow": row.type, "version": row.type_version}
    return ids


def _line(unit: Unit, stack: list[str]) -> str:
    """Where the code of a turn that was stopped is."""
    line = user_line(stack) or unit.where()
    if line is not None:
        return line
    return stack[-1] if stack else "an unknown line"
