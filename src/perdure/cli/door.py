"""The store that `--store` names, for commands that read, and a client for commands that post.

Reading never creates and never migrates a store, because the file is opened read-only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from perdure.client.client import Client
from perdure.client.gateway import find_row, find_start, pending_of
from perdure.errors import NotFound, StoreUnavailable, UsageError
from perdure.kernel.data.commit import UnitRow
from perdure.kernel.data.placement import check_id
from perdure.ports.store import OwnedStore, Store, UnitView
from perdure.store import is_postgres, open_store, with_option
from perdure.store.seal import check_open
from perdure.store.sqlite import SQLiteStore
from perdure.store.sqlite.database import MEMORY, mode_of

DEFAULT_URL = "sqlite:///perdure.db"
"""The default store of every command: a file in the current folder."""


def file_of(url: str) -> Path | None:
    """The file that a URL names. None for a store without a file."""
    store = open_store(url)
    if isinstance(store, SQLiteStore) and store.path != MEMORY:
        return Path(store.path)
    return None


def check_shared(url: str) -> Path | None:
    """The file of a store that other processes can see. None: the store is a database.

    Raises:
        UsageError: the store lives and dies with one process, so there is nothing to find in it.
    """
    path = file_of(url)
    if path is None and not is_postgres(url):
        msg = (
            f"{url} lives in the memory of one process, and this is another one; "
            f"use a file: {DEFAULT_URL}"
        )
        raise UsageError(msg)
    return path


@asynccontextmanager
async def reading(url: str) -> AsyncGenerator[Store]:
    """The store, for queries."""
    check_there(url)
    if is_postgres(url):
        url = with_option(url, "create", "false")
    else:
        url = with_option(url, "read_only", "true")
    store = open_store(url)
    async with store:
        # What stands there is of yesterday.
        check_open(store)
        yield store


@asynccontextmanager
async def posting(url: str, *, create: bool = False) -> AsyncGenerator[Client]:
    """A client that posts. The node that owns the store, now or later, finds the messages."""
    if create:
        check_shared(url)
    else:
        check_there(url)
        if is_postgres(url):
            url = with_option(url, "create", "false")
    async with Client.open(url) as client:
        yield client


def check_there(url: str) -> None:
    """Refuse a store that is not there.

    Raises:
        StoreUnavailable: its file does not exist.
        UsageError: it lives in one process.
    """
    path = check_shared(url)
    # Only a connection tells, and opening the store says so.
    if path is None:
        return
    try:
        is_there = mode_of(path) != 0
        size = 0
        if is_there:
            size = path.stat().st_size
    except OSError:
        is_there = True  # the folder is closed to us, and opening the file reports that
        size = -1
    if is_there and not size:
        msg = (
            f"{path} is an empty file and no store; name yours with --store or PERDURE_STORE, "
            "or make this one a store: `perdure run`, `serve` and `start` do"
        )
        raise StoreUnavailable(msg)
    if not is_there:
        msg = (
            f"there is no store {path} (looked in {Path.cwd()}); "
            "name yours with --store or PERDURE_STORE, "
            "or make one: `perdure run`, `serve` and `start` do"
        )
        raise StoreUnavailable(msg)


async def find(store: Store, id: str) -> UnitView | None:
    """The row of an instance, and its version. None if the store has no such row."""
    return await find_row(store, check_id(id))


async def must_find(store: Store, id: str) -> UnitView:
    """The row of an instance, and its version.

    Raises:
        NotFound: there is none. The message says whether a posted start with this id waits for a
            node.
    """
    view = await find(store, id)
    if view is not None:
        return view
    if await is_posted(store, id):
        msg = f"{id!r} has been posted and has not begun: {await why_not_begun(store)}"
        raise NotFound(msg)
    msg = f"no instance has the id {id!r}; `perdure ls` shows those that are there"
    raise NotFound(msg)


async def find_or_posted(store: Store, id: str) -> UnitRow:
    """The row of an instance, or one that is made of its start, which waits for a node.

    Raises:
        NotFound: there is neither.
    """
    view = await find(store, id)
    if view is None:
        start = await find_start(store, id)
        if start is not None:
            return pending_of(start)
        # It may have begun between these two looks. Otherwise this raises.
        view = await must_find(store, id)
    return view.row


async def why_not_begun(store: Store) -> str:
    """Why a posted start waits. Whether a node is there decides what the user can do."""
    owner = None
    if isinstance(store, OwnedStore):
        owner = await store.owner()
    if owner is None:
        return "no node has taken it yet; run one with `perdure serve`"
    return f"{owner} owns the store and has not taken it yet; look again in a moment"


async def is_posted(store: Store, id: str) -> bool:
    """Whether a start with this id waits for a node."""
    return await find_start(store, id) is not None
