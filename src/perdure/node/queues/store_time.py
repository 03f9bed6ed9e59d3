"""Store time: the time by which the nodes of a store measure leases.

Wall clocks of machines differ, and a lease that one of them gives is judged by another. So the
nodes of a shared store measure by the store's clock. A store that one machine has to itself gives
no better time than the node's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from perdure.ports.clock import Clock
    from perdure.ports.store import Store

_LOOK_AGAIN_MS = 60_000
"""How long a difference is taken to stay as it is. Clocks drift by milliseconds in that time."""


class StoreTime:
    """The time of the store, which goes on at the pace of the node between two answers."""

    def __init__(self, store: Store, clock: Clock, *, is_shared: bool) -> None:
        """The difference is not known yet."""
        self._store = store
        self._clock = clock
        self._is_shared = is_shared
        # What the store's clock is ahead of the time since the boot, which nobody sets.
        self._ahead_ms: int | None = None
        self._looked_at: int | None = None

    async def look(self) -> int:
        """The time of the store (ms). It is asked for when the last answer is old."""
        if self._is_shared and self._is_old:
            began = self._clock.boot_ms()
            try:
                now = await self._store.now()
            except StoreUnavailable:
                return self.now_ms()  # the caller's own question will say that it is away
            # The answer is from about the middle of the question.
            answered = self._clock.boot_ms()
            self._ahead_ms = now + (answered - began) // 2 - answered
            self._looked_at = answered
        return self.now_ms()

    @property
    def _is_old(self) -> bool:
        last = self._looked_at
        return last is None or self._clock.boot_ms() - last > _LOOK_AGAIN_MS

    def now_ms(self) -> int:
        """The time of the store, as far as it is known."""
        if self._ahead_ms is None:
            return self._clock.now_ms()
        return self._clock.boot_ms() + self._ahead_ms
