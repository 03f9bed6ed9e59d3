"""The ready queue: units that wait for their turn, in order, and when the next of them has it."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.node.loop.residents import Resident
    from perdure.node.ownership.ownership import Ownership

_SLICE_S = 0.01
"""Turns are taken for so long in one go. Then the node's event loop gets its turn."""

_MANY = 256
"""With so many turns waiting, no unit is loaded only because it is due: a message would wait behind
them all."""


class Ready:
    """Gives each unit its turn, and calls `round_over` after each round of turns.

    A unit may have left the ready state while it waited. It is then passed over.
    """

    def __init__(
        self,
        ownership: Ownership,
        turn: Callable[[Resident], None],
        round_over: Callable[[], None],
        is_behind: Callable[[], bool],
    ) -> None:
        """Nothing waits. While the store `is_behind`, no other round follows."""
        self._ownership = ownership
        self._turn = turn
        self._round_over = round_over
        self._is_behind = is_behind
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Resident] = deque()
        self._scheduled = False
        self._waits_for_store = False

    def __bool__(self) -> bool:
        """Whether a unit waits for its turn."""
        return bool(self._queue)

    @property
    def is_busy(self) -> bool:
        """Whether so many turns wait that units which are only due should stay on disk for now."""
        return len(self._queue) >= _MANY

    def add(self, resident: Resident) -> None:
        """Give the unit its turn, behind those that wait already."""
        resident.get_ready()
        self.queue(resident)

    def queue(self, resident: Resident) -> None:
        """Give a unit its turn that has become ready."""
        self._queue.append(resident)
        if not self._scheduled:  # `schedule`, written out: each message comes by here
            self._scheduled = True
            self._loop.call_soon(self.run)

    def schedule(self) -> None:
        """Take turns when the event loop comes to it."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.run)

    def go_on(self) -> None:
        """The store, which was behind, has answered: take turns that have waited for that."""
        if self._waits_for_store:
            self._waits_for_store = False
            self._loop.call_soon(self.run)

    def run(self) -> None:
        """Take a round of turns."""
        self._scheduled = False
        if self._ownership.is_frozen:
            return  # the thaw schedules the next round
        queue = self._queue
        # A turn may make other units ready, and these belong to the round too. So its only limit is
        # the time.
        ends_s = monotonic() + _SLICE_S
        while queue:
            resident = queue.popleft()
            if resident.state == "ready":
                self._turn(resident)
            if monotonic() >= ends_s:
                break
        self._round_over()
        if not queue:
            return
        if self._is_behind():
            # Turns that only wait for the store would cost memory, and the collector's time. Units
            # that become ready meanwhile schedule nothing.
            self._waits_for_store = True
            self._scheduled = True
        else:
            self.schedule()
