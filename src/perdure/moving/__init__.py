"""Moving house: everything that a store has, into another store of any kind.

    await move("sqlite:///shop.db", "postgresql://db/shop")

Instances, histories, timers, waiting messages, tasks, answers and dead letters move. The old store
then refuses work, and names the new one.
"""

from __future__ import annotations

from perdure.moving.mover import Moved, Mover, Plan, Progress, Report, Side, silent
from perdure.ports.store import Store
from perdure.store import is_there, open_store, with_option, without_password

__all__ = ["Moved", "Plan", "Progress", "give_up", "move", "plan"]


async def move(source: str | Store, target: str | Store, *, report: Report = silent) -> Moved:
    """Move everything from one store into another, which is new and empty.

    Stop all nodes before. A move that was interrupted goes on when it is called again with the same
    stores. `report` is called after each part. Stores that are given as objects are not open.

    Raises:
        StoreLocked: a node runs on one of them, or another process moves one of them.
        StoreMoved: one of them takes part in another move. The message says in which.
        StoreError: a store cannot be opened, or the rows differ after the copy.
        UsageError: the target is not empty, or one of them cannot be moved.
    """
    async with _there(source) as old, open_store(target) as new:
        return await Mover(Side(old), Side(new), report).run()


async def plan(source: str, target: str) -> Plan:
    """What a move would do. Nothing is changed, and no store is made.

    Raises:
        StoreError: as `move`.
        UsageError: as `move`.
    """
    async with _there(source) as old:
        if await is_there(target):
            async with open_store(target) as new:
                return await Mover(Side(old), Side(new)).plan()
        return await Side(old).plan(without_password(target))


async def give_up(source: str | Store, target: str | Store) -> None:
    """Take a store back whose move was interrupted. The target loses what was copied so far.

    Raises:
        StoreLocked: a node runs on one of them, or a process moves one of them.
        StoreMoved: the source is being moved to another store.
        UsageError: there is no such move, or it is done.
    """
    async with _there(source) as old, open_store(target) as new:
        await Mover(Side(old), Side(new)).give_up()


def _there(source: str | Store) -> Store:
    """The source, which is not made when it is not there."""
    if isinstance(source, str) and not source.startswith("memory:"):
        source = with_option(source, "create", "false")
    return open_store(source)
