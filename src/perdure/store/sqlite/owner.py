"""Owning a SQLite file among processes: the lock, and the socket beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from perdure.ports.store import (
    Hint,
)
from perdure.ports.tasks import TaskHint
from perdure.store.bell import Bell
from perdure.store.sqlite.database import MEMORY
from perdure.store.sqlite.hint import HintClient, HintServer
from perdure.store.sqlite.lock import OwnerLock

ROUND_MS = 60_000
"""How long one round of a watch for another process lasts."""


class Ownership:
    """Whether this store object owns its file, and the line to the process that does.

    A store in memory is its own owner, because no other process can have it.
    """

    def __init__(
        self,
        path: str,
        name: str,
        bell: Bell[Hint],
        task_bell: Bell[TaskHint],
        wait_change: Callable[[str, int, int], Awaitable[int]],
        *,
        standby: bool = False,
    ) -> None:
        """Own nothing yet. `name` is what messages call the file."""
        self._path = path
        self._standby = standby
        self._lock = OwnerLock(path, name)
        self._scopes: set[str] = set()
        self._bell = bell
        self._task_bell = task_bell
        self._wait_change = wait_change
        self._server: HintServer | None = None
        self._client: HintClient | None = None

    @property
    def held(self) -> bool:
        """Whether this object owns the file."""
        return self._lock.held

    async def take(self, incarnation: str) -> None:
        """Become the owner.

        Raises:
            StoreLocked: another process is, and this store is no standby.
        """
        if self._path == MEMORY or self._lock.held:
            return
        await self._lock.acquire(incarnation, standby=self._standby)
        # Behind the lock: the socket has the name of the file, and only the owner may make it.
        self._server = HintServer(self._path, self._bell.ring, self._changed, self._task_bell.ring)
        await self._server.start()

    async def count(self, scopes: Sequence[str], *, claimed: bool) -> None:
        """Note scopes that were claimed or released. The last release gives the file up."""
        if claimed:
            self._scopes.update(scopes)
            return
        self._scopes.difference_update(scopes)
        if not self._scopes:
            await self._give_up()

    async def _changed(self, unit: str, version: int) -> int:
        # In rounds, because a wait has an end, and a watch of another process has none.
        while True:
            now = await self._wait_change(unit, version, ROUND_MS)
            if now != version:
                return now

    def tell(self, hint: Hint) -> None:
        """Tell the owner, if it is another process, that a unit has messages."""
        if self._path != MEMORY and not self._lock.held:
            self._foreign().posted(hint)

    def tell_workers(self, hints: Sequence[TaskHint]) -> None:
        """Tell workers in other processes that queues have changed."""
        if self._server is not None:
            self._server.tell_workers(hints)
        elif self._path != MEMORY and not self._lock.held:
            self._foreign().tell_workers(hints)

    def hear_of_tasks(self) -> None:
        """Hear what workers are told, also while another process owns the file."""
        if self._path != MEMORY and not self._lock.held:
            self._foreign().hear_of_tasks(self._task_bell.ring)

    async def wait_change(self, unit: str, version: int, timeout_ms: int) -> bool:
        """Wait for a unit's next change by asking the owner. False: there is no owner."""
        return await self._foreign().wait_change(unit, version, timeout_ms)

    def _foreign(self) -> HintClient:
        if self._client is None:
            self._client = HintClient(self._path)
        return self._client

    async def _give_up(self) -> None:
        server = self._server
        self._server = None
        # The lock comes last: the next owner makes a socket of the same name as soon as it has it.
        try:
            if server is not None:
                await server.close()
        finally:
            self._lock.release()

    async def close(self) -> None:
        """Give up the file, and hang up."""
        self._scopes.clear()
        client = self._client
        self._client = None
        try:
            await self._give_up()
        finally:
            if client is not None:
                await client.close()

    def forked(self) -> None:
        """Own nothing, and know no owner, in a forked child."""
        # Nothing is closed: the sockets belong to the parent, which goes on.
        self._lock.forked()
        self._scopes.clear()
        self._server = None
        self._client = None
