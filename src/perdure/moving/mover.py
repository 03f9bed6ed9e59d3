"""Moving everything that a store has into another one.

Theory of operation. No node runs meanwhile. The target is sealed first, which is empty and serves
nobody, and then the source. From then on neither takes work, so the rows of the source stand still.
They are copied table by table in the order of their keys, in parts, and each part is one
transaction of the target. Both stores are then read again and compared. At the end the seal of the
target is opened, and that of the source names the new place for ever.

A move that was interrupted is begun again with the same two stores. The seals say how far it came,
and the last key of each table says where the copy goes on. Only one step decides: the opening of
the target, which is one transaction of one store.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Literal

import msgspec

from perdure.cluster.nodes import living_nodes
from perdure.errors import StoreError, StoreLocked, UsageError
from perdure.moving.digest import Digest
from perdure.moving.homes import Homes
from perdure.ports.moving import Key, MovableStore, RowPart, Seal
from perdure.ports.store import Store
from perdure.store.copied import SCOPES
from perdure.store.seal import not_empty, refusal

replace = msgspec.structs.replace


class Progress(msgspec.Struct, frozen=True):
    """How far a move is: so many rows of a table are done, of so many."""

    step: str
    table: str
    done: int
    total: int


class Moved(msgspec.Struct, frozen=True):
    """The result of a move: the new place, and the number of rows by table.

    `already`: an earlier move had done everything.
    """

    source: str
    target: str
    rows: dict[str, int]
    already: bool = False


class Plan(msgspec.Struct, frozen=True):
    """What a move would do. `rows` are those of the source by table.

    `step`: it would begin, it would go on where an earlier one was interrupted, or all is done.
    """

    source: str
    target: str
    step: Literal["begin", "continue", "done"]
    rows: dict[str, int]


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Nobody looks."""


class Side:
    """A store, as what it is to a move."""

    def __init__(self, store: Store) -> None:
        """Take an open store.

        Raises:
            UsageError: it cannot be moved.
        """
        if not isinstance(store, MovableStore):
            msg = f"a {type(store).__name__} cannot be moved: it is no MovableStore (see the port)"
            raise UsageError(msg)
        self.store = store
        self.movable: MovableStore = store
        self.id = store.info.id
        self.place = store.place

    async def take(self) -> None:
        """Keep other moves out, and refuse while nodes run.

        Raises:
            StoreLocked: naming who uses the store.
        """
        await self.movable.hold()
        nodes = await living_nodes(self.store)
        if nodes:
            msg = f"nodes run on {self.place}: {', '.join(nodes)}; stop them, then move"
            raise StoreLocked(msg)

    async def check_empty(self) -> None:
        """Refuse a store with rows.

        Raises:
            UsageError: naming the first table that has some.
        """
        for table, size in (await self.movable.tables()).items():
            if size:
                raise not_empty(self.place, table)

    async def all(self, table: str, after: Key | None = None) -> AsyncIterator[RowPart]:
        """The parts of a table."""
        while True:
            part = await self.movable.rows(table, after)
            if part.rows:
                yield part
            if part.next is None:
                return
            after = part.next

    async def plan(self, target: str) -> Plan:
        """What a move into a store would do that is not there yet.

        Raises:
            StoreMoved: the store is part of another move.
        """
        await self.take()
        seal = _closed(await self.movable.seal())
        if seal is not None:
            raise refusal(seal, self.place)
        return Plan(self.place, target, "begin", dict(await self.movable.tables()))


class Mover:
    """One move from a store to another."""

    def __init__(self, source: Side, target: Side, report: Report = silent) -> None:
        """Both are open."""
        self._source = source
        self._target = target
        self._report = report
        self._homes = Homes(source.store.info.shards, target.store.info.shards)

    async def plan(self) -> Plan:
        """What `run` would do."""
        source, target = self._source, self._target
        await self._take()
        old = await source.movable.seal()
        new = await target.movable.seal()
        rows = dict(await source.movable.tables())
        closed = _closed(old)
        if closed is None:
            self._check_free(new)
            # One that has a seal of this source is emptied first.
            if _closed(new) is None:
                await target.check_empty()
            return Plan(source.place, target.place, "begin", rows)
        if not self._knows(closed, new):
            raise refusal(closed, source.place)
        step: Literal["continue", "done"] = "continue"
        if closed.is_done:
            step = "done"
        return Plan(source.place, target.place, step, rows)

    async def _take(self) -> None:
        """Keep other moves out, before any look at what is in the stores."""
        source, target = self._source, self._target
        if source.id == target.id:
            msg = f"{source.place} and {target.place} are the same store"
            raise UsageError(msg)
        await source.take()
        await target.take()

    def _check_free(self, new: Seal | None) -> None:
        """Refuse a target that is a part of another move."""
        closed = _closed(new)
        if closed is not None and not self._is_filled_from_here(closed):
            raise refusal(closed, self._target.place)

    def _is_filled_from_here(self, seal: Seal) -> bool:
        return (seal.role, seal.other_id) == ("target", self._source.id)

    async def run(self) -> Moved:
        """Move, or go on where an earlier call was interrupted."""
        source, target = self._source, self._target
        await self._take()
        old = await source.movable.seal()
        # The target may have moved on since, so that it is not asked.
        if old is not None and (old.role, old.is_done) == ("source", True):
            if old.other_id == target.id:
                return Moved(source.place, target.place, {}, already=True)
            raise refusal(old, source.place)
        new = await target.movable.seal()
        closed = await self._begin(old, new)
        rows: dict[str, int] = {}
        # A target that is open already may have more rows by now.
        if not _was_filled(new, closed.move):
            seal = self._target_seal(closed.move)
            rows = await self._copy(seal)
            await target.movable.reseal(seal, replace(seal, is_done=True))
        # Behind the target: a crash in between is mended by the next call, which copies nothing.
        await source.movable.reseal(closed, replace(closed, is_done=True))
        return Moved(source.place, target.place, rows)

    def _target_seal(self, move: str) -> Seal:
        source = self._source
        return Seal(move=move, role="target", other=source.place, other_id=source.id)

    async def _begin(self, old: Seal | None, new: Seal | None) -> Seal:
        """Seal both stores, unless an earlier call has done so. Returns the seal of the source."""
        source, target = self._source, self._target
        closed = _closed(old)
        if closed is not None:
            # A target that is another one than before has not the rows that were copied.
            if not self._knows(closed, new):
                raise refusal(closed, source.place)
            return closed
        self._check_free(new)
        if _closed(new) is not None:
            # The source was open since, and may have other rows than were copied.
            await target.movable.reseal(new, None)
            new = None
        # A new name for each attempt: rows of one that was given up must not count as its rows.
        move = os.urandom(8).hex()
        closed = Seal(
            move=move, role="source", other=target.place, other_id=target.id, filled_by=old
        )
        # The target first: a crash in between leaves the source open, and `give_up` undoes the
        # other.
        await target.movable.reseal(new, self._target_seal(move))
        await source.movable.reseal(old, closed)
        return closed

    def _knows(self, old: Seal, new: Seal | None) -> bool:
        """Whether the target is the one into which the source is being moved."""
        if old.other_id != self._target.id or new is None:
            return False
        return new.move == old.move or _was_filled(new, old.move)

    # ------------------------------------------------------------ rows

    async def _copy(self, seal: Seal) -> dict[str, int]:
        """Copy all rows, and compare them. Returns their numbers."""
        sizes = dict(await self._source.movable.tables())
        copied = {table: await self._copy_table(seal, table, size) for table, size in sizes.items()}
        async for part in self._source.all(SCOPES):
            await self._target.movable.fill(seal, SCOPES, self._homes.scopes(part))
        for table, digest in copied.items():
            await self._compare(table, sizes[table], digest)
        return sizes

    async def _copy_table(self, seal: Seal, table: str, total: int) -> Digest | None:
        """Copy what is missing of a table. Returns the digest of all rows if all were missing."""
        target = self._target.movable
        after = await target.last_key(table)
        digest: Digest | None = None
        done = 0
        if after is not None:
            done = (await target.tables())[table]
        async for part in self._source.all(table, after):
            moved = self._homes.part(table, part)
            await target.fill(seal, table, moved)
            # Behind the rows of an earlier call it would be the digest of a part only.
            if done == 0:
                digest = Digest(moved.columns)
            if digest is not None:
                digest.add(moved)
            done += len(part.rows)
            self._report(Progress("copy", table, done, total))
        return digest

    async def _compare(self, table: str, total: int, here: Digest | None) -> None:
        """Read a table in the target, and compare it with the source.

        Raises:
            StoreError: they differ.
        """
        if here is None:
            here = await self._digest(table)
        there = Digest(here.columns)
        async for part in self._target.all(table):
            there.add(part)
            self._report(Progress("compare", table, there.rows, total))
        if (here.rows, here.value) != (there.rows, there.value):
            msg = (
                f"{table} differs after the copy: {here.rows} rows (digest {here.value}) in "
                f"{self._source.place}, {there.rows} rows (digest {there.value}) in "
                f"{self._target.place}. Neither store takes work: take the old one back with "
                "`perdure move --give-up`, and report this"
            )
            raise StoreError(msg)

    async def _digest(self, table: str) -> Digest:
        """The digest of a table of the source."""
        digest: Digest | None = None
        async for part in self._source.all(table):
            moved = self._homes.part(table, part)
            if digest is None:
                digest = Digest(moved.columns)
            digest.add(moved)
        if digest is None:
            # An empty table has no part, and only a part tells the columns.
            return Digest(())
        return digest

    # ------------------------------------------------------------ giving up

    async def give_up(self) -> None:
        """Open the source again, and empty the target.

        Raises:
            UsageError: there is no such move, or it is done.
        """
        source, target = self._source, self._target
        await self._take()
        old = await source.movable.seal()
        new = await target.movable.seal()
        closed, filling = _closed(old), _closed(new)
        if closed is None:
            # It was interrupted between the two seals, or there is none.
            if filling is None or not self._is_filled_from_here(filling):
                msg = f"{source.place} is not being moved to {target.place}"
                raise UsageError(msg)
            await target.movable.reseal(filling, None)
            return
        if closed.other_id != target.id:
            raise refusal(closed, source.place)
        if closed.is_done or _was_filled(new, closed.move):
            msg = (
                f"{source.place} has moved: {target.place} has all of it and may have worked "
                "since, so the move cannot be given up; move back into a new store instead"
            )
            raise UsageError(msg)
        # First, so that no other process can go on with the move. An earlier call may have done it.
        if filling is not None and filling.move == closed.move:
            await target.movable.reseal(filling, None)
        await source.movable.reseal(closed, closed.filled_by)


def _closed(seal: Seal | None) -> Seal | None:
    """A seal that keeps its store closed."""
    # A target that is done only remembers where its rows came from.
    if seal is not None and seal.is_closed:
        return seal
    return None


def _was_filled(seal: Seal | None, move: str) -> bool:
    """Whether the store with this seal has all rows of a move."""
    # It may be on its way to a third store by now.
    if seal is not None and seal.role == "source":
        seal = seal.filled_by
    return seal is not None and seal.is_done and seal.move == move
