"""The lease of a node: how long it may act without having renewed it.

The node stops acting before the lease can pass to others. Its deadline counts from before the
renewal was sent. An expired lease may still be renewed if no other node has acted on that: the node
then goes on with all that it has in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.node.loop.freezer import Freezer
    from perdure.ports.clock import Alarm, Clock

_MARGIN_PART = 20
"""The node stops this part of its lease early, because its alarm may ring a little late."""


class Lease:
    """Freezes the node when its lease is over, and thaws it when the lease is renewed."""

    def __init__(self, freezer: Freezer, clock: Clock, lease_ms: int) -> None:
        """There is no lease yet."""
        self._freezer = freezer
        self._clock = clock
        self._margin_ms = lease_ms // _MARGIN_PART
        self._until_ms = 0
        self._alarm: Alarm | None = None
        self._is_given_up = False

    @property
    def holds(self) -> bool:
        """Whether the node may act now."""
        return self._clock.boot_ms() < self._until_ms

    def renew(self, until_ms: int) -> None:
        """The lease lasts until `until_ms` (boot time)."""
        if self._is_given_up:
            return  # a renewal that was under way when the node gave its seat up
        self._until_ms = max(self._until_ms, until_ms - self._margin_ms)
        if self.holds:
            self._freezer.lease_is_renewed()
            self._watch()

    def _watch(self) -> None:
        self._disarm()
        left_ms = self._until_ms - self._clock.boot_ms()
        self._alarm = self._clock.call_after(max(left_ms, 0), self._look)

    def _look(self) -> None:
        if self.holds:
            self._watch()
        else:
            self._alarm = None
            self._freezer.lease_is_over()

    def give_up(self) -> None:
        """Watch the lease no longer, whatever comes."""
        self._is_given_up = True
        self._disarm()

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
