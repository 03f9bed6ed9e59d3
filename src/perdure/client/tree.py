"""Trees of instances: an instance, its children, and theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perdure.client.description import Description, describe_row
from perdure.client.gateway import find_unit
from perdure.errors import LimitExceeded
from perdure.kernel.data.commit import UnitRow
from perdure.ports.store import ClientStore, Units

TREE_INSTANCES_MAX = 100_000
"""Instances of one tree that are read at most."""


@dataclass(frozen=True, slots=True)
class Tree:
    """An instance and its children, oldest child first. Detached instances have no parent."""

    instance: Description
    children: tuple[Tree, ...] = ()

    def walk(self) -> Iterator[Description]:
        """All instances of the tree, each one before its children."""
        # A stack instead of recursion: a tree may be deeper than Python can recurse.
        waiting: list[Tree] = [self]
        while waiting:
            tree = waiting.pop()
            yield tree.instance
            waiting.extend(reversed(tree.children))


async def children_of(store: ClientStore, unit: str) -> list[UnitRow]:
    """The rows of the children of a unit, oldest first."""
    rows: list[UnitRow] = []
    after: str | None = None
    while True:
        page = await store.query(Units(parent=unit, limit=500, after=after))
        rows += [view.row for view in page.items]
        after = page.next
        if after is None:
            return rows[::-1]  # stores list the newest first


async def levels_below(store: ClientStore, unit: str) -> list[list[UnitRow]]:
    """The rows of all descendants of a unit: its children, their children, and so on.

    Raises:
        LimitExceeded: there are more than `TREE_INSTANCES_MAX`.
    """
    levels: list[list[UnitRow]] = []
    seen = {unit}
    parents = [unit]
    while parents:
        level: list[UnitRow] = []
        for parent in parents:
            level += await children_of(store, parent)
        # The tree may change between these queries, so that an id comes up twice.
        level = [row for row in level if row.id not in seen]
        parents = [row.id for row in level]
        seen.update(parents)
        if level:
            levels.append(level)
        if len(seen) > TREE_INSTANCES_MAX:
            msg = (
                f"the tree of {unit!r} has more than {TREE_INSTANCES_MAX} instances; "
                "look at a part of it"
            )
            raise LimitExceeded(msg)
    return levels


async def read_tree(store: ClientStore, unit: str) -> Tree:
    """The tree below a unit.

    Raises:
        NotFound: no instance has this id.
        LimitExceeded: the tree is too large.
    """
    root = (await find_unit(store, unit)).row
    children: dict[str, list[Tree]] = {}
    # From the leaves up, so that the children of each instance are complete when it is made.
    for level in reversed(await levels_below(store, unit)):
        for row in level:
            child = Tree(describe_row(row), tuple(children.pop(row.id, ())))
            children.setdefault(row.parent_unit or "", []).append(child)
    return Tree(describe_row(root), tuple(children.get(unit, ())))
