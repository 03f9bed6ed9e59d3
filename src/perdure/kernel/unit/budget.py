"""The budget of a turn: how much one unit may do before the others have their turn.

The turn asks it before each message. The rest waits for the unit's next turn.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from perdure.kernel.data import message as msg


def never_spent() -> bool:
    """The share of time of a turn that has no end."""
    return False


class Budget(msgspec.Struct, eq=False):
    """So many deliveries, so many bytes, and as much time as the owner gives.

    `is_spent` looks at the owner's clock, because the kernel has none.
    """

    _messages: int
    _bytes: int
    _is_spent: Callable[[], bool]
    # Deliveries so far. The first message always fits: a unit whose single message is too large
    # would never go on.
    used: int = 0

    def has_room(self) -> bool:
        """Whether the turn may take another message."""
        if not self.used:
            return True
        return self.used < self._messages and self._bytes > 0 and not self._is_spent()

    def use(self, size: int) -> None:
        """Count one delivery of so many bytes."""
        self.used += 1
        self._bytes -= size

    def take(self, body: msg.Body) -> None:
        """Count the delivery of a message, and the bytes that it writes into the journal."""
        self.used += 1
        # But for its envelope.
        if isinstance(body, (msg.ActivityDone, msg.Reply)):
            self._bytes -= len(body.result or b"")
        elif isinstance(body, (msg.Send, msg.Raise)):
            self._bytes -= len(body.value)
        elif isinstance(body, msg.CheckpointDone):
            self._bytes -= len(body.value or b"")
