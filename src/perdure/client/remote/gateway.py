"""The gateway of a client without a store: each verb is a request to some node.

The node routes it to the owner of the instance. When the node dies, the next one is asked. A
message that comes again is known by its id, and a wait names the run that it is for.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.client.gateway import Began, Begun, find_unit, stays_held
from perdure.client.remote.protocol import (
    OUTCOME,
    OUTCOMES,
    RESULTS,
    ROW,
    STARTED,
    WAIT_MS,
    Await,
    Begin,
    BeginAll,
    Post,
    PostAll,
    StartResult,
)
from perdure.client.remote.store import RemoteStore
from perdure.errors import StoreError, StoreUnavailable
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED, UnitRow
from perdure.kernel.data.limits import Limits
from perdure.kernel.unit.turn import Outcome
from perdure.ports.clock import Clock
from perdure.ports.transport import FrameTooLarge

_ROUND_MS = 5_000


class RemoteGateway:
    """The way of a client by the nodes."""

    def __init__(self, store: RemoteStore, clock: Clock) -> None:
        """Use the route of a store."""
        self.store = store
        self.clock = clock
        self._route = store.route

    @property
    def limits(self) -> Limits:
        """The limits of the node. The node checks them, too."""
        return self._route.welcome.limits

    async def send(self, message: msg.Message) -> Outcome:
        """Deliver a message."""
        if isinstance(message.body, msg.Start):
            return (await self.begin(message))[0]
        return await self.post(message)

    async def post(self, message: msg.Message) -> Outcome:
        """Put it into the inbox of its unit."""
        return await self._route.ask(Post(message), OUTCOME)

    async def post_all(self, messages: Sequence[msg.Message]) -> list[Outcome]:
        """Put several into inboxes, together."""
        return await self._route.ask(PostAll(list(messages)), OUTCOMES)

    async def begin(self, message: msg.Message) -> Began:
        """Deliver a start."""
        again = Begin(message, again=True)
        started = await self._route.ask(Begin(message), STARTED, again=again)
        return started.outcome, started.begun

    async def begin_all(self, messages: Sequence[msg.Message]) -> list[Began | StoreError]:
        """Deliver many starts together."""
        starts = list(messages)
        try:
            results = await self._route.ask(
                BeginAll(starts), RESULTS, again=BeginAll(starts, again=True)
            )
        except FrameTooLarge:
            # Large inputs make a large frame, and a start alone always fits into one.
            if len(starts) == 1:
                raise
            half = len(starts) // 2
            first = await self.begin_all(starts[:half])
            return first + await self.begin_all(starts[half:])
        except StoreError as error:
            return [error] * len(starts)
        began: list[Began | StoreError] = []
        for result in results:
            if result.started is not None:
                began.append((result.started.outcome, result.started.begun))
            else:
                began.append(_error_of(result))
        return began

    async def closed(
        self, unit: str, begun: Begun | None = None, *, through_suspension: bool = False
    ) -> UnitRow:
        """Wait until a run has ended, or is held. It goes on with another node if one dies."""
        # The run is settled first: another one may have the id when a second node is asked.
        while begun is None:
            found = await find_unit(self.store, unit)
            if found.row.status in CLOSED:
                return found.row
            if not through_suspension and await stays_held(self.store, found.row, found.version):
                return found.row
            # A start that waits may still join another run.
            if found.is_stored:
                begun = Begun(found.row.run)
            else:
                await self.store.wait_change(unit, found.version, _ROUND_MS)
        request = Await(unit, begun.run, begun.twin, begun.may_be_refused, through_suspension)
        row = await self._route.ask(request, ROW, WAIT_MS, is_wait=True)
        begun.settle(row.run)
        return row

    async def run(self, message: msg.Message) -> tuple[Outcome, UnitRow | None]:
        """Deliver a start and wait for the end of its run."""
        outcome, begun = await self.begin(message)
        if begun is None:
            return outcome, None
        return outcome, await self.closed(message.to, begun)

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Wait for a change of the row."""
        await self.store.wait_change(unit, version, within_ms)


def _error_of(result: StartResult) -> StoreError:
    """Why the outcome of a start is not known."""
    if result.trouble is None:
        return StoreUnavailable("a node has not said what became of a start", "unknown")
    error = result.trouble.error
    if isinstance(error, StoreError):
        return error
    return StoreUnavailable(str(error), "unknown")
