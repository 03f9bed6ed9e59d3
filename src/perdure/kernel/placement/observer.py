"""The observer: which members of a cluster are dead, as far as this node has seen itself.

Clocks of nodes are never compared. A member is dead when its beat has stood still for its whole
lease while this node looked at it regularly. A node that was stopped itself, or could not reach the
cluster, has not looked, and begins to watch anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from perdure.ports.cluster import Seen, View

DISCONNECTED_MS = 2_000
"""A member whose session has ended is dead after this time: its process has most likely ended."""

_GAP_PART = 2
"""A watch begins anew when this part of the lease has passed without a look."""


class _Watch(NamedTuple):
    """What was seen of a member: its beat, since when, and since when it was disconnected."""

    beat: int
    since_ms: int
    looked_ms: int
    disconnected_ms: int | None


class Observer:
    """Watches the members of a cluster."""

    def __init__(self) -> None:
        """Nothing has been seen."""
        self._watches: dict[str, _Watch] = {}

    def look(self, view: View, now_ms: int) -> list[Seen]:
        """Take note of a view, and return the members that are dead.

        `now_ms` is when the view was asked for or later, on a clock that is never set.
        """
        before = self._watches
        self._watches = {}
        dead: list[Seen] = []
        for seen in view.members:
            id_ = seen.member.incarnation.id
            watch = _next(before.get(id_), seen, now_ms)
            self._watches[id_] = watch
            if _is_dead(watch, seen, now_ms):
                dead.append(seen)
        return dead


def _next(watch: _Watch | None, seen: Seen, now_ms: int) -> _Watch:
    """The watch after another look."""
    gap_ms = seen.member.lease_ms // _GAP_PART
    if watch is None or watch.beat != seen.beat or now_ms - watch.looked_ms > gap_ms:
        watch = _Watch(seen.beat, now_ms, now_ms, None)
    disconnected_ms: int | None = None
    if seen.is_connected is False:
        disconnected_ms = watch.disconnected_ms
        if disconnected_ms is None:
            disconnected_ms = now_ms
    return _Watch(seen.beat, watch.since_ms, now_ms, disconnected_ms)


def _is_dead(watch: _Watch, seen: Seen, now_ms: int) -> bool:
    if now_ms - watch.since_ms >= seen.member.lease_ms:
        return True
    gone_ms = watch.disconnected_ms
    return gone_ms is not None and now_ms - gone_ms >= DISCONNECTED_MS
