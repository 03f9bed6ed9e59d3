"""Residents: the instances that are in memory, and how they get there and leave.

An instance is loaded with all that the store has of it, in batches; one that stays in memory only has its inbox read
again when somebody outside has posted to it. While either is under way the resident takes no turn. When there are too
many, the longest idle ones leave: those that have no work of their own open and whose every message stands in the
store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

from perdure.errors import StoreUnavailable
from perdure.kernel.message import Message, Retry
from perdure.kernel.turn import Outcome
from perdure.kernel.unit import Unit
from perdure.ports.store import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.kernel.definition import Definitions
    from perdure.node.attempts import Attempts
    from perdure.node.options import NodeOptions
    from perdure.ports.store import Loaded, Store

logger = logging.getLogger("perdure.node")

Ack = asyncio.Future[Outcome]

_LOADERS = 2
"""Batches that are loaded at the same time."""


class Resident:
    """An instance in memory.

    `state` says who may touch the unit: a `ready` one waits for its turn, one that is `committing` until its commit
    is durable and its effects have followed, one that is `loading` until the store has answered.
    """

    __slots__ = (
        "acks", "failures", "has_mail", "loaded_ids", "mailbox", "outdated", "released", "state", "taken", "unit",
    )  # fmt: skip

    def __init__(self, unit: Unit) -> None:
        """A unit that is neither ready nor busy."""
        self.unit = unit
        self.mailbox: list[Message] = []
        self.taken: list[Message] = []
        self.acks: dict[bytes, Ack] | None = None
        self.loaded_ids: frozenset[bytes] = frozenset()
        self.state: Literal["idle", "ready", "loading", "committing"] = "idle"
        self.failures = 0
        self.released = False
        self.has_mail = False
        self.outdated = False

    def refuse(self, error: Exception) -> None:
        """Tell everybody who waits for an answer that there is none."""
        for ack in (self.acks or {}).values():
            if not ack.done():
                ack.set_exception(error)
        self.acks = None


class Residents:
    """The instances in memory. `loaded` is called with each one that the store has answered for."""

    def __init__(
        self,
        store: Store,
        definitions: Definitions,
        options: NodeOptions,
        loaded: Callable[[Resident, Loaded], None],
        fetched: Callable[[Resident], None],
    ) -> None:
        """Nobody is in memory."""
        self.attempts: Attempts
        self._store = store
        self._definitions = definitions
        self._options = options
        self._shards = store.info.shards
        self._loaded = loaded
        self._fetched = fetched
        self._all: OrderedDict[str, Resident] = OrderedDict()
        self._to_load: list[Resident] = []
        self._loaders = 0
        self._loads: set[asyncio.Task[None]] = set()
        self.stopping = False

    def __len__(self) -> int:
        """How many instances are in memory."""
        return len(self._all)

    def get(self, unit: str) -> Resident | None:
        """The resident of a unit."""
        return self._all.get(unit)

    def all(self) -> list[Resident]:
        """All of them."""
        return list(self._all.values())

    def enter(self, unit: str) -> Resident:
        """Make room for a unit."""
        resident = self._all[unit] = Resident(self._new_unit(unit))
        if len(self._all) > self._options.residents:
            self._evict()
        return resident

    def _new_unit(self, unit: str) -> Unit:
        return Unit(unit, self._definitions, self._options.limits, shards=self._shards)

    def touch(self, resident: Resident) -> None:
        """It was used just now."""
        self._all.move_to_end(resident.unit.id)

    def _evict(self) -> None:
        excess = len(self._all) - self._options.residents
        for resident in list(self._all.values())[: excess + 64]:
            if excess <= 0:
                return
            if resident.state == "idle" and resident.unit.idle:
                self.forget(resident)
                excess -= 1

    def forget(self, resident: Resident) -> None:
        """Take it out of memory."""
        resident.unit.close_memory()
        del self._all[resident.unit.id]

    def drop_unit(self, resident: Resident) -> None:
        """Replace a unit that is not to be trusted by an unloaded one; its running activities are given up."""
        unit = resident.unit.id
        resident.unit.close_memory()
        self.attempts.abandon(unit)
        resident.unit = self._new_unit(unit)
        resident.state = "idle"
        resident.outdated = False

    def reload(self, resident: Resident) -> None:
        """Replace its unit by what the store has now; messages in its mailbox stay."""
        self.drop_unit(resident)
        self.load(resident)

    # ------------------------------------------------------------ reading the store

    def load(self, resident: Resident) -> None:
        """Load it, together with whatever else waits to be loaded."""
        resident.state = "loading"
        resident.has_mail = False
        self._to_load.append(resident)
        if self._loaders < _LOADERS:
            self._loaders += 1
            self._spawn(asyncio.get_running_loop().create_task(self._load_all(), name="perdure-loader"))

    def _spawn(self, task: asyncio.Task[None]) -> None:
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def _load_all(self) -> None:
        try:
            await self._load_batches()
        finally:
            self._loaders -= 1  # at once, not when the task is seen to be done: who comes in between needs a loader

    async def _load_batches(self) -> None:
        while self._to_load and not self.stopping:
            size = self._options.loads
            batch, self._to_load = self._to_load[:size], self._to_load[size:]
            await self._load_batch(batch)
            await asyncio.sleep(0)

    async def _load_batch(self, batch: list[Resident]) -> None:
        try:
            loaded = await self._store.load([r.unit.id for r in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                for resident in batch:  # a row that cannot be read must not keep its neighbours out
                    await self._load_batch([resident])
                return
            if not isinstance(error, StoreUnavailable):
                logger.exception("%r cannot be loaded", batch[0].unit.id, extra={"instance": batch[0].unit.id})
                error = StoreUnavailable(f"{batch[0].unit.id!r} cannot be loaded: {error}")
            for resident in batch:
                resident.refuse(error)
                self.forget(resident)
            return
        for resident, found in zip(batch, loaded, strict=True):
            self._take_over(resident, found)

    def _take_over(self, resident: Resident, found: Loaded) -> None:
        for message in found.inbox:
            message.posted = True
        resident.loaded_ids = frozenset(m.id for m in found.inbox)
        if any(isinstance(m.body, Retry) for m in found.inbox):
            resident.released, resident.failures = True, 0
        resident.mailbox = [m for m in resident.mailbox if not (m.posted and m.id in resident.loaded_ids)]
        resident.state = "idle"
        self._loaded(resident, found)

    def fetch(self, resident: Resident) -> None:
        """Read the inbox of a unit that stays in memory. It takes no turn meanwhile, so that nothing is read that it
        consumes at the same time.
        """
        resident.has_mail = False
        resident.state = "loading"
        self._spawn(asyncio.get_running_loop().create_task(self._fetch(resident), name="perdure-inbox"))

    async def _fetch(self, resident: Resident) -> None:
        unit = resident.unit
        found: list[Message] = []
        after: str | None = None
        try:
            while True:
                page = await self._store.query(Inbox(unit=unit.id, after=after))
                found += page.items
                after = page.next
                if after is None:
                    break
        except StoreUnavailable as error:
            resident.refuse(error)
            self.forget(resident)
            return
        if unit.held is not None and any(isinstance(m.body, Retry) for m in found):
            self.reload(resident)
            return
        known = {m.id for m in (*unit.kept, *unit.inbox_messages(), *resident.mailbox)}
        fresh = [m for m in found if m.id not in known]
        for message in fresh:
            message.posted = True
        resident.loaded_ids |= {m.id for m in found}
        resident.mailbox = [*fresh, *resident.mailbox]
        resident.state = "idle"
        self._fetched(resident)

    @property
    def reading(self) -> bool:
        """Whether something is being read from the store."""
        return bool(self._loads)

    async def settle(self) -> None:
        """Wait until nothing is being read."""
        while self._loads:
            await asyncio.wait(list(self._loads))
