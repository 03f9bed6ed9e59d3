"""The gateway of a node's client: to units of this node in memory, to all others by their owners.

Before each delivery the gateway asks which node owns the unit. A scope may go to another node while
a request is under way. The request was then not done here, and it goes on by the store.

Messages for units of other nodes go by the store, which knows a message that comes again, and their
owner gets a hint. The owner tells of the end of a run. Where it cannot be asked, the store tells.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from perdure.client.gateway import (
    Began,
    Begun,
    StoreGateway,
    find_row,
    find_run,
    find_unit,
    joins,
)
from perdure.client.remote.protocol import (
    CALL_MS,
    MAYBE_ROW,
    MAYBE_STARTED,
    WAIT_MS,
    AwaitHere,
    Started,
    StartHere,
)
from perdure.closing import is_held
from perdure.errors import NotFound, StoreError, StoreUnavailable, UsageError
from perdure.kernel.data.commit import CLOSED, UnitRow
from perdure.kernel.data.message import Start
from perdure.kernel.unit.held import AFTER_DEPLOY
from perdure.node.ownership.scope import Moved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from perdure.kernel.data.limits import Limits
    from perdure.kernel.data.message import Message
    from perdure.kernel.unit.turn import Outcome
    from perdure.node.front.peers import Peers
    from perdure.node.loop.turns import Turns
    from perdure.ports.clock import Clock
    from perdure.ports.store import Store

_ROUND_MS = 5_000
"""How long one wait for a change lasts. It is repeated then."""


def may_go_directly(message: Message) -> bool:
    """Whether a start may go to its owner over a link, and once more by the store.

    The run has the id of its start, so such a start is known when it comes again. One that replaces
    or renews would take the id from a run that has it since, and one with a delay waits in the
    inbox.
    """
    body = message.body
    return isinstance(body, Start) and not body.replaces_closed and not message.visible_at


class NodeGateway:
    """The way from a client of a node to the owners of instances."""

    def __init__(
        self,
        running: Callable[[], Turns],
        store: Callable[[], Store],
        clock: Clock,
        limits: Limits,
        peers: Callable[[], Peers | None] = lambda: None,
    ) -> None:
        """`running` gives the turns of the node's present life, or raises why there is none.

        `peers` are the other nodes, if this one talks to them.
        """
        self._running = running
        self._store = store
        self._peers = peers
        self.clock = clock
        self.limits = limits

    @property
    def store(self) -> Store:
        """The node's store."""
        return self._store()

    def _beside(self) -> StoreGateway:
        """The way by the store, which leads to every unit."""
        turns = self._running()
        return StoreGateway(
            turns.store, self.clock, self.limits, has_cluster=turns.memory.is_one_of_several
        )

    async def send(self, message: Message) -> Outcome:
        """Deliver a message. Return the outcome once it is durable."""
        turns = self._running()
        if turns.memory.owns(message.to):
            with suppress(Moved):  # then nothing was done, and it goes to the new owner
                return await self._send_here(turns, message)
        return await self.post(message)

    async def post(self, message: Message) -> Outcome:
        """Put a message into the inbox, also when the unit is in the memory of this node."""
        try:
            return await self._beside().send(message)
        finally:
            self._has_posted(message.to)

    async def post_all(self, messages: Sequence[Message]) -> list[Outcome]:
        """The same for several messages, in one transaction."""
        try:
            return await self._beside().post_all(messages)
        finally:
            for unit in {message.to for message in messages}:
                self._has_posted(unit)

    def _has_posted(self, unit: str) -> None:
        """A message was posted. It must be read before the next one is delivered in memory.

        The unit may be this node's by now, and the node may be in its next life.
        """
        try:
            turns = self._running()
        except (UsageError, StoreUnavailable):
            return  # a life that is still to come reads the inbox as it loads the unit
        peers = self._peers()
        if peers is not None and not turns.memory.owns(unit):
            peers.hint(unit)
        turns.memory.look_into_inbox(unit)

    async def _send_here(self, turns: Turns, message: Message) -> Outcome:
        ack: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        turns.deliver(message, ack)
        try:
            return await ack
        except StoreUnavailable:
            # It may have been refused at once. A sender that tries again and again would keep the
            # event loop, and the node could not learn that the store answers.
            await asyncio.sleep(0)
            raise

    async def begin(self, message: Message) -> Began:
        """Deliver a start. Return its outcome, and the run that it began or joined."""
        turns = self._running()
        if turns.memory.owns(message.to, message.scope):
            with suppress(Moved):  # then nothing was done, and it goes to the new owner
                return await self._begin_here(turns, message)
        started = await self._begin_there(message)
        if started is not None:
            return started.outcome, started.begun
        return await self.begin_by_store(message)

    async def begin_here(self, message: Message) -> Started | None:
        """The same, if this node owns the unit. None: it does not, and nothing was done."""
        turns = self._running()
        if turns.memory.owns(message.to):
            with suppress(Moved):
                return Started.of(*await self._begin_here(turns, message))
        return None

    async def _begin_there(self, message: Message) -> Started | None:
        """The same, as the owner of the unit does it.

        None: it cannot be asked, and may have done it all the same. The store knows it then.
        """
        peers = self._peers()
        if peers is None or not may_go_directly(message):
            return None
        return await peers.ask_owner(message.to, StartHere(message), MAYBE_STARTED, CALL_MS)

    async def begin_by_store(self, message: Message) -> tuple[Outcome, Begun | None]:
        """Post a start, which may have come before. The store knows it then."""
        try:
            return await self._beside().begin(message)
        finally:
            self._has_posted(message.to)

    async def begin_all(self, messages: Sequence[Message]) -> list[Began | StoreError]:
        """Deliver many starts together: those of this node in memory, the others by the store."""
        turns = self._running()
        here = [message for message in messages if turns.memory.owns(message.to)]
        acks: list[asyncio.Future[Outcome]] = []
        for message in here:
            acks.append(asyncio.get_running_loop().create_future())
            turns.deliver(message, acks[-1])
        answers = await asyncio.gather(*acks, return_exceptions=True)
        began: dict[bytes, Began | StoreError] = {}
        for message, answer in zip(here, answers, strict=True):
            if not isinstance(answer, Moved):  # then nothing was done, and it goes by the store
                began[message.id] = _began(message, answer)
        others = [message for message in messages if message.id not in began]
        if others:
            began |= await self._begin_elsewhere(others)
        return [began[message.id] for message in messages]

    async def _begin_elsewhere(
        self, messages: Sequence[Message]
    ) -> Iterable[tuple[bytes, Began | StoreError]]:
        posted = await self.begin_all_by_store(messages)
        return zip((message.id for message in messages), posted, strict=True)

    async def begin_all_by_store(self, messages: Sequence[Message]) -> list[Began | StoreError]:
        """Post many starts, which may have come before."""
        try:
            return await self._beside().begin_all(messages)
        finally:
            for message in messages:
                self._has_posted(message.to)

    async def _begin_here(self, turns: Turns, message: Message) -> Began:
        outcome = await self._send_here(turns, message)
        if outcome == "joined":
            return outcome, await self._joined(message)
        if outcome == "exists":
            return outcome, None
        # A run has the id of the message that started it.
        return outcome, Begun(message.id)

    async def _joined(self, message: Message) -> Begun:
        """The run that a start has just joined."""
        start = message.body
        assert isinstance(start, Start)
        row = self._running().memory.row(message.to)
        if row is None:  # a turn of it is on its way, or it has left memory
            view = await find_row(self.store, message.to)
            if view is not None:
                row = view.row
        if row is not None and joins(row, start):
            return Begun(row.run)
        # It was deleted or replaced since. No run has this id, so its end is found to be gone.
        return Begun(b"")

    async def closed(
        self, unit: str, begun: Begun | None = None, *, through_suspension: bool = False
    ) -> UnitRow:
        """Wait until a run has ended, or is held. Return its row.

        Without `begun` it is the run that has the id now.
        """
        if self._running().memory.owns(unit):
            if begun is None:
                begun = Begun(await self._current_run(unit))
            row = await self.closed_here(unit, begun, through_suspension=through_suspension)
        else:
            row = await self._closed_there(unit, begun, through_suspension=through_suspension)
        if row is not None:
            return row
        beside = self._beside()
        return await beside.closed(unit, begun, through_suspension=through_suspension)

    async def closed_by_store(self, unit: str, begun: Begun) -> UnitRow:
        """The same, as the store tells, which knows the messages that wait."""
        return await self._beside().closed(unit, begun)

    async def closed_here(
        self, unit: str, begun: Begun, *, through_suspension: bool
    ) -> UnitRow | None:
        """The same, if this node owns the unit. None: it does not, or not any more."""
        turns = self._running()
        if begun.may_be_refused and turns.memory.owns(unit):
            # No turn tells of the end of a run that never comes to be.
            await self._settle(unit, begun)
        if turns.memory.owns(unit):
            with suppress(Moved):
                return await self._closed_here(turns, unit, begun.run, through_suspension)
        return None

    async def _settle(self, unit: str, begun: Begun) -> None:
        """Wait until it is known which run a posted start has begun or joined.

        Raises:
            AlreadyStarted: it was refused.
            NotFound: the run is gone.
        """
        while True:
            found = await find_run(self._running().store, unit, begun)
            if found.is_stored:
                begun.settle(found.row.run)
                return
            await self.changed(unit, found.version, _ROUND_MS)

    async def _closed_there(
        self, unit: str, begun: Begun | None, *, through_suspension: bool
    ) -> UnitRow | None:
        """The same, as the owner of the unit tells. None: it cannot be asked."""
        peers = self._peers()
        if peers is None:
            return None
        if begun is None:
            # The run is settled here: another one may have the id when the owner is asked.
            found = await find_unit(self._running().store, unit)
            if not found.is_stored:
                return None
            begun = Begun(found.row.run)
        request = AwaitHere(unit, begun.run, begun.twin, begun.may_be_refused, through_suspension)
        row = await peers.ask_owner(unit, request, MAYBE_ROW, WAIT_MS, is_wait=True)
        if row is None:
            return None
        begun.settle(row.run)
        if is_held(row) and not through_suspension:
            # A `retry` that was posted here may be on its way, which the store shows.
            return None
        return row

    async def _closed_here(
        self, turns: Turns, unit: str, run: bytes, through_suspension: bool
    ) -> UnitRow:
        # Before the look, so that an end in between is not missed.
        future = turns.waiters.add(unit, run, through_suspension=through_suspension)
        try:
            row = turns.memory.row(unit)
            if row is None or row.run != run:
                row = await self._look_for(unit, run, future)
                if not turns.memory.owns(unit, row.scope):
                    raise Moved  # its id leads here, and it is in a group or a pin of another node
            if row.status in CLOSED:
                return row
            if is_held(row) and not through_suspension:
                if row.reason not in AFTER_DEPLOY:
                    return row
                # Definitions may have come since it was held. Its next turn tells.
                turns.memory.try_again([unit])
            return await self._end_of(unit, future)
        finally:
            turns.waiters.remove(unit, run, future)

    async def _current_run(self, unit: str) -> bytes:
        """The run that has the id now, or the first one once its start is taken from the inbox."""
        turns = self._running()
        row = turns.memory.row(unit)
        if row is not None:
            return row.run
        while not (found := await find_unit(turns.store, unit)).is_stored:
            await self.changed(unit, 0, _ROUND_MS)
        return found.row.run

    async def _look_for(self, unit: str, run: bytes, future: asyncio.Future[UnitRow]) -> UnitRow:
        """The row of a run that is not to be seen in memory: it may be busy, stored, or gone."""
        try:
            row = (await find_run(self._running().store, unit, Begun(run))).row
        except NotFound:
            # It may have ended and been deleted while the store was asked. The future knows its
            # end.
            if not future.done():
                raise
        else:
            if not future.done():
                return row
        return future.result()  # it ended while the store was asked

    async def _end_of(self, unit: str, future: asyncio.Future[UnitRow]) -> UnitRow:
        """Wait for the end of a run that is known to go on or to be tried again."""
        return await future

    async def run(self, message: Message) -> tuple[Outcome, UnitRow | None]:
        """Deliver a start and wait until the run that it began or joined has ended, or is held."""
        turns = self._running()
        if not turns.memory.owns(message.to, message.scope):
            outcome, begun = await self.begin(message)
            if begun is None:
                return outcome, None
            return outcome, await self.closed(message.to, begun)
        # Before the start is sent, because the run may have ended when the start is answered.
        future = turns.waiters.add(message.to, message.id)
        try:
            outcome, begun = await self.begin(message)
            if begun is None:
                return outcome, None
            if begun.run == message.id:
                with suppress(Moved):  # then the end will be seen in the store
                    return outcome, await self._end_of(message.to, future)
            return outcome, await self.closed(message.to, begun)
        finally:
            turns.waiters.remove(message.to, message.id, future)

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Wait until the unit's row has another version than `version`, or the time is up."""
        await self._running().store.wait_change(unit, version, within_ms)


def _began(message: Message, answer: Outcome | BaseException) -> Began | StoreError:
    """What came of a start that was delivered here together with others."""
    if isinstance(answer, StoreError):
        return answer
    if isinstance(answer, BaseException):
        raise answer
    if answer == "started":
        return answer, Begun(message.id)
    return answer, None
