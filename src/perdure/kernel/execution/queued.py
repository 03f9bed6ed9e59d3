"""Queued calls: activities of an execution that are tasks in the store, for workers.

The execution notes which of its calls they are, and which of their tasks are stored. The turn adds
tasks that are missing and drops those that are not wanted any more (`kernel/unit/tasks.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.kernel.data.definition import ActivityOptions

IsQueued = Callable[[ActivityOptions], bool]
"""Whether calls with these options are tasks for workers."""


def never_queued(_options: ActivityOptions) -> bool:
    """No call is: the node of the instance runs all of them."""
    return False


class QueuedCalls:
    """The open calls that are tasks, each with the attempt whose task is stored."""

    __slots__ = ("_attempts", "_dropped", "_joined")

    def __init__(self) -> None:
        """There are none."""
        # By the number of the call. 0: none of its tasks is stored.
        self._attempts: dict[int, int] = {}
        # A stored task whose call the replay has not given yet is not among the open calls.
        self._joined: set[int] = set()
        self._dropped: list[tuple[int, int]] = []

    def know(self, seq: int, attempt: int) -> None:
        """A task of this call is stored."""
        self._attempts[seq] = attempt

    def has(self, seq: int) -> bool:
        """Whether a call is one of them, or a task of it is stored."""
        return seq in self._attempts

    def join(self, seq: int) -> bool:
        """The call is one of them from now on, which is True."""
        self._attempts.setdefault(seq, 0)
        self._joined.add(seq)
        return True

    def leave(self, seq: int) -> bool:
        """The call has its answer, or is cancelled: its task goes. False: it is none of them."""
        if seq not in self._joined:
            return False
        self._joined.remove(seq)
        self._drop(seq, self._attempts.pop(seq))
        return True

    def needs_task(self, seq: int, attempt: int) -> bool:
        """Whether the task of this attempt is to be stored. It counts as stored from then on.

        The task of another attempt of the call goes.
        """
        stored = self._attempts[seq]
        # After a load it mostly is: the owner before has added it.
        if stored == attempt:
            return False
        self._drop(seq, stored)
        self._attempts[seq] = attempt
        return True

    def leave_all(self) -> None:
        """The execution has ended, and no task of it is wanted."""
        for seq, attempt in self._attempts.items():
            self._drop(seq, attempt)
        self._attempts.clear()
        self._joined.clear()

    def _drop(self, seq: int, attempt: int) -> None:
        if attempt:
            self._dropped.append((seq, attempt))

    def is_open(self, seq: int) -> bool:
        """Whether an open call is one of them."""
        return seq in self._joined

    @property
    def has_dropped(self) -> bool:
        """Whether there are tasks to drop."""
        return bool(self._dropped)

    def take_dropped(self) -> list[tuple[int, int]]:
        """The calls and attempts whose tasks are not wanted any more, since the last question."""
        dropped = self._dropped
        self._dropped = []
        return dropped
