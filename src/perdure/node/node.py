"""A node: a process that owns scopes and runs turns. This module has its life cycle.

    start()   open the store, claim its scopes, wire the parts of a life, serve
    stop()    end activities, finish commits, leave memory, release the scopes, close the store

A node may be started again. Each start is another life, with another incarnation.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from perdure.client.client import Client
from perdure.client.gateway import MeasuredGateway
from perdure.client.pins import find_scopes
from perdure.cluster import cluster_at
from perdure.errors import StoreUnavailable, UsageError
from perdure.guard import runtime as guard
from perdure.guard.watchdog import Watchdog
from perdure.interceptor import check_interceptors
from perdure.kernel.data.definition import check_text
from perdure.kernel.data.message import Start
from perdure.kernel.data.placement import scopes_of
from perdure.kernel.unit.kinds import WORKFLOW, Kinds
from perdure.kernel.unit.workflow_unit import WorkflowUnit
from perdure.node.deploys import Checks, advertised, guard_level, release
from perdure.node.gateway import NodeGateway
from perdure.node.options import NodeOptions, check_kind
from perdure.node.outlook import Outlook, until_idle
from perdure.node.ownership.lease import Lease
from perdure.node.ownership.ownership import Ownership
from perdure.node.ownership.seat import Seat
from perdure.node.queues.routes import Routes
from perdure.node.surroundings import Surroundings
from perdure.node.telemetry.gauges import NodeGauges
from perdure.node.telemetry.metrics import Metrics, find_provider
from perdure.node.telemetry.tally import NodeMetrics, Tally
from perdure.node.upkeep.elders import Elders
from perdure.node.wiring import Life, wire
from perdure.ports.clock import Clock, SystemClock
from perdure.ports.cluster import Assigner, Member
from perdure.ports.store import Incarnation, SharedStore, Store, Units
from perdure.store import open_store
from perdure.store.measured import MeasuredStore
from perdure.store.seal import check_open

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider

    from perdure.app import App
    from perdure.client.gateway import Gateway
    from perdure.interceptor import Interceptor
    from perdure.kernel.data.limits import Limits
    from perdure.node.loop.turns import Turns
    from perdure.node.scale import Scale
    from perdure.ports.cluster import Assignment, Cluster
    from perdure.sync import LoopFactory, SyncNode

logger = logging.getLogger("perdure.node")


class Node:
    """Runs an app on a store. `async with app.node(url) as node:`, or `start()` and `stop()`.

    Made from a URL, or from explicit parts: a store object of yours, a clock, options. You open and
    close a store of yours.
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
        cluster: Cluster | Assigner | None = None,
    ) -> None:
        """Nothing runs before `start`.

        `interceptors` are around its client's calls, its turns and its activities. Metrics go to
        `meter_provider`, or to that of the process if it has one when the node starts. With a
        `cluster` the node is one of several, and owns the scopes that fall to it. The nodes of a
        PostgreSQL store are a cluster by default. Without a cluster a node owns the whole store.
        """
        self.app = app
        if options is None:
            options = NodeOptions.load()
        self.options = options
        check_kind(
            "options of a node",
            self.options,
            NodeOptions,
            "be NodeOptions(...) or NodeOptions.load(path)",
        )
        self.interceptors = check_interceptors(interceptors)
        if clock is None:
            clock = SystemClock()
        self.clock: Clock = clock
        if name is None:
            self.name = f"{app.name}-{os.getpid()}"
        else:
            self.name = check_text(name, "the name of a node")
        self._incarnation = Incarnation(self.name, os.urandom(8).hex())
        self.gateway = self._make_gateway()
        self._given_store = store
        self._store: Store | None = open_store(store)
        self._cluster = cluster
        self._stack = AsyncExitStack()
        self._life: Life | None = None
        self._seat: Seat | None = None
        if meter_provider is not None:
            find_provider(meter_provider)  # an error belongs here, and not to the start
        self._meter_provider = meter_provider
        self._metrics: Metrics | None = None
        self._measured: Store | None = None
        self._tally = Tally()
        self._checks = Checks(app, self.name)
        self._failure: Exception | None = None
        self._ended: asyncio.Event | None = None
        self._starting = False
        self._stopping = False
        self._abandoned: tuple[str, ...] = ()

    def _make_gateway(self) -> NodeGateway:
        """The way of its client to instances, in each of its lives."""
        return NodeGateway(self._running, lambda: self.store, self.clock, self.options.limits)

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
        """Open the store, claim its scopes, take up the work that waits in it.

        Raises:
            StoreLocked: another process owns the store.
            StoreError: the store cannot be opened.
            UsageError: it runs already, or another call is starting or stopping it.
        """
        self._check_is_at_rest()
        self._starting = True
        try:
            # A start that fails undoes what it has done. One that succeeds leaves that to the stop.
            async with AsyncExitStack() as stack:
                await self._start(stack)
                if self._failure is not None:
                    raise self._failure  # the store has failed meanwhile
                self._stack = stack.pop_all()
        finally:
            self._starting = False

    def _check_is_at_rest(self) -> None:
        """Refuse to start a node that runs, or whose store another call is opening or closing."""
        if self._starting:
            msg = f"node {self.name!r} is being started by another call; await that one"
            raise UsageError(msg)
        if self._life is not None:
            msg = f"node {self.name!r} runs already"
            raise UsageError(msg)
        if self._ended is not None and not self._ended.is_set():
            msg = f"node {self.name!r} is being stopped; await `wait_ended()`, then start it again"
            raise UsageError(msg)

    async def _start(self, stack: AsyncExitStack) -> None:
        ended = asyncio.Event()
        stack.callback(ended.set)  # the first to be pushed is the last to be run
        # New at each start: ids of commits come from it.
        self._incarnation = Incarnation(self.name, os.urandom(8).hex())
        store = self._open_store()
        if isinstance(self._given_store, str):
            await stack.enter_async_context(store)
        # Before the node joins others, who would leave it a share of the work.
        check_open(store)
        cluster = self._cluster
        is_shared = isinstance(store, SharedStore)
        if self.options.worker_only:
            cluster = None
        elif cluster is None and isinstance(store, SharedStore):
            cluster = cluster_at(store.meeting_place)
        # A worker claims nothing, so another process may own the store.
        is_owner = cluster is None and not self.options.worker_only
        store = self._measure(store, stack)
        ownership = Ownership(store, self._incarnation, is_alone=is_owner)
        stack.push_async_callback(self._leave_cluster)  # behind the release
        stack.push_async_callback(self._release, ownership)
        if is_owner:
            # With those that a cluster on this store has made: groups, and pins.
            shards = scopes_of(store.info.shards)
            others = set(await find_scopes(store)).difference(shards)
            await ownership.claim([*shards, *sorted(others)])
        watchdog = Watchdog(self.options.turn_limit_ms)
        stack.callback(watchdog.close)
        guard.install(guard_level)
        await self._set_clock(store)
        resources: object = None
        context = self.app.make_resources()
        if context is not None:
            resources = await stack.enter_async_context(context)
        self._tally = Tally()
        elders = Elders(self.options.gc_residents)
        stack.callback(elders.give_back)
        elders.begin()
        life = self._make_life(store, ownership, watchdog, elders, resources, is_shared=is_shared)
        self._failure = None
        self._ended = ended
        self._life = life
        # For a start whose rest fails. After a stop there is nothing left to halt.
        stack.push_async_callback(self._halt, 0)
        if self._metrics is not None:
            gauges = NodeGauges(self.app.name, store, self.clock, lambda: self.metrics)
            await self._metrics.watch(gauges)
        stack.callback(self.app.on_change(self._definitions_changed))
        self._checks.check()
        # From here on, and not from when the task begins: messages in between are heard of.
        hints = store.hints()
        await life.arrivals.begin()
        life.listen(hints)
        life.worker.begin()
        if is_owner:
            life.owner.serve(ownership.all())
        elif cluster is not None:
            assignments = await self._join(cluster, life)
            life.background.spawn(life.owner.follow(assignments), "perdure-cluster")
        life.deploys.changed()

    async def _join(self, cluster: Cluster | Assigner, life: Life) -> AsyncIterator[Assignment]:
        """Become one of the nodes of a cluster. Return what the node should own from now on."""
        if isinstance(cluster, Assigner):
            return cluster.assignments(self.incarnation)
        options = self.options
        member = Member(
            incarnation=self.incarnation,
            lease_ms=options.lease_ms,
            weight=options.weight,
            groups=self._groups(),
            labels=dict(options.labels),
            code=advertised(self.app, self.name),
            release=release(),
            started_at=self.clock.now_ms(),
        )
        self._seat = Seat(
            cluster,
            member,
            Lease(life.turns.freezer, self.clock, options.lease_ms),
            life.ownership,
            self.clock,
            pins=life.pins,
            needed=self.app.groups(),
            shards=self.store.info.shards,
            hung_ms=options.turn_limit_ms,
            load=life.attempts.load,
            failed=self._store_failed,
            code_changed=life.deploys.changed,
        )
        await self._seat.take()
        return self._seat.assignments()

    def _groups(self) -> tuple[str, ...]:
        """The groups that this node serves: those of its options, or all of its app."""
        if self.options.groups:
            return self.options.groups
        return tuple(self.app.groups())

    async def _leave_cluster(self) -> None:
        if self._seat is not None:
            await self._seat.leave()
            self._seat = None

    def _make_life(
        self,
        store: Store,
        ownership: Ownership,
        watchdog: Watchdog,
        elders: Elders,
        resources: object,
        *,
        is_shared: bool,
    ) -> Life:
        routes = Routes(self.app, self.options)
        return wire(
            Surroundings(
                store,
                is_shared,
                self.app,
                self._kinds(store, routes, ownership),
                self.clock,
                self.options,
                routes,
                self.incarnation,
                ownership,
                watchdog,
                elders,
                self.interceptors,
                resources,
                lambda: self.client,
                self._tally,
                self._metrics,
                self._store_failed,
            )
        )

    def _kinds(self, store: Store, routes: Routes, ownership: Ownership) -> Kinds:
        """The kinds of units that this node knows."""
        info = store.info
        limits = self.options.limits

        is_elsewhere = None
        if not ownership.is_alone:
            is_elsewhere = ownership.is_elsewhere

        def workflow(unit: str) -> WorkflowUnit:
            return WorkflowUnit(
                unit,
                self.app,
                limits,
                shards=info.shards,
                dedupe_ms=info.dedupe_ms,
                is_queued=routes.is_queued,
                is_elsewhere=is_elsewhere,
            )

        return Kinds({WORKFLOW: workflow}, {Start: WORKFLOW})

    def _open_store(self) -> Store:
        # A store is closed at the stop, so the next life opens another one.
        if self._store is None:
            assert isinstance(self._given_store, str)
            self._store = open_store(self._given_store)
        return self._store

    def _measure(self, store: Store, stack: AsyncExitStack) -> Store:
        """The store to work with: one that is measured, if metrics have somewhere to go."""
        provider = find_provider(self._meter_provider)
        if provider is None:
            return store
        metrics = Metrics(provider)
        self._metrics = metrics
        self._measured = MeasuredStore(store, metrics.stored, metrics.timer)
        stack.push_async_callback(self._end_metrics, metrics)
        return self._measured

    async def _end_metrics(self, metrics: Metrics) -> None:
        self._metrics = None
        self._measured = None
        await metrics.unwatch()

    async def _set_clock(self, store: Store) -> None:
        """Let time go on from that of the life before.

        A wall clock that was set back meanwhile must hold up no timer.
        """
        if isinstance(self.clock, SystemClock):
            # The one row that was written last.
            for view in (await store.query(Units(limit=1))).items:
                self.clock.go_on_from(view.row.updated_at)

    def _definitions_changed(self) -> None:
        """New definitions may release instances that wait for them."""
        self._checks.check()
        if self._life is not None:
            self._life.deploys.changed()
        if self._seat is not None:
            self._seat.describe_soon(
                self._groups(), advertised(self.app, self.name), self.app.groups()
            )

    async def stop(self, grace: float | None = None) -> None:
        """Stop in order: finish or cancel activities, finish commits, release the scopes.

        Activities have `grace` seconds (default: `stop_ms`), in which the node's client works.
        Functions that do not end even when they are cancelled are left to themselves, and
        `abandoned` names them. They act until they or the process end, also when another node has
        taken up their instances.

        A second call waits for the first. Unfinished work goes on when a node runs again.
        """
        if self._life is None or self._stopping:
            if self._ended is not None:
                await self._ended.wait()  # another stop is on its way
            return
        grace_ms = self.options.stop_ms
        if grace is not None:
            grace_ms = int(grace * 1000)
        try:
            await self._halt(grace_ms)
        finally:
            await self._stack.aclose()
        if isinstance(self._given_store, str):
            self._store = None

    async def _halt(self, grace_ms: int) -> None:
        """Take no more work, end running attempts, leave memory."""
        life = self._life
        if life is None:
            return
        self._stopping = True
        if self._seat is not None:
            self._seat.announce_leave()
        try:
            if self._failure is not None:
                self._life = None  # no request can be recorded any more
            await life.end_background()
            if self._seat is not None and self._failure is None:
                await life.owner.hand_over(life.attempts.units())
            # Activities may use the client until they have ended.
            self._abandoned = tuple(await life.attempts.stop(grace_ms))
            # Behind the attempts: those that have ended meanwhile have results.
            await life.worker.stop()
            await life.end_background()  # a deploy may have begun some more
            self._life = None
            await life.ending.stop(self._failure)
        except BaseException:
            # The stop itself was cancelled: its event loop ends, or its caller waits no longer.
            self._life = None
            life.leave_at_once()
            raise
        finally:
            self._stopping = False

    @property
    def abandoned(self) -> tuple[str, ...]:
        """The attempts that the last stop left to themselves: their functions do not end."""
        return self._abandoned

    async def _release(self, ownership: Ownership) -> None:
        if self._failure is not None:
            return  # the store could not take it, or another node owns the scopes
        try:
            await ownership.release(ownership.all())
        except StoreUnavailable as error:
            # All that was acknowledged is recorded, so the stop is complete without this.
            text = (
                "node %s has stopped, and its store does not answer: the next node takes over as"
                " after a crash, and nothing that was acknowledged is lost: %s"
            )
            logger.warning(text, self.name, error, extra={"node": self.name})

    def _store_failed(self, error: Exception) -> None:
        """The store cannot go on, so this node must not.

        Its units in memory may be ahead of what is durable.
        """
        self._failure = error
        ids = {"node": self.name}
        logger.critical(
            "node %s stops: the store failed: %s", self.name, error, exc_info=error, extra=ids
        )
        if self._starting or self._life is None:
            return  # then it is the start that fails, and leaves nothing behind
        # In a task of its own: this is called in the middle of a commit's answer.
        self._life.background.spawn(self.stop(0), "perdure-stop")

    async def wait_ended(self) -> None:
        """Wait until the node has stopped.

        Raises:
            StoreError: it stopped because its store failed.
        """
        if self._ended is not None:
            await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def _running(self) -> Turns:
        if self._life is None:
            if self._failure is not None:
                msg = (
                    f"node {self.name!r} has stopped because its store failed: {self._failure}."
                    " Start it again when the store is sound"
                )
                raise StoreUnavailable(msg)
            msg = f"node {self.name!r} is not running; start it, or use `async with`"
            raise UsageError(msg)
        return self._life.turns

    # ------------------------------------------------------------ for users

    @property
    def client(self) -> Client:
        """A client whose messages reach this node in memory."""
        gateway: Gateway = self.gateway
        if self._metrics is not None:
            gateway = MeasuredGateway(gateway, self._metrics.called, self._metrics.timer)
        return Client(gateway, self.interceptors)

    def sync(self, *, loop_factory: LoopFactory | None = None) -> SyncNode:
        """The same node for synchronous code: `with app.node(url).sync() as node:`.

        It runs on an event loop of its own, on a thread of its own. `loop_factory` makes that loop,
        for example `uvloop.new_event_loop`.
        """
        from perdure.sync import SyncNode  # most programs never need it
        from perdure.sync.portal import Portal

        return SyncNode(self, Portal(f"node {self.name!r}", loop_factory))

    @property
    def incarnation(self) -> Incarnation:
        """This life of the node. Other nodes that take it for dead end it, too."""
        if self._life is not None:
            return self._life.ownership.incarnation
        return self._incarnation

    @property
    def residents(self) -> int:
        """How many instances are in memory."""
        if self._life is None:
            return 0
        return len(self._life.turns.memory.residents)

    @property
    def failure(self) -> Exception | None:
        """Why the node cannot go on: its store failed. None: it can."""
        return self._failure

    def why_not_ready(self) -> list[str]:
        """Why the node takes no work now, for people. Empty: it serves all that falls to it."""
        if self._failure is not None:
            return [f"its store failed: {self._failure}"]
        if self._starting:
            return ["it starts"]
        if self._life is None:
            return ["it does not run"]
        if self._stopping:
            return ["it is draining"]
        return self._outlook().why_not_ready()

    async def scale(self) -> Scale:
        """How much waits for the nodes of the store, and how busy they are.

        Raises:
            PerdureError: the store or the cluster does not answer, or the node does not run.
        """
        return await self._outlook().scale()

    async def wait_idle(self, seconds: float = 10.0) -> None:
        """Wait until there was nothing to do for so long, and nothing is due as soon.

        A timer that is due within `seconds` holds the wait, and so does a member that may be dead.

        Raises:
            UsageError: the node does not run, or has stopped meanwhile.
        """
        await until_idle(self._outlook, seconds)

    def _outlook(self) -> Outlook:
        self._running()  # refuses if it does not run
        assert self._life is not None, "it runs"
        return Outlook(self.store, self._life, self._seat, self.incarnation, self.options.lease_ms)

    @property
    def scopes(self) -> dict[str, str]:
        """The scopes that the node owns now, each with its state."""
        if self._life is None:
            return {}
        return {scope.name: scope.state for scope in self._life.ownership.all()}

    @property
    def metrics(self) -> NodeMetrics:
        """The numbers of its work since its start, which stay when it stops.

        They need no OpenTelemetry.
        """
        running = 0
        waiting = 0
        if self._life is not None:
            running = self._life.attempts.running
            waiting = self._life.attempts.waiting
        return self._tally.snapshot(self.residents, running, waiting)

    @property
    def store(self) -> Store:
        """The node's store."""
        if self._measured is not None:
            return self._measured
        return self._open_store()

    @property
    def limits(self) -> Limits:
        """The limits of instances on this node."""
        return self.options.limits
