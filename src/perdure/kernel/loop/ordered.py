"""Sets that iterate in insertion order, for asyncio and anyio while a workflow runs.

`asyncio.wait`, `TaskGroup` and anyio's groups keep tasks in sets and cancel or return them in the set's order. Within
a workflow that order must not depend on how a hash table happens to be laid out, so those modules find our `set`
where they look for the built-in one; outside of workflows they still get the built-in.
"""

from __future__ import annotations

import asyncio
import asyncio.coroutines
import asyncio.taskgroups
import asyncio.tasks
import importlib
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from perdure.kernel.loop.loop import current_loop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class OrderedSet(set[Any]):
    """A set that iterates in insertion order; only what asyncio and anyio use is ordered."""

    __slots__ = ("_order",)

    def __init__(self, items: Iterable[Any] = ()) -> None:
        """A set of the items in their order."""
        self._order: dict[Any, None] = dict.fromkeys(items)
        super().__init__(self._order)

    def __iter__(self) -> Iterator[Any]:
        """In order of insertion."""
        return iter(self._order)

    def add(self, item: Any) -> None:
        """Append, if new."""
        self._order[item] = None
        super().add(item)

    def discard(self, item: Any) -> None:
        """Remove, if there."""
        self._order.pop(item, None)
        super().discard(item)

    def remove(self, item: Any) -> None:
        """Remove; KeyError if it is not there."""
        super().remove(item)
        self._order.pop(item, None)

    def pop(self) -> Any:
        """Remove and return the oldest item."""
        item = next(iter(self._order), None)
        if item is None:
            return super().pop()
        self.remove(item)
        return item

    def clear(self) -> None:
        """Remove all."""
        self._order.clear()
        super().clear()


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return OrderedSet(items) if current_loop() is not None else set(items)


_builtin_all_tasks = asyncio.tasks.all_tasks


def _all_tasks(loop: asyncio.AbstractEventLoop | None = None) -> set[asyncio.Task[Any]]:
    """asyncio's own list is process-wide and ordered by chance; a workflow gets the tasks of its own loop, in
    order.
    """
    own = current_loop()
    if own is None or (loop is not None and loop is not own):
        return _builtin_all_tasks(loop)
    return OrderedSet(t for t in own.tasks if not t.done())


def _is_coroutine(thing: object) -> bool:
    """A call is a future and a coroutine; `asyncio.wait` takes it as the future that it is."""
    return not asyncio.isfuture(thing) and asyncio.coroutines.iscoroutine(thing)


_COROUTINES = SimpleNamespace(**(vars(asyncio.coroutines) | {"iscoroutine": _is_coroutine}))


def install() -> None:
    """Give asyncio, and anyio when it is imported, what iterates in order. Idempotent; called before the first turn
    of a run.
    """
    if asyncio.tasks.__dict__.get("set") is not _set:
        asyncio.tasks.__dict__["set"] = asyncio.taskgroups.__dict__["set"] = _set
        asyncio.tasks.__dict__["coroutines"] = _COROUTINES
        asyncio.tasks.all_tasks = asyncio.all_tasks = _all_tasks
    if (
        "anyio" in sys.modules
    ):  # it imports its backend at the first use, which would be inside a turn
        backend = importlib.import_module("anyio._backends._asyncio")
        if backend.__dict__.get("set") is not _set:
            backend.__dict__["set"] = _set
