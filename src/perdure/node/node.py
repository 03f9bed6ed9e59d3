"""A node: a process that owns scopes and runs turns. This module wires the parts and gives them a life cycle."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from perdure.client import Client
from perdure.errors import NotFound, StoreUnavailable, UsageError, WorkflowViolation
from perdure.gateway import (
    Begun,
    MeasuredGateway,
    find_row,
    find_run,
    find_unit,
    joins,
)
from perdure.interceptor import check_interceptors, overriding
from perdure.kernel.commit import CLOSED, Fence, UnitRow
from perdure.kernel.definition import check_text
from perdure.kernel.message import Start
from perdure.kernel.placement import scopes_of
from perdure.kernel.run import current_run
from perdure.node import guard
from perdure.node.arrivals import Arrivals
from perdure.node.attempts import Attempts
from perdure.node.backlog import Backlog
from perdure.node.gauges import NodeGauges
from perdure.node.metrics import Metrics, find_provider
from perdure.node.options import NodeOptions, check_kind
from perdure.node.scan import scan
from perdure.node.suspects import Suspects
from perdure.node.sweeper import Sweeper
from perdure.node.tally import NodeMetrics, Tally
from perdure.node.turns import Turns
from perdure.node.watchdog import Watchdog
from perdure.ports.clock import Clock, SystemClock
from perdure.ports.store import Hint, Incarnation, Store, Units
from perdure.store import open_store
from perdure.store.measured import MeasuredStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider

    from perdure.app import App
    from perdure.interceptor import Interceptor
    from perdure.kernel.definition import WorkflowDefinition
    from perdure.kernel.limits import Limits
    from perdure.kernel.message import Message
    from perdure.kernel.turn import Outcome
    from perdure.sync import LoopFactory, SyncNode

logger = logging.getLogger("perdure.node")

_ROUND_MS = 5_000
"""How long one wait for a change lasts. It is then simply repeated."""


class Node:
    """Runs an app on a store. `async with app.node(url) as node:`, or `start()` and `stop()`.

    Made from a URL, or from explicit parts: a store object of yours (you open and close it), a clock, options.
    """

    def __init__(
        self,
        app: App,
        store: str | Store,
        *,
        options: NodeOptions | None = None,
        clock: Clock | None = None,
        name: str | None = None,
        interceptors: Sequence[Interceptor] = (),
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Nothing runs before `start`. `interceptors` are around its client's calls, its turns and its activities.

        Metrics go to `meter_provider`, or to that of the process if it has one when the node starts.
        """
        self.app = app
        self.options = options if options is not None else NodeOptions.load()
        check_kind(
            "options of a node",
            self.options,
            NodeOptions,
            "be NodeOptions(...) or NodeOptions.load(path)",
        )
        self.interceptors = check_interceptors(interceptors)
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.name = (
            check_text(name, "the name of a node")
            if name is not None
            else f"{app.name}-{os.getpid()}"
        )
        self.incarnation = Incarnation(self.name, os.urandom(8).hex())
        self._given_store = store
        self._store: Store | None = open_store(store)
        self._stack = AsyncExitStack()
        self._turns: Turns | None = None
        self._attempts: Attempts | None = None
        self._fences: dict[str, Fence] = {}
        if meter_provider is not None:
            find_provider(meter_provider)
        self._meter_provider = meter_provider
        self._metrics: Metrics | None = None
        self._measured: Store | None = None
        self._tally = Tally()
        self._background: set[asyncio.Task[None]] = set()
        self._reloading = False
        self._backlog: Backlog | None = None
        self._suspects: Suspects | None = None
        self._checked: set[WorkflowDefinition] = set()
        self._failure: Exception | None = None
        self._ended: asyncio.Event | None = None
        self._starting = False
        self._stopping = False
        self._abandoned: tuple[str, ...] = ()

    # ------------------------------------------------------------ life cycle

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> None:
        """Open the store, claim its scopes, take up what waits in it.

        Raises:
            StoreLocked: another process owns the store.
            StoreError: the store cannot be opened.
            UsageError: it runs already, or another call is starting it.
        """
        if self._turns is not None:
            msg = f"node {self.name!r} runs already"
            raise UsageError(msg)
        if self._starting:
            msg = f"node {self.name!r} is being started by another call; await that one"
            raise UsageError(msg)
        async with AsyncExitStack() as stack:
            self._starting = True
            try:
                await self._start(stack)
            finally:
                self._starting = False
            if self._failure is not None:
                raise self._failure
            self._stack = stack.pop_all()

    async def _start(self, stack: AsyncExitStack) -> None:
        ended = asyncio.Event()
        stack.callback(ended.set)  # the first to be pushed is the last to be run
        self.incarnation = Incarnation(
            self.name, os.urandom(8).hex()
        )  # new at each start: ids of commits come from it
        store = self._open_store()
        if isinstance(self._given_store, str):
            await stack.enter_async_context(store)
        store = self._measure(store, stack)
        scopes = scopes_of(store.info.shards)
        self._suspects = None
        claims = await store.claim(scopes, self.incarnation)
        crashed = not all(claim.clean for claim in claims.values())
        stack.push_async_callback(self._release, store, crashed)
        self._fences = {s: Fence(s, c.epoch, self.incarnation.id) for s, c in claims.items()}
        watchdog = Watchdog(self.options.turn_limit_ms)
        stack.callback(watchdog.close)
        guard.install(_guard_level)
        incarnation = bytes.fromhex(self.incarnation.id)
        turns = Turns(
            store,
            self.app,
            self.clock,
            self.options,
            self._fences,
            watchdog,
            incarnation,
            self._store_failed,
        )
        attempts = Attempts(turns, self.app, self.clock, self.options)
        attempts.offer_client(lambda: self.client)
        turns.use(attempts)
        turns.name_node(self.name)
        await self._set_clock(store)
        self._suspects = suspects = Suspects(
            turns, self._fences, self.clock, self.options, crashed=crashed
        )
        turns.loader.admit = suspects.admit
        attempts.name_node(self.name)
        turns.interceptors = overriding(self.interceptors, "turn")
        attempts.interceptors = overriding(self.interceptors, "activity")
        resources = self.app.make_resources()
        if resources is not None:
            attempts.resources = await stack.enter_async_context(resources)
        self._turns, self._attempts, self._tally = turns, attempts, turns.tally
        stack.push_async_callback(
            self._halt, 0
        )  # if the rest of the start fails; after a stop there is nothing left
        if self._metrics is not None:
            turns.metrics = attempts.metrics = self._metrics
            await self._metrics.watch(
                NodeGauges(self.app.name, store, self.clock, lambda: self.metrics)
            )
        self._ended, self._failure = ended, None
        stack.callback(self.app.on_change(self._definitions_changed))
        self._check_definitions()
        # Listened to from here on, not from when the task begins: what is posted in between is heard.
        self._spawn(self._follow_hints(store.hints()), "perdure-hints")
        arrivals = Arrivals(turns, self.options, scopes)
        await arrivals.begin()
        self._backlog = Backlog(turns, self.clock, self.options, scopes, self._spawn)
        self._spawn(self._take_up(self._backlog, suspects), "perdure-scan")
        self._spawn(self._wake_held(), "perdure-wake")
        self._spawn(arrivals.run(), "perdure-arrivals")
        self._spawn(
            Sweeper(turns, self.clock, self.options, list(self._fences.values())).run(),
            "perdure-sweeper",
        )

    def _open_store(self) -> Store:
        if self._store is None:
            assert isinstance(self._given_store, str)
            self._store = open_store(self._given_store)
        return self._store

    def _measure(self, store: Store, stack: AsyncExitStack) -> Store:
        """The store to work with: one that is measured, if metrics have somewhere to go."""
        provider = find_provider(self._meter_provider)
        if provider is None:
            return store
        self._metrics = metrics = Metrics(provider)
        self._measured = MeasuredStore(store, metrics.stored, metrics.timer)
        stack.push_async_callback(self._end_metrics, metrics)
        return self._measured

    async def _end_metrics(self, metrics: Metrics) -> None:
        self._metrics = self._measured = None
        await metrics.unwatch()

    async def stop(self, grace: float | None = None) -> None:
        """Stop in order: finish or cancel activities within `grace` seconds (default: `stop_ms`), finish commits,
        release the scopes.

        While activities have their grace, the node's client works. Functions that do not end even when they are
        cancelled are left to themselves, and `abandoned` names them: they act until they or the process end, also
        when another node has taken up their instances.

        Idempotent. What did not finish goes on when a node runs again.
        """
        if self._turns is None or self._stopping:
            if self._ended is not None:
                await self._ended.wait()  # another stop is on its way
            return
        try:
            await self._halt(self.options.stop_ms if grace is None else int(grace * 1000))
        finally:
            await self._stack.aclose()
        if isinstance(self._given_store, str):
            self._store = None

    async def _halt(self, grace_ms: int) -> None:
        """Take no more work, end what runs, leave memory."""
        turns, attempts = self._turns, self._attempts
        if turns is None or attempts is None:
            return
        self._stopping = True
        try:
            if self._failure is not None:
                self._turns = None  # nothing that is asked of it can be recorded any more
            await self._end_background()
            self._abandoned = tuple(
                await attempts.stop(grace_ms)
            )  # they may use the client until they have ended
            await self._end_background()
            self._turns = None
            await turns.stop(self._failure)
            self._attempts = None
        finally:
            self._stopping = False

    async def _end_background(self) -> None:
        if self._backlog is not None:
            self._backlog.stop()
        if self._suspects is not None:
            self._suspects.stop()
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(list(self._background))

    @property
    def abandoned(self) -> tuple[str, ...]:
        """The attempts that the last stop left to themselves, because their functions do not end."""
        return self._abandoned

    async def _release(self, store: Store, crashed: bool) -> None:
        """A crash of the last owner that has not been counted yet is left for the next start, which counts it."""
        counted = not crashed or (self._suspects is not None and self._suspects.counted)
        if self._failure is None and counted:
            await store.release(list(self._fences.values()))

    def _store_failed(self, error: Exception) -> None:
        """The store cannot go on, so this node must not: what it holds in memory may be ahead of what is durable."""
        self._failure = error
        ids = {"node": self.name}
        logger.critical(
            "node %s stops: the store failed: %s", self.name, error, exc_info=error, extra=ids
        )
        if self._starting:
            return  # then it is the start that fails, and leaves nothing behind
        self._spawn(self._stop_failed(), "perdure-stop")

    async def _stop_failed(self) -> None:
        me = asyncio.current_task()
        if me is not None:
            self._background.discard(me)
        await self.stop(0)

    async def wait_ended(self) -> None:
        """Wait until the node has stopped.

        Raises:
            StoreError: it stopped because its store failed.
        """
        if self._ended is not None:
            await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            text = (
                "background work %s of node %s has failed; restart the node, and please report it"
            )
            logger.error(
                text, task.get_name(), self.name, exc_info=error, extra={"node": self.name}
            )

    # ------------------------------------------------------------ what waits in the store

    async def _set_clock(self, store: Store) -> None:
        """Time goes on from the former life's: a wall clock that was set back meanwhile holds up no timer."""
        if isinstance(self.clock, SystemClock):
            for view in (await store.query(Units(limit=1))).items:
                self.clock.go_on_from(view.row.updated_at)

    async def _take_up(self, backlog: Backlog, suspects: Suspects) -> None:
        """Take up all units that are due or have mail, in the background: a node works while its backlog drains."""
        await backlog.scan(suspects)
        if not suspects.counted:
            self._spawn(suspects.run(), "perdure-trials")

    async def _follow_hints(self, hints: AsyncIterator[Hint]) -> None:
        async for hint in hints:
            self._running().mail(hint.unit)

    def _check_definitions(self) -> None:
        """Look at workflow code for what replay cannot repeat, once per definition.

        Raises:
            WorkflowViolation: naming each place, for definitions with `guard="error"`.
        """
        found: list[str] = []
        for definition in self.app.definitions():
            if definition in self._checked or definition.guard == "off":
                continue
            findings = [
                f"{f.file}:{f.line}: {f.rule.code} {f.name} in workflow {definition.name!r}: {f.remedy}"
                for f in scan(definition.fn)
            ]
            if findings and definition.guard == "error":
                found += findings
                continue  # it is looked at again when the next start is tried
            self._checked.add(definition)
            guard.watch(definition.fn)
            for finding in findings:
                logger.warning(
                    "%s", finding, extra={"node": self.name, "workflow": definition.name}
                )
        if found:
            msg = (
                "workflow code must be deterministic (guard='warn' or 'off' in @app.workflow lets it run):\n  "
                + "\n  ".join(found)
            )
            raise WorkflowViolation(msg)

    def _definitions_changed(self) -> None:
        """New definitions may release what waits for them."""
        self._check_definitions()
        if self._reloading or self._turns is None:
            return
        self._reloading = True
        asyncio.get_running_loop().call_soon(lambda: self._spawn(self._wake_held(), "perdure-wake"))

    async def _wake_held(self) -> None:
        """Try again what is held until a deploy: this may be it."""
        self._reloading = False
        self._running().definitions_changed()
        if self._backlog is not None:
            await self._backlog.try_held()

    def _running(self) -> Turns:
        if self._turns is None:
            if self._failure is not None:
                msg = f"node {self.name!r} has stopped because its store failed: {self._failure}. Start it again then"
                raise StoreUnavailable(msg)
            msg = f"node {self.name!r} is not running; start it, or use `async with`"
            raise UsageError(msg)
        return self._turns

    # ------------------------------------------------------------ the gateway of its client

    @property
    def client(self) -> Client:
        """A client whose messages reach this node in memory."""
        metrics = self._metrics
        gateway = self if metrics is None else MeasuredGateway(self, metrics.called, metrics.timer)
        return Client(gateway, self.interceptors)

    def sync(self, *, loop_factory: LoopFactory | None = None) -> SyncNode:
        """The same node for synchronous code: `with app.node(url).sync() as node:`.

        It runs on an event loop of its own, on a thread of its own. `loop_factory` makes that loop;
        `uvloop.new_event_loop` is one.
        """
        from perdure.sync import SyncNode  # most programs never need it
        from perdure.sync.portal import Portal

        return SyncNode(self, Portal(f"node {self.name!r}", loop_factory))

    @property
    def residents(self) -> int:
        """How many instances are in memory."""
        return len(self._turns.residents) if self._turns is not None else 0

    @property
    def metrics(self) -> NodeMetrics:
        """What it has done since its start, in whole numbers that stay when it stops. It needs no OpenTelemetry."""
        attempts = self._attempts
        running, waiting = (attempts.running, attempts.waiting) if attempts is not None else (0, 0)
        return self._tally.snapshot(self.residents, running, waiting)

    @property
    def store(self) -> Store:
        """The node's store."""
        return self._measured if self._measured is not None else self._open_store()

    @property
    def limits(self) -> Limits:
        """Limits of instances on this node."""
        return self.options.limits

    async def send(self, message: Message) -> Outcome:
        """Deliver a message to a unit of this node; the outcome once it is durable."""
        turns = self._running()
        ack: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        turns.deliver(message, ack)
        return await ack

    async def begin(self, message: Message) -> tuple[Outcome, Begun | None]:
        """Deliver a start; its outcome, and the run that it began or joined."""
        outcome = await self.send(message)
        if outcome == "joined":
            return outcome, await self._joined(message)
        return outcome, Begun(message.id) if outcome != "exists" else None

    async def _joined(self, message: Message) -> Begun:
        """The run that a start has just joined."""
        start = message.body
        assert isinstance(start, Start)
        row = self._running().row(message.to)
        if row is None:
            view = await find_row(self.store, message.to)
            row = view.row if view is not None else None
        if row is not None and joins(row, start):
            return Begun(row.run)
        return Begun(
            b""
        )  # it was deleted or replaced since: no run has this id, so its end is found to be gone

    async def closed(self, unit: str, begun: Begun | None = None) -> UnitRow:
        """Wait until a run has ended; its row. Without `begun` it is the run that is current at the call."""
        turns = self._running()
        run = begun.run if begun is not None else await self._current_run(unit)
        future = turns.waiters.add(unit, run)
        try:
            row = turns.row(unit)
            if row is None or row.run != run:
                row = await self._look_for(unit, run, future)
            if row.status in CLOSED:
                return row
            return await self._end_of(unit, future)
        finally:
            turns.waiters.remove(unit, run, future)

    async def _current_run(self, unit: str) -> bytes:
        """The run that has the id now; the first one, once its start is taken, if that waits in the inbox still."""
        turns = self._running()
        row = turns.row(unit)
        if row is not None:
            return row.run
        while not (found := await find_unit(turns.store, unit)).is_stored:
            await self.changed(unit, 0, _ROUND_MS)
        return found.row.run

    async def _look_for(self, unit: str, run: bytes, future: asyncio.Future[UnitRow]) -> UnitRow:
        """The row of a run that no row in memory shows: it may be busy, out of memory, or gone."""
        try:
            row = (await find_run(self._running().store, unit, Begun(run))).row
        except NotFound:
            if not future.done():
                raise
        else:
            if not future.done():
                return row
        return future.result()  # it ended while the store was asked

    async def _end_of(self, unit: str, future: asyncio.Future[UnitRow]) -> UnitRow:
        """Wait, when it is sure that the run has not ended yet."""
        return await future

    async def run(self, message: Message) -> tuple[Outcome, UnitRow | None]:
        """Deliver a start and wait for the end of the run that it began or joined."""
        turns = self._running()
        future = turns.waiters.add(message.to, message.id)
        try:
            outcome = await self.send(message)
            if outcome == "exists":
                return outcome, None
            if outcome == "joined":
                return outcome, await self.closed(message.to, await self._joined(message))
            return outcome, await self._end_of(message.to, future)
        finally:
            turns.waiters.remove(message.to, message.id, future)

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Wait until the unit's row has another version than `version`, or the time is up."""
        await self._running().store.wait_change(unit, version, within_ms)


def _guard_level() -> guard.GuardLevel | None:
    run = current_run()
    return run.definition.guard if run is not None else None
