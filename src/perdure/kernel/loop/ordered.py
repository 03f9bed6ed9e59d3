"""Sets that iterate in insertion order, for asyncio and anyio while a workflow runs.

`asyncio.wait`, `TaskGroup` and anyio's groups keep tasks in sets. They cancel or return the tasks
in the set's order. Within a workflow that order must not depend on how a hash table happens to be
laid out. So those modules find our `set` where they look for the built-in one. Outside of workflows
they still get the built-in.

A unit calls `install` before the first turn of its run.
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


# It stays a set, and has the items twice: code in C looks into the set itself.
class OrderedSet(set[Any]):
    """A set that iterates in insertion order.

    Only the methods that asyncio and anyio use keep the order.
    """

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
        """Remove. Raises KeyError if the item is not there."""
        # The set first: it raises, and then the order stays as it is.
        super().remove(item)
        self._order.pop(item, None)

    def pop(self) -> Any:
        """Remove and return the oldest item."""
        item = next(iter(self._order), None)
        if item is None:
            # Empty. The built-in raises the right error.
            return super().pop()
        self.remove(item)
        return item

    def clear(self) -> None:
        """Remove all."""
        self._order.clear()
        super().clear()


def install() -> None:
    """Let asyncio, and anyio when it is imported, use sets that iterate in order. Idempotent."""
    # A module's globals are looked up before the built-ins, so a name in them is enough.
    if asyncio.tasks.__dict__.get("set") is not _set:
        asyncio.tasks.__dict__["set"] = _set
        asyncio.taskgroups.__dict__["set"] = _set
        asyncio.tasks.__dict__["coroutines"] = _COROUTINES
        asyncio.tasks.all_tasks = _all_tasks
        asyncio.all_tasks = _all_tasks
    # anyio imports its backend at the first use, which would be inside a turn. So it is done here.
    if "anyio" in sys.modules:
        backend = importlib.import_module("anyio._backends._asyncio")
        if backend.__dict__.get("set") is not _set:
            backend.__dict__["set"] = _set


def _set(items: Iterable[Any] = ()) -> set[Any]:
    if current_loop() is None:
        return set(items)
    return OrderedSet(items)


_builtin_all_tasks = asyncio.tasks.all_tasks


def _all_tasks(loop: asyncio.AbstractEventLoop | None = None) -> set[asyncio.Task[Any]]:
    """The tasks of a workflow's own loop, in order."""
    own = current_loop()
    if own is None or loop not in (None, own):
        return _builtin_all_tasks(loop)
    # asyncio's own registry has the tasks of the whole process, in no order.
    return OrderedSet(t for t in own.tasks if not t.done())


def _is_coroutine(thing: object) -> bool:
    # A call is a future and a coroutine. `asyncio.wait` refuses coroutines, and takes futures.
    return not asyncio.isfuture(thing) and asyncio.coroutines.iscoroutine(thing)


_COROUTINES = SimpleNamespace(**(vars(asyncio.coroutines) | {"iscoroutine": _is_coroutine}))
