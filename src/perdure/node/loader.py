"""The loader: reading units and their mail from the store.

Units are loaded with all that the store has of them, several in one question. A unit that is in
memory only has the new part of its inbox read. A resident that is being read for takes no turn.

A read that fails forgets nothing. It is tried again until it succeeds or the node stops. Stored
messages and deadlines wait for that. Messages that only this process has are given back to their
senders after `store_retry_ms`, so that nobody waits without a reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from perdure.errors import StoreUnavailable
from perdure.kernel.message import Message, Retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from perdure.node.options import NodeOptions
    from perdure.node.residents import Resident, Residents
    from perdure.ports.store import Loaded, Store

T = TypeVar("T")

Batch = list[tuple["Resident", "Loaded"]]

logger = logging.getLogger("perdure.node")

_LOADERS = 2
"""Batches of units that are loaded at the same time."""
_FETCHERS = 4
"""Inboxes that are read at the same time."""
_MAIL = 500
"""Messages that one question for an inbox brings."""
_SLICE_S = 0.01
"""How long units are replayed in one go before the node's loop gets its turn."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Loader:
    """Reads the store for residents. `loaded` and `fetched` take them over when the store has answered."""

    def __init__(
        self,
        store: Store,
        options: NodeOptions,
        residents: Residents,
        loaded: Callable[[Resident, Loaded], None],
        fetched: Callable[[Resident], None],
        is_busy: Callable[[], bool],
    ) -> None:
        """Nothing is being read. While `is_busy`, no unit is loaded that no message waits for."""
        self._store = store
        self._options = options
        self._residents = residents
        self._loaded = loaded
        self._fetched = fetched
        self._is_busy = is_busy
        self._to_load: deque[Resident] = deque()
        self._due: dict[str, None] = {}  # an ordered set: units that are not in memory yet
        self._to_fetch: deque[Resident] = deque()
        self._loaders = 0
        self._fetchers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self.node_name = ""
        # Sees each batch before it is taken over, and says which units may run now.
        self.admit: Callable[[Batch], Awaitable[Batch]] | None = None

    # ------------------------------------------------------------ what is asked of it

    def load(self, resident: Resident) -> None:
        """Load a unit, together with others that wait to be loaded."""
        self._residents.occupy(resident, "loading")
        resident.begin_reload()
        self._to_load.append(resident)
        self._work()

    def load_later(self, unit: str) -> None:
        """Load a unit that is not in memory, when those that messages wait for have been loaded."""
        self._due[unit] = None
        self.go_on()

    def fetch(self, resident: Resident) -> None:
        """Read what is new in the inbox of a unit that stays in memory."""
        self._residents.occupy(resident, "loading")
        resident.has_mail = False
        self._to_fetch.append(resident)
        if self._fetchers < _FETCHERS and not self._stopping.is_set():
            self._fetchers += 1
            self._spawn(self._fetch_all(), "perdure-inbox")

    def go_on(self) -> None:
        """Load units that wait for that, unless the node is busy with others."""
        if self._due and not self._is_busy():
            self._work()

    @property
    def backlog(self) -> int:
        """How many units wait to be loaded."""
        return len(self._to_load) + len(self._due)

    def is_waiting(self, unit: str) -> bool:
        """Whether a unit is to be loaded, or is being loaded."""
        resident = self._residents.get(unit)
        return unit in self._due if resident is None else resident.state == "loading"

    def _work(self) -> None:
        if self._loaders < _LOADERS and not self._stopping.is_set():
            self._loaders += 1
            self._spawn(self._load_all(), "perdure-loader")

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------ whole units

    async def _load_all(self) -> None:
        try:
            while not self._stopping.is_set() and (batch := self._next_batch()):
                await self._load_batch(batch)
                await asyncio.sleep(0)
        finally:
            # At once, not when the task is seen to be done: a unit that comes in between needs a loader.
            self._loaders -= 1

    def _next_batch(self) -> list[Resident]:
        batch: list[Resident] = []
        while self._to_load and len(batch) < self._options.loads:
            batch.append(self._to_load.popleft())
        if self._is_busy():
            return batch  # the node calls `go_on` when it has time
        while self._due and len(batch) < self._options.loads:
            unit = next(iter(self._due))
            del self._due[unit]
            present = self._residents.get(unit)
            if present is None:
                resident = self._residents.enter(unit)
                self._residents.occupy(resident, "loading")
                batch.append(resident)
            elif present.state == "idle":
                self.fetch(present)  # a start has brought it into memory without its mail
            else:
                present.has_mail = True
        return batch

    async def _load_batch(self, batch: list[Resident]) -> None:
        try:
            found = await self._insist(lambda: self._store.load([r.unit.id for r in batch]), batch)
        except Exception as error:
            if len(batch) == 1:
                self._give_up(batch[0], error)
                return
            for resident in batch:  # a row that cannot be read must not keep its neighbours out
                await self._load_batch([resident])
            return
        if found is not None:
            pairs = list(zip(batch, found, strict=True))
            if self.admit is not None:
                pairs = await self.admit(pairs)
            await self._take_over(pairs)

    async def _take_over(self, batch: Batch) -> None:
        began = monotonic()
        for resident, found in batch:
            if any(isinstance(message.body, Retry) for message in found.inbox):
                resident.release()
            resident.mailbox.reload(found.inbox)
            resident.place = found.place
            self._loaded(resident, found)
            if monotonic() - began > _SLICE_S:
                await asyncio.sleep(0)
                began = monotonic()

    def _give_up(self, resident: Resident, error: Exception) -> None:
        """What is stored of the unit cannot be read. Its row stays as it is."""
        unit = resident.unit.id
        ids = {"node": self.node_name, "instance": unit}
        logger.error("%r cannot be loaded", unit, exc_info=error, extra=ids)
        resident.refuse(StoreUnavailable(f"{unit!r} cannot be loaded: {error}"))
        self._residents.forget(resident)

    # ------------------------------------------------------------ mail

    async def _fetch_all(self) -> None:
        try:
            while not self._stopping.is_set() and self._to_fetch:
                await self._fetch(self._to_fetch.popleft())
        finally:
            self._fetchers -= 1

    async def _fetch(self, resident: Resident) -> None:
        unit = resident.unit
        while True:
            try:
                mail = await self._insist(
                    lambda: self._store.inbox(unit.id, resident.place, _MAIL), [resident]
                )
            except Exception as error:
                self._give_up(resident, error)
                return
            if mail is None:
                return
            resident.place = mail.place
            for message in mail.messages:
                self._receive(resident, message)
            if len(mail.messages) < _MAIL:
                break
        self._fetched(resident)

    def _receive(self, resident: Resident, message: Message) -> None:
        if resident.receive(message, None, stored=True) and isinstance(message.body, Retry):
            resident.release()

    # ------------------------------------------------------------ insisting

    async def _insist(
        self, read: Callable[[], Awaitable[T]], waiting: Sequence[Resident]
    ) -> T | None:
        """Read until the store answers. None: the node stops.

        Raises:
            Exception: the store has answered that what it has cannot be read.
        """
        pause_s, began, ids = _FIRST_PAUSE_S, monotonic(), {"node": self.node_name}
        while not self._stopping.is_set():
            try:
                answer = await read()
            except StoreUnavailable as error:
                if pause_s == _FIRST_PAUSE_S:
                    text = "the store cannot be read (%d instances wait); it is tried again: %s"
                    logger.warning(text, len(waiting), error, extra=ids)
                if monotonic() - began >= self._options.store_retry_ms / 1000:
                    for resident in waiting:
                        resident.refuse_unstored(error)
            else:
                if pause_s > _FIRST_PAUSE_S:
                    logger.warning("the store can be read again", extra=ids)
                return answer
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return None

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    # ------------------------------------------------------------ the end

    @property
    def reading(self) -> bool:
        """Whether something is being read from the store."""
        return bool(self._tasks)

    async def settle(self) -> None:
        """Wait until nothing is being read."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def stop(self) -> None:
        """Read nothing more."""
        self._stopping.set()
        await self.settle()
