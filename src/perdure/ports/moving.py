"""What a store needs so that everything in it can be moved into another store.

A store that moves is *sealed*: it takes no claim, no commit and no message. The new store is sealed
as well, from before its first row until it has all of them. So at each moment at most one of the
two takes work, wherever the program that moves them is killed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

Key = tuple[Any, ...]
"""The values by which the rows of a table are ordered, and found."""

PART_BYTES = 4 << 20
PART_ROWS = 2_000
"""A part of a table is cut behind so many bytes or rows. One row may be larger."""


class Seal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a store takes no work, or where its rows came from.

    `move` is the id of the move, the same in both stores. `other` is the URL of the other store,
    for people, and `other_id` its id. `is_done`: all rows are in the target, which takes work now.
    `filled_by` is the seal that a source got when it was the target of an earlier move.
    """

    move: str
    role: Literal["source", "target"]
    other: str
    other_id: str
    is_done: bool = False
    filled_by: Seal | None = None

    @property
    def is_closed(self) -> bool:
        """Whether a store with this seal refuses work."""
        # A target that is done only remembers where its rows came from.
        return self.role == "source" or not self.is_done


class RowPart(msgspec.Struct, frozen=True):
    """Some rows of a table, in the order of its key. `next` is the key of the last one.

    `next` None: there are no more. Values are texts, bytes, whole numbers and None. A truth is 0 or
    1.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    next: Key | None = None


@runtime_checkable
class MovableStore(Protocol):
    """A store whose rows can be moved. It is open, and `hold` was called before all else.

    Every method may raise what those of `Store` raise.
    """

    @property
    def place(self) -> str:
        """Its URL for people and for other programs, without a password."""
        ...

    async def hold(self) -> None:
        """Keep other processes from moving this store until it is closed.

        Raises:
            StoreLocked: another process moves it or owns it.
        """
        ...

    async def seal(self) -> Seal | None:
        """The seal that it has now."""
        ...

    # In one transaction with all that it says, because a node may claim the store at any moment.
    async def reseal(self, before: Seal | None, after: Seal | None) -> None:
        """Put one seal in the place of another, if `before` is the one that it has.

        When it returns, no process can write any more what a closed seal forbids, and what was
        acknowledged before can be read. To become a target a store must be empty. A target that
        gets no seal before it is done loses all its rows.

        Raises:
            StoreMoved: it has another seal by now.
            UsageError: it was to become a target, and is not empty.
        """
        ...

    async def tables(self) -> Mapping[str, int]:
        """The tables with rows to copy, in the order in which they are copied, and their sizes.

        `scopes` is not among them.
        """
        ...

    async def rows(self, table: str, after: Key | None) -> RowPart:
        """The rows of a table behind a key. Texts and bytes are ordered byte by byte.

        All columns are in it, but for those that the store derives from others. `scopes` is such a
        table, too.
        """
        ...

    async def last_key(self, table: str) -> Key | None:
        """The key of the last row."""
        ...

    # Inside the same transaction, so that a program that stood still cannot add rows to a store
    # that works already.
    async def fill(self, seal: Seal, table: str, part: RowPart) -> None:
        """Add rows, and what is derived from them. Rows that are there already stay as they are.

        Messages keep their places, and later ones get places behind them.

        Raises:
            StoreFormat: the store does not have one of the columns.
            StoreMoved: its seal is another one by now.
        """
        ...
