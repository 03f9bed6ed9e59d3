"""The budget of a turn: how much one unit may do before the others have their turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel.data import message as msg

if TYPE_CHECKING:
    from collections.abc import Callable


class Budget:
    """So many deliveries, so many bytes, and as much time as the owner gives.

    `is_spent` looks at the owner's clock, because the kernel has none.
    """

    __slots__ = ("_bytes", "_is_spent", "_messages", "_used")

    def __init__(self, messages: int, size: int, is_spent: Callable[[], bool]) -> None:
        """Nothing is used yet. `size` is in bytes."""
        self._messages = messages
        self._bytes = size
        self._is_spent = is_spent
        self._used = 0

    def has_room(self) -> bool:
        """Whether the turn may take another message."""
        # The first message always fits. A unit whose single message is too large would never go on.
        if not self._used:
            return True
        return self._used < self._messages and self._bytes > 0 and not self._is_spent()

    def use(self, size: int) -> None:
        """Count one delivery of so many bytes."""
        self._used += 1
        self._bytes -= size


def size_of(body: msg.Body) -> int:
    """Bytes that the delivery of a message writes into the journal, but for its envelope."""
    if isinstance(body, (msg.ActivityDone, msg.Reply)):
        return len(body.result or b"")
    if isinstance(body, (msg.Send, msg.Raise)):
        return len(body.value)
    if isinstance(body, msg.CheckpointDone):
        return len(body.value or b"")
    return 0
