"""Where a node can die: the numbered points of a life, and the parts of a node that pass them.

A *life* is one run of a node until it stops or is killed. Its store, clock, activities and client
report each commit and each effect to `Points`, which ends the life at a chosen point. In a process
of its own the end is SIGKILL. Within this process the life is cut off from its store, so that
nothing of its later actions lasts.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import wraps
from hashlib import blake2b
from typing import Any, TypeVar

from perdure import activity
from perdure.app import App
from perdure.client.client import Client
from perdure.client.description import HistoryEvent
from perdure.client.gateway import Began, Begun, StoreGateway, find_unit
from perdure.errors import NotFound, StoreError, StoreUnavailable
from perdure.kernel.data.commit import CLOSED, Commit, Fence, UnitRow, Verdict
from perdure.kernel.data.definition import ActivityDefinition, WorkflowDefinition
from perdure.kernel.data.events import ActivityScheduled, Received
from perdure.kernel.data.limits import Limits
from perdure.kernel.data.message import Message, Pause, Raise, Resume, Send, encode_body
from perdure.kernel.data.placement import scope_of
from perdure.kernel.unit.turn import Outcome
from perdure.node import Node
from perdure.ports.clock import Alarm, Clock, SystemClock
from perdure.ports.store import Claim, Inbox, Incarnation, Posted, Store
from perdure.testing.mishaps import PassingStore

T = TypeVar("T")

CallKey = tuple[str, str, int, int]
"""An activity call: instance, run, execution, number of the command."""


class Points:
    """Counts the points of a life, and ends it at point `last` (None: never)."""

    def __init__(self, last: int | None, *, kill: bool) -> None:
        """`kill`: end the process by SIGKILL. Otherwise the life is cut off."""
        self.names: list[str] = []
        self.dead = False
        self.calls: list[CallKey] = []
        self.faults: list[str] = []
        self.kills = kill
        self._last = last
        self._at_end: Callable[[], object] = lambda: None
        self._released = False
        self._hung: list[asyncio.Future[None]] = []

    def call_at_end(self, callback: Callable[[], object]) -> None:
        """Call `callback`, on any thread, when the life is cut off."""
        self._at_end = callback

    def passed(self, name: str) -> bool:
        """Report a point. False if the life is over."""
        if self.dead:
            return False
        self.names.append(name)
        if len(self.names) != self._last:
            return True
        if self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        self.dead = True
        self._at_end()
        return False

    def pass_or_fail(self, name: str) -> None:
        """Report a point, on any thread.

        Raises:
            StoreUnavailable: the life is over.
        """
        if not self.passed(name):
            raise _gone()

    async def pass_or_hang(self, name: str) -> None:
        """Report a point. A life that is over stays here until `release`.

        Raises:
            StoreUnavailable: the life is over, and is being taken apart.
        """
        if self.passed(name):
            return
        # A killed process gets no answer either. An error would let the life act on it.
        if not self._released:
            hung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._hung.append(hung)
            await hung
        raise _gone()

    def release(self) -> None:
        """Let the hanging calls fail, so that a dead life can be taken apart."""
        self._released = True
        for hung in self._hung:
            if not hung.done():
                hung.set_result(None)


def _gone() -> StoreUnavailable:
    return StoreUnavailable(
        "this life of the node is over: the crash harness has ended it", "unknown", permanent=True
    )


class DyingStore(PassingStore):
    """The store of one life: each claim, commit and post is a point before and a point after.

    A dead life reaches it no more.
    """

    def __init__(self, store: Store, points: Points) -> None:
        """Wrap an open store. The harness opens and closes it."""
        super().__init__(store)
        self._points = points

    def _reach(self) -> Store:
        if self._points.dead:
            raise _gone()
        return self._store

    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> Mapping[str, Claim]:
        """Claim, between two points."""
        store = self._reach()
        await self._points.pass_or_hang("before claim")
        claims = await store.claim(scopes, owner)
        await self._points.pass_or_hang("after claim")
        return claims

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        """Release, between two points. A dead life releases nothing."""
        store = self._reach()
        await self._points.pass_or_hang("before release")
        released = await store.release(fences)
        await self._points.pass_or_hang("after release")
        return released

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        """Commit, between two points.

        At the second the commit is durable and none of its effects has run.
        """
        store = self._reach()
        units = ", ".join(commit.unit for commit in batch)
        await self._points.pass_or_hang(f"before commit of {units}")
        verdicts = await store.commit(batch)
        await self._points.pass_or_hang(f"after commit of {units}")
        return verdicts

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        """Post, between two points."""
        store = self._reach()
        units = ", ".join(message.to for message in batch)
        await self._points.pass_or_hang(f"before post to {units}")
        posted = await store.post(batch)
        await self._points.pass_or_hang(f"after post to {units}")
        return posted


class DyingClock:
    """The clock of one life: each alarm is a point, and rings only while the life lasts."""

    def __init__(self, points: Points) -> None:
        """Start at the present."""
        self._points = points
        self._clock = SystemClock()

    def now_ms(self) -> int:
        """The present."""
        return self._clock.now_ms()

    def boot_ms(self) -> int:
        """Time that nobody sets."""
        return self._clock.boot_ms()

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> Alarm:
        """Call `callback` then, unless the life ends before."""
        return self._clock.call_at(at_ms, lambda: self._ring(callback))

    def call_after(self, ms: int, callback: Callable[[], None]) -> Alarm:
        """Call `callback` after so long, unless the life ends before."""
        return self._clock.call_after(ms, lambda: self._ring(callback))

    def _ring(self, callback: Callable[[], None]) -> None:
        if self._points.passed("alarm"):
            callback()


class ObservedApp(App):
    """An app whose activities report their begin and their end, before the result is delivered.

    An activity that begins before its command is durable is a fault.
    """

    def __init__(self, app: App, store: Store, points: Points) -> None:
        """Take the definitions of another app.

        Activities of `executor="process"` run as they are.
        """
        super().__init__(app.name)
        self._observed = app
        self._store = store
        self._points = points
        self._found: dict[str, ActivityDefinition] = {}

    def find_workflow(self, name: str, version: str | None) -> WorkflowDefinition | None:
        """The other app's."""
        return self._observed.find_workflow(name, version)

    def find_activity(self, name: str) -> ActivityDefinition | None:
        """The other app's, observed."""
        # Kept, so that a definition is the same object at each look-up, as in an app.
        if name not in self._found:
            definition = self._observed.find_activity(name)
            # A function for another process is sent by name, and cannot be wrapped.
            if definition is None or definition.executor == "process":
                return definition
            if definition.is_async:
                observe = self._observe_async
            else:
                observe = self._observe
            self._found[name] = replace(definition, fn=observe(definition.fn))
        return self._found[name]

    def _observe_async(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        points = self._points

        @wraps(fn)
        async def observed(*args: Any, **kwargs: Any) -> Any:
            step = self._began()
            await points.pass_or_hang(f"before {step}")
            # Only in memory: reading a file would take the activity's time.
            if not points.kills and not await self._is_scheduled():
                points.faults.append(f"{step} began before its command was durable")
            try:
                return await fn(*args, **kwargs)
            finally:
                # Before the result is delivered: a life that dies here has done the work in vain.
                await points.pass_or_hang(f"after {step}")

        return observed

    def _observe(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        points = self._points

        @wraps(fn)
        def observed(*args: Any, **kwargs: Any) -> Any:
            step = self._began()
            points.pass_or_fail(f"before {step}")
            try:
                return fn(*args, **kwargs)
            finally:
                points.pass_or_fail(f"after {step}")

        return observed

    def _began(self) -> str:
        info = activity.info()
        self._points.calls.append((info.instance, info.run, info.execution, info.seq))
        return f"{info.name} (attempt {info.attempt}) of {info.instance!r}"

    async def _is_scheduled(self) -> bool:
        info = activity.info()
        handle = Client(StoreGateway(self._store)).get(info.instance)
        try:
            history = await handle.history(info.execution)
        except NotFound:
            return False
        scheduled = [e.event.seq for e in history if isinstance(e.event, ActivityScheduled)]
        return info.seq in scheduled

    def make_resources(self) -> AbstractAsyncContextManager[Any] | None:
        """The other app's."""
        return self._observed.make_resources()

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Listen to the other app."""
        return self._observed.on_change(listener)


class ObservedNode(Node):
    """A node of one life: its store, clock, activities and clients report to `Points`."""

    def __init__(self, app: App, store: Store, points: Points, **options: Any) -> None:
        """`store` is open. `options` are `Node`'s."""
        dying = DyingStore(store, points)
        super().__init__(
            ObservedApp(app, dying, points), dying, clock=DyingClock(points), **options
        )
        self.points = points

    @property
    def client(self) -> Client:
        """A client whose messages have the same ids in each life, and are points of it."""
        return Client(_Gate(self))


class _Gate:
    """The gateway of a script.

    The script runs again in each life, and a message that has arrived is not sent again.
    """

    def __init__(self, node: ObservedNode) -> None:
        self._node = node
        self._sent: Counter[bytes] = Counter()

    @property
    def store(self) -> Store:
        return self._node.store

    @property
    def clock(self) -> Clock:
        return self._node.clock

    @property
    def limits(self) -> Limits:
        limits: Limits = self._node.limits
        return limits

    async def send(self, message: Message) -> Outcome:
        self._identify(message)
        points = self._node.points
        what = f"{type(message.body).__name__} to {message.to!r}"
        await points.pass_or_hang(f"before {what}")
        outcome = await self._hand_over(message)
        await points.pass_or_hang(f"after {what}")
        return outcome

    async def post(self, message: Message) -> Outcome:
        return await self.send(message)

    def _identify(self, message: Message) -> None:
        """Give the n-th message of this content to this target the same id in each life.

        The id of a start is the id of its run.
        """
        content = b"%b\0%b" % (message.to.encode(), encode_body(message.body))
        self._sent[content] += 1
        message.id = blake2b(content, digest_size=16, salt=self._sent[content].to_bytes(8)).digest()

    async def _hand_over(self, message: Message) -> Outcome:
        match message.body:
            case Send():
                if await self._has_arrived(message):
                    return "ok"
                return await self._send(message)
            case Raise() | Pause() | Resume():
                # Their ids do not stand in the journal, but the store remembers the ids of posts.
                return await self._post(message)
            case _:
                return await self._node.gateway.send(message)

    async def _send(self, message: Message) -> Outcome:
        outcome = await self._node.gateway.send(message)
        if outcome != "ok" or await self._has_arrived(message):
            return outcome
        # The end of an instance drops the messages that it did not receive.
        if await self._is_open(message.to):
            self._node.points.faults.append(
                f"a message to {message.to!r} was acknowledged and is not durable"
            )
        return outcome

    async def _is_open(self, unit: str) -> bool:
        return (await Client(self._node.gateway).get(unit).status()) not in CLOSED

    async def _post(self, message: Message) -> Outcome:
        message.wait_in(scope_of(message.to, self._node.store.info.shards))
        posted = (await self._node.store.post([message]))[0]
        if posted.outcome not in ("accepted", "duplicate"):
            if posted.answer == "closed":
                return "closed"
            return "missing"
        # The next message of the script must not overtake a control message.
        if not isinstance(message.body, Raise):
            await self._until_taken(message)
        return "ok"

    async def _until_taken(self, message: Message) -> None:
        # An inbox has no news that could be waited for.
        while await self._is_waiting(message):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def _is_waiting(self, message: Message) -> bool:
        inbox = await self._node.store.query(Inbox(unit=message.to, limit=500))
        return any(waiting.id == message.id for waiting in inbox.items)

    async def _has_arrived(self, message: Message) -> bool:
        """Whether a message waits in the inbox, or was received by an execution."""
        handle = Client(self._node.gateway).get(message.to)
        while not await self._is_waiting(message):
            try:
                executions = await handle.executions()
                for execution in executions:
                    if _received(await handle.history(execution), message):
                        return True
                # A new execution may have received it meanwhile. Then all are read again.
                if await handle.executions() == executions:
                    return False
            except NotFound:
                return False
        return True

    async def post_all(self, messages: Sequence[Message]) -> list[Outcome]:
        return [await self.post(message) for message in messages]

    async def begin_all(self, messages: Sequence[Message]) -> list[Began | StoreError]:
        return [await self.begin(message) for message in messages]

    async def begin(self, message: Message) -> Began:
        outcome = await self.send(message)
        if outcome == "joined":
            return outcome, Begun((await find_unit(self._node.store, message.to)).row.run)
        if outcome == "exists":
            return outcome, None
        return outcome, Begun(message.id)

    async def closed(
        self, unit: str, begun: Begun | None = None, *, through_suspension: bool = False
    ) -> UnitRow:
        gateway = self._node.gateway
        return await gateway.closed(unit, begun, through_suspension=through_suspension)

    async def run(self, message: Message) -> tuple[Outcome, UnitRow | None]:
        outcome, begun = await self.begin(message)
        if begun is None:
            return outcome, None
        return outcome, await self.closed(message.to, begun)

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        await self._node.gateway.changed(unit, version, within_ms)


def _received(history: Sequence[HistoryEvent], message: Message) -> bool:
    """Whether an execution received the message."""
    events = [entry.event for entry in history]
    return any(isinstance(event, Received) and event.message == message.id for event in events)
