"""Notifications between the processes of one store, over LISTEN and NOTIFY.

Theory of operation. A notification says that a unit has got messages, that a process waits for a
unit to change, or that such a unit has changed. It carries no data, and losing it costs latency
only: what it says stands in tables, which are looked at now and then in any case.

A transaction that notifies holds a lock of the whole server while it commits. So notifications are
not part of the transactions that write. They are sent behind them, in a transaction that writes
nothing and needs no fsync, and all that have gathered go together.

A change is only told to those who asked for it, because most units have no waiter elsewhere. A
process that waits says so every few seconds, and the others remember it a little longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from uuid import uuid4

import msgspec

from perdure.ports.store import (
    Hint,
)
from perdure.ports.tasks import TaskHint
from perdure.store.postgres.address import Address
from perdure.store.postgres.connection import Connection, Pool, close, connect
from perdure.store.postgres.errors import DRIVER_ERRORS, explain
from perdure.store.postgres.tasks import SQL

logger = logging.getLogger("perdure.store")

WATCH_S = 5.0
"""How often a waiting process says that it still waits."""
_WATCHED_S = 3 * WATCH_S
"""How long others remember it."""
_PAYLOAD_BYTES_MAX = 7_000
"""The server takes less than 8,000."""
_PAYLOADS_MAX = 32
"""Notifications that are sent at a time. The rest is dropped: a flood is found by looking."""
_WATCHED_MAX = 100_000
_PAUSE_S = 0.1
_PAUSE_MAX_S = 5.0


class _Notice(msgspec.Struct, array_like=True):
    """The content of a notification.

    `posted` are units and their scopes, `watched` units, `changed` units and their versions, and
    `tasks` queues, each with whether leased tasks were dropped.
    """

    sender: str
    posted: list[tuple[str, str]] = []
    watched: list[str] = []
    changed: list[tuple[str, int]] = []
    tasks: list[tuple[str, bool]] = []


_decode = msgspec.json.Decoder(_Notice).decode


class Notices:
    """The notifications of one open store, in both directions."""

    def __init__(
        self,
        address: Address,
        pool: Pool,
        on_posted: Callable[[Hint], None],
        on_changed: Callable[[str, int], None],
        on_tasks: Callable[[TaskHint], None],
    ) -> None:
        """Neither listen nor send yet."""
        self._address = address
        self._pool = pool
        self._on_posted = on_posted
        self._on_changed = on_changed
        self._on_tasks = on_tasks
        self._id = uuid4().hex
        self._posted: dict[str, str] = {}
        self._watching: dict[str, None] = {}
        self._changed: dict[str, int] = {}
        self._tasks: dict[TaskHint, None] = {}
        self._watched: dict[str, float] = {}
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.heard = False
        """Whether notifications of other processes arrive at this moment."""

    def listen(self) -> None:
        """Begin to listen, unless a pooler stands between and no other URL is given.

        A client that only starts and lists has no use for one more connection.
        """
        options = self._address.options
        can_hear = not options.pooled or options.listen is not None
        if can_hear and self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="perdure-notices")

    # ------------------------------------------------------------ sending

    def posted(self, hint: Hint) -> None:
        """Tell others that a unit has messages."""
        self._posted[hint.unit] = hint.scope
        self._send_soon()

    def tell_workers(self, hint: TaskHint) -> None:
        """Tell workers in other processes of a queue."""
        self._tasks[hint] = None
        self._send_soon()

    def watch(self, unit: str) -> None:
        """Ask others to tell when a unit changes."""
        self._watching[unit] = None
        self._send_soon()

    def changed(self, changes: Iterable[tuple[str, int]]) -> None:
        """Tell those who asked for it which units have changed."""
        # Most of the time nobody has.
        if not self._watched:
            return
        for unit, version in changes:
            if self._watched.pop(unit, None) is not None:
                self._changed[unit] = version
                self._send_soon()

    def _send_soon(self) -> None:
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="perdure-notify")

    async def _send(self) -> None:
        """Send all that has gathered, until there is no more."""
        while self._posted or self._watching or self._changed or self._tasks:
            payloads = self._take()
            try:
                async with self._pool.taken() as connection:
                    await connection.execute(SQL["notify"], self._address.channel, payloads)
            # Lost, and found by looking.
            except DRIVER_ERRORS as error:
                logger.debug("a notification of %s was lost: %s", self._address.name, error)

    def _take(self) -> list[str]:
        notices = [_Notice(self._id)]
        size = 0
        for unit, scope in self._posted.items():
            size = self._room(notices, size, len(unit) + len(scope))
            notices[-1].posted.append((unit, scope))
        for unit in self._watching:
            size = self._room(notices, size, len(unit))
            notices[-1].watched.append(unit)
        for unit, version in self._changed.items():
            size = self._room(notices, size, len(unit))
            notices[-1].changed.append((unit, version))
        for hint in self._tasks:
            size = self._room(notices, size, len(hint.queue))
            notices[-1].tasks.append((hint.queue, hint.is_drop))
        self._posted = {}
        self._watching = {}
        self._changed = {}
        self._tasks = {}
        texts = [msgspec.json.encode(notice).decode() for notice in notices[:_PAYLOADS_MAX]]
        return [text for text in texts if len(text.encode()) <= _PAYLOAD_BYTES_MAX]

    def _room(self, notices: list[_Notice], size: int, more: int) -> int:
        """The size of the last notice with one more entry. Begins another one if it is full."""
        # A character has up to four bytes, and a quote of JSON is two characters. Few ids have many
        # of either, and a notice that is too long all the same is dropped.
        more = 2 * more + 24
        if size + more > _PAYLOAD_BYTES_MAX - 100:
            notices.append(_Notice(self._id))
            return more
        return size + more

    # ------------------------------------------------------------ listening

    async def _listen(self) -> None:
        pause = _PAUSE_S
        while not self._closing.is_set():
            try:
                connection = await connect(self._address, listening=True)
                pause = _PAUSE_S
                await self._hear(connection)
            except DRIVER_ERRORS as error:
                logger.debug("%s", explain(error, self._address.name))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closing.wait()
            pause = min(2 * pause, _PAUSE_MAX_S)

    async def _hear(self, connection: Connection) -> None:
        """Listen until the connection ends, or the store is closed."""
        ended = asyncio.Event()
        connection.add_termination_listener(lambda *_: ended.set())
        try:
            await connection.add_listener(self._address.channel, self._on_notice)
            self.heard = True
            waits = [asyncio.create_task(event.wait()) for event in (ended, self._closing)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        finally:
            self.heard = False
            await close(connection)

    def _on_notice(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        try:
            notice = _decode(payload)
        except (msgspec.MsgspecError, ValueError) as error:
            logger.warning("a notification of %s cannot be read: %s", self._address.name, error)
            return
        if notice.sender == self._id:
            return
        for unit, scope in notice.posted:
            self._on_posted(Hint(unit, scope))
        for unit, version in notice.changed:
            self._on_changed(unit, version)
        for queue, is_drop in notice.tasks:
            self._on_tasks(TaskHint(queue, is_drop))
        if notice.watched:
            self._remember(notice.watched)

    def _remember(self, units: list[str]) -> None:
        now = asyncio.get_running_loop().time()
        for unit in units:
            # The newest stand at the end.
            self._watched.pop(unit, None)
            self._watched[unit] = now + _WATCHED_S
        for unit, until in list(self._watched.items()):
            if until > now and len(self._watched) <= _WATCHED_MAX:
                break
            del self._watched[unit]

    async def close(self) -> None:
        """Send what is waiting, and stop listening."""
        if self._sending is not None:
            await asyncio.wait([self._sending])
        self._closing.set()
        if self._listening is not None:
            await self._listening
