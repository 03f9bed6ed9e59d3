"""Deleting instances with their trees, and pruning the histories of ended executions.

The client finds the instances. Each is then removed by its owner, in a commit of its own. A tree
that has ended goes from its leaves to its root. A running one (`force`) goes from its root to its
leaves, because a parent that is gone starts no other child. If this process dies in between, the
same call again removes the rest.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TypeAlias, cast

import msgspec

from perdure.client.filter import time_ms
from perdure.client.gateway import Gateway, find_row, find_unit
from perdure.client.tree import children_of, levels_below
from perdure.errors import HasParent, NotFound, StillRunning, UsageError
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED, ExecutionRow, UnitRow
from perdure.ports.store import Executions, Units

AT_ONCE = 200
"""Requests that are under way at the same time, so that the store can group their commits."""

Choose: TypeAlias = Callable[[list[UnitRow]], Awaitable[list[UnitRow]]]
DeleteOne: TypeAlias = Callable[[str], Awaitable[int]]
"""Removes an instance with its tree, by its id. Returns the number of instances."""
PruneOne: TypeAlias = Callable[[str], Awaitable[list[int]]]
"""Prunes an instance, by its id. Returns the numbers of the executions that were removed."""


@dataclass(frozen=True, slots=True)
class Removed:
    """The result of a bulk delete.

    `deleted` are the roots that are gone (with their trees). `instances` counts all instances of
    these trees. `skipped` are the ids that stayed, each with the reason. `more` says that the limit
    was reached and others may fit.
    """

    deleted: list[str] = field(default_factory=list[str])
    instances: int = 0
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    more: bool = False


@dataclass(frozen=True, slots=True)
class Pruned:
    """The result of a bulk prune: removed executions by instance, and whether others may fit."""

    executions: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    more: bool = False


# ---------------------------------------------------------------- deleting


async def delete(gateway: Gateway, unit: str, body: msg.Delete) -> int:
    """Remove an instance, and with `cascade` its descendants. Returns the number of instances.

    Raises:
        NotFound: no instance has this id.
        StillRunning: it or a descendant has not ended, and `force` is not set. Nothing was removed.
        HasParent: its parent is there, and `force` is not set. Nothing was removed.
    """
    root: list[UnitRow] = []
    missing: NotFound | None = None
    try:
        root = [(await find_unit(gateway.store, unit)).row]
    except NotFound as error:
        missing = error
    # The root was read first: a root that has ended has all its children by now.
    below = []
    if body.cascade:
        below = await levels_below(gateway.store, unit)
    # Descendants without their root remain of an earlier call that was interrupted.
    if missing is not None and not below:
        raise missing
    descendants = list(chain.from_iterable(below))
    if body.force:
        return await _remove_downwards(gateway, unit, descendants, body)
    await _check_removable(gateway, unit, [*root, *descendants])
    removed = 0
    inner = _in_tree(body)
    for level in reversed(below):
        removed += await _remove(gateway, _ids(level), inner)
    return removed + await _remove(gateway, _ids(root), body)


def _in_tree(body: msg.Delete) -> msg.Delete:
    """The request for a descendant. Its parent goes, too, so the parent is not told."""
    return msgspec.structs.replace(body, tell_parent=False)


def _ids(rows: Sequence[UnitRow]) -> list[str]:
    return [row.id for row in rows]


async def _remove_downwards(
    gateway: Gateway, unit: str, known: list[UnitRow], body: msg.Delete
) -> int:
    """Remove a tree that may still grow. Returns the number of instances.

    A unit that is gone starts no child, so the children of a level are looked for after the level
    has gone. Deleting a parent also deletes its open children, perhaps before they are reached
    here. `known` lists the descendants that were read beforehand.
    """
    ok = await _remove(gateway, [unit], body)
    root_went = ok == 1
    seen = {unit}
    if body.cascade:
        level = await _children(gateway, [unit], known, seen)
        while level:
            ok += await _remove(gateway, level, _in_tree(body))
            level = await _children(gateway, level, known, seen)
    # Descendants that went with their parents gave no outcome here, so they are counted by id. If
    # the root did not go by this call, another call may have removed the others as well.
    if root_went:
        return len(seen)
    return ok


async def _children(
    gateway: Gateway, parents: list[str], known: list[UnitRow], seen: set[str]
) -> list[str]:
    """The ids below `parents` that were not seen before. They are added to `seen`."""
    born: list[str] = []
    for parent in parents:
        born += _ids(await children_of(gateway.store, parent))
    above = set(parents)
    born += [row.id for row in known if row.parent_unit in above]
    level: list[str] = []
    for unit in born:
        if unit not in seen:
            seen.add(unit)
            level.append(unit)
    return level


async def _check_removable(gateway: Gateway, unit: str, rows: list[UnitRow]) -> None:
    # All are checked before the first is removed, so that a refusal changes nothing.
    for row in rows:
        if row.status not in CLOSED:
            _refuse(unit, row.id, f"is {row.status}")
    parent = next((row.parent_unit for row in rows if row.id == unit), None)
    if parent is None:
        return
    # A child whose parent is gone is a root.
    if await find_row(gateway.store, parent) is not None:
        text = (
            f"{unit!r} is a child of {parent!r} and goes with it: "
            "delete the root of its tree, or use force=True"
        )
        raise HasParent(text)


def _refuse(unit: str, blocking: str, state: str) -> None:
    if blocking == unit:
        what = f"{unit!r}"
    else:
        what = f"{unit!r} was not deleted: its descendant {blocking!r}"
    text = f"{what} {state}; cancel it and wait for its end, or delete with force=True"
    raise StillRunning(text)


async def _remove(gateway: Gateway, units: Sequence[str], body: msg.Delete) -> int:
    removed = 0
    for first in range(0, len(units), AT_ONCE):
        some = units[first : first + AT_ONCE]
        outcomes = await asyncio.gather(*(_ask(gateway, unit, body) for unit in some))
        # The owner decides: a unit may have begun a new run since its row was read.
        for unit, outcome in zip(some, outcomes, strict=True):
            if outcome == "open":
                _refuse(unit, unit, "has been started again meanwhile")
        removed += sum(outcome == "ok" for outcome in outcomes)
    return removed


async def _ask(gateway: Gateway, unit: str, body: msg.Delete | msg.Prune) -> str:
    return await gateway.send(msg.Message(os.urandom(16), unit, body, gateway.clock.now_ms()))


async def delete_many(
    gateway: Gateway, filters: Units, delete_one: DeleteOne, limit: int
) -> Removed:
    """Remove the instances that fit the filters, newest first, each with its tree.

    An instance is skipped that `delete_one` refuses, because it has not ended or is a child.
    Filters look for roots only.
    """
    check_limit(limit)
    wanted: Choose = partial(_roots, gateway)
    if filters.ids:
        wanted = _named
    rows, more = await _matching(gateway, filters, limit, wanted)
    deleted: list[str] = []
    instances = 0
    # An id without a row is skipped. With `more` it may fit, and was only not looked at.
    skipped = {}
    if not more:
        skipped = dict.fromkeys(filters.ids, "no instance fits this id and the filters")
    for first in range(0, len(rows), AT_ONCE):
        units = [row.id for row in rows[first : first + AT_ONCE]]
        outcomes = await asyncio.gather(*(_delete_or_say_why(delete_one, unit) for unit in units))
        for unit, outcome in zip(units, outcomes, strict=True):
            if isinstance(outcome, str):
                skipped[unit] = outcome
            else:
                skipped.pop(unit, None)
                deleted.append(unit)
                instances += outcome
    return Removed(deleted, instances, skipped, more)


async def _delete_or_say_why(delete_one: DeleteOne, unit: str) -> int | str:
    try:
        return await delete_one(unit)
    except (StillRunning, HasParent, NotFound) as error:
        return str(error)


async def _matching(
    gateway: Gateway, filters: Units, limit: int, wanted: Choose
) -> tuple[list[UnitRow], bool]:
    """At most `limit` rows that fit the filters and are wanted, newest first, and whether there may
    be more.
    """
    rows: list[UnitRow] = []
    after: str | None = None
    while True:
        page = await gateway.store.query(msgspec.structs.replace(filters, limit=500, after=after))
        rows += await wanted([view.row for view in page.items])
        after = page.next
        if len(rows) >= limit:
            more = after is not None or len(rows) > limit
            return rows[:limit], more
        if after is None:
            return rows, False


async def _named(rows: list[UnitRow]) -> list[UnitRow]:
    """All rows, because each was named by its id."""
    return rows


async def _roots(gateway: Gateway, rows: list[UnitRow]) -> list[UnitRow]:
    """Rows without a parent: the others go with theirs."""
    parents = tuple({row.parent_unit for row in rows if row.parent_unit is not None})
    if not parents:
        return rows
    page = await gateway.store.query(Units(ids=parents, limit=len(parents)))
    # A child whose parent is gone is removed as a root.
    there = {view.row.id for view in page.items}
    return [row for row in rows if row.parent_unit not in there]


async def _with_past(rows: list[UnitRow]) -> list[UnitRow]:
    """Rows that have executions to prune."""
    return [row for row in rows if row.execution > 1]


def check_limit(limit: object) -> None:
    """Refuse a limit that is none.

    Raises:
        UsageError: it is not a whole number of at least 1.
    """
    if not _is_whole(limit, 1):
        text = f"limit must be a whole number of at least 1, got {limit!r}"
        raise UsageError(text)


def _is_whole(value: object, least: int) -> bool:
    # bool is a subclass of int, and `keep_last=True` is a mistake.
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# ---------------------------------------------------------------- pruning


@dataclass(frozen=True, slots=True)
class Keep:
    """Which ended executions stay.

    The last ones stay (the current one counts), and those that ended at a time (ms) or later. With
    both given, an execution goes only if both let it go. The current execution always stays.
    """

    last: int | None
    closed_before_ms: int | None

    def goes(self, row: ExecutionRow, current: int) -> bool:
        """Whether the history of an ended execution is removed."""
        if self.last is not None and row.execution > current - max(self.last, 1):
            return False
        return self.closed_before_ms is None or row.closed_at < self.closed_before_ms


def keep(last: object, closed_before: object) -> Keep:
    """The executions that a prune keeps.

    Raises:
        UsageError: neither is given, or one has an impossible value.
    """
    if last is None and closed_before is None:
        text = "say which executions go: keep_last=10, closed_before=datetime(...), or both"
        raise UsageError(text)
    if last is not None and not _is_whole(last, 0):
        text = f"keep_last must be a whole number, got {last!r}"
        raise UsageError(text)
    return Keep(cast("int | None", last), time_ms("closed_before", closed_before))


async def prune(gateway: Gateway, unit: str, kept: Keep) -> list[int]:
    """Remove the histories of ended executions. Returns their numbers.

    Raises:
        NotFound: no instance has this id.
    """
    current = (await find_unit(gateway.store, unit)).row.execution
    going: list[int] = []
    after: str | None = None
    while True:
        page = await gateway.store.query(Executions(unit=unit, after=after))
        going += [row.execution for row in page.items if kept.goes(row, current)]
        after = page.next
        if after is None:
            break
    if going:
        await _ask(gateway, unit, msg.Prune(going))
    return going


async def prune_many(gateway: Gateway, filters: Units, prune_one: PruneOne, limit: int) -> Pruned:
    """Prune the instances that fit the filters, running ones too.

    At most `limit` instances are pruned. Instances without a past do not count.
    """
    check_limit(limit)
    rows, more = await _matching(gateway, filters, limit, _with_past)
    removed: dict[str, list[int]] = {}
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first : first + AT_ONCE]
        lists = await asyncio.gather(*(_prune_if_there(prune_one, row.id) for row in some))
        removed |= {row.id: numbers for row, numbers in zip(some, lists, strict=True) if numbers}
    return Pruned(removed, more)


async def _prune_if_there(prune_one: PruneOne, unit: str) -> list[int]:
    try:
        return await prune_one(unit)
    except NotFound:
        return []  # it was deleted meanwhile
