"""The loader: reading units and their inboxes from the store.

Units are loaded with all that the store has of them, several in one question. For a unit that is in
memory only the new part of its inbox is read. A resident takes no turn while the store is read for
it.

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
from perdure.kernel.data.message import Message, Retry, Start
from perdure.node.loop.patience import Patience, Stopped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from perdure.node.loop.ready import Ready
    from perdure.node.loop.residents import Resident, Residents
    from perdure.node.ownership.scope import Batch
    from perdure.node.surroundings import Surroundings
    from perdure.ports.store import Loaded

T = TypeVar("T")

logger = logging.getLogger("perdure.node")

_LOADERS = 2
"""Batches of units that are loaded at the same time."""
_FETCHERS = 4
"""Inboxes that are read at the same time."""
_WAITING = 2_000
"""A scan asks for no more while so many wait to be loaded. In the store they cost no memory."""
_PAUSE_S = 0.005
"""How long a scan waits then."""
_PART = 500
"""Messages that one question for an inbox brings."""
_SLICE_S = 0.01
"""How long units are replayed in one go before the node's loop gets its turn."""


class Loader:
    """Reads the store for residents."""

    def __init__(
        self,
        given: Surroundings,
        residents: Residents,
        loaded: Callable[[Resident, Loaded], None],
        ready: Ready,
    ) -> None:
        """Nothing is being read. `loaded` takes over a unit that the store has given.

        While `ready` is busy, no unit is loaded that no message waits for.
        """
        self._store = given.store
        self._options = given.options
        self._residents = residents
        self._ownership = given.ownership
        self._patience = Patience(given.node_name, given.options.store_retry_ms)
        self._node_name = given.node_name
        self._loaded = loaded
        self._ready = ready
        self._to_load: deque[Resident] = deque()
        self._due: dict[str, None] = {}  # an ordered set: units that are not in memory yet
        self._to_fetch: deque[Resident] = deque()
        self._loaders = 0
        self._fetchers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # ------------------------------------------------------------ requests

    def load(self, resident: Resident) -> None:
        """Load a unit, together with others that wait to be loaded."""
        resident.begin_reload()
        self._to_load.append(resident)
        self._work()

    def load_later(self, unit: str) -> None:
        """Load a unit that is not in memory, when those that messages wait for have been loaded."""
        self._due[unit] = None
        self.go_on()

    def fetch(self, resident: Resident) -> None:
        """Read the new part of the inbox of a unit that stays in memory."""
        if self._stopping:
            return  # its messages are recorded, and the next owner reads the rest
        resident.begin_fetch()
        self._to_fetch.append(resident)
        if self._fetchers < _FETCHERS:
            self._fetchers += 1
            self._spawn(self._fetch_all(), "perdure-inbox")

    def go_on(self) -> None:
        """Load units that wait for that, unless the node is busy with others."""
        if self._due and not self._ready.is_busy:
            self._work()

    @property
    def backlog(self) -> int:
        """How many units wait to be loaded."""
        return len(self._to_load) + len(self._due)

    async def room(self) -> None:
        """Wait until enough of the units that a scan has found are loaded."""
        while self.backlog > _WAITING:  # noqa: ASYNC110 - each load may be the one
            await asyncio.sleep(_PAUSE_S)

    def is_waiting(self, unit: str) -> bool:
        """Whether a unit is to be loaded, or is being loaded."""
        resident = self._residents.get(unit)
        if resident is None:
            return unit in self._due
        return resident.state == "loading"

    def _work(self) -> None:
        if self._loaders < _LOADERS and not self._stopping:
            self._loaders += 1
            self._spawn(self._load_all(), "perdure-loader")

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------ whole units

    async def _load_all(self) -> None:
        try:
            while not self._stopping and (batch := self._next_batch()):
                await self._load_batch(batch)
                await asyncio.sleep(0)
        finally:
            # At once, and not when the task is seen to be done: a unit that comes in between needs
            # a loader.
            self._loaders -= 1

    def _next_batch(self) -> list[Resident]:
        batch: list[Resident] = []
        while self._to_load and len(batch) < self._options.loads:
            batch.append(self._to_load.popleft())
        if self._ready.is_busy:
            return batch  # the node calls `go_on` when it has time
        while self._due and len(batch) < self._options.loads:
            unit = next(iter(self._due))
            del self._due[unit]
            present = self._residents.get(unit)
            if present is None:
                resident = self._residents.enter(unit, self._ownership.home_of(unit))
                resident.begin_load()
                batch.append(resident)
            elif present.state == "idle":
                self.fetch(present)  # a start has brought it into memory without its inbox
            else:
                present.expect_messages()
        return batch

    async def _load_batch(self, batch: list[Resident]) -> None:
        units = [resident.unit.id for resident in batch]
        try:
            found = await self._insist(lambda: self._store.load(units), batch)
        except Exception as error:
            if len(batch) == 1:
                self._give_up(batch[0], error)
                return
            # A row that cannot be read must not keep its neighbours out.
            for resident in batch:
                await self._load_batch([resident])
            return
        if found is None:
            return
        pairs: Batch = []
        for resident, loaded in zip(batch, found, strict=True):
            # A stop that is cancelled takes units out of memory while they are being read.
            if resident.state != "gone":
                self._place(resident, loaded)
                pairs.append((resident, loaded))
        await self._take_over(await self._ownership.admit(pairs))

    def _place(self, resident: Resident, found: Loaded) -> None:
        """Put a unit where its row says: into a scope, and among the units of a kind.

        The scope may have gone, and come, meanwhile.
        """
        self._residents.recognize(resident, found)
        if found.row is not None:
            scope = self._ownership.find(found.row.scope)
            resident.move(scope)
            if scope is not None and not scope.is_home:
                self._ownership.note_stray(found.id, scope.name)
            return
        # Before its first commit it is where its start is. One that waits in the mailbox has
        # brought the unit into memory.
        name = ""
        if resident.scope is not None:
            name = resident.scope.name
        for message in found.inbox:
            if isinstance(message.body, Start):
                name = message.scope
                break
        resident.move(self._ownership.home_of(found.id, name))

    async def _take_over(self, batch: Batch) -> None:
        """Give units what was read for them, which replays their code."""
        began = monotonic()
        for resident, found in batch:
            if resident.state == "gone":
                continue  # others have had their turn since it was read
            # Only a retry that is new here. One whose turn was discarded stands in the inbox still,
            # and would release the unit for ever.
            arrived = resident.mailbox.reload(found.inbox)
            if any(isinstance(message.body, Retry) for message in arrived):
                resident.release()
            resident.has_been_read(found.place)
            self._loaded(resident, found)
            if monotonic() - began > _SLICE_S:
                # Units that are loaded already have their turns in between.
                await asyncio.sleep(0)
                began = monotonic()

    def _give_up(self, resident: Resident, error: Exception) -> None:
        """The row or the journal of the unit cannot be read. Both stay as they are."""
        if resident.state == "gone":
            return  # a stop that was cancelled has taken it out of memory, and told its senders
        unit = resident.unit.id
        ids = {"node": self._node_name, "instance": unit}
        logger.error("%r cannot be loaded", unit, exc_info=error, extra=ids)
        resident.refuse(StoreUnavailable(f"{unit!r} cannot be loaded: {error}"))
        self._residents.forget(resident)

    # ------------------------------------------------------------ inboxes

    async def _fetch_all(self) -> None:
        try:
            while not self._stopping and self._to_fetch:
                await self._fetch(self._to_fetch.popleft())
        finally:
            self._fetchers -= 1

    async def _fetch(self, resident: Resident) -> None:
        unit = resident.unit.id
        while True:
            try:
                part = await self._insist(
                    lambda: self._store.inbox(unit, resident.place, _PART), [resident]
                )
            except Exception as error:
                self._give_up(resident, error)
                return
            if part is None or resident.state == "gone":
                return
            resident.has_been_read(part.place)
            self._receive(resident, part.messages)
            if resident.has_older:
                resident.begin_fetch()  # posted since the reading began
            elif len(part.messages) < _PART:
                break  # that was the end of the inbox
        self._ready.add(resident)

    def _receive(self, resident: Resident, messages: Sequence[Message]) -> None:
        for message in resident.mailbox.merge(messages):
            if isinstance(message.body, Retry):
                resident.release()

    # ------------------------------------------------------------ insisting

    async def _insist(
        self, read: Callable[[], Awaitable[T]], waiting: Sequence[Resident]
    ) -> T | None:
        """Read until the store answers. None: the node stops.

        Senders whose messages only this process has are told when the answer is late.

        Raises:
            Exception: the store has answered that it cannot read its rows.
        """

        def late(error: StoreUnavailable) -> None:
            for resident in waiting:
                resident.refuse_unstored(error)

        try:
            return await self._patience.insist(read, late)
        except Stopped:
            return None

    # ------------------------------------------------------------ the end

    @property
    def reading(self) -> bool:
        """Whether something is being read from the store."""
        return bool(self._tasks)

    async def settle(self) -> None:
        """Wait until nothing is being read."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def close(self) -> None:
        """Begin to read nothing more."""
        self._stopping = True
        self._patience.stop()

    async def stop(self) -> None:
        """Read nothing more."""
        self.close()
        await self.settle()
