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
from random import Random
from typing import TYPE_CHECKING, Self

from perdure.client.client import Client
from perdure.client.gateway import MeasuredGateway
from perdure.client.pins import find_scopes
from perdure.cluster import cluster_at
from perdure.guard import runtime as guard
from perdure.guard.watchdog import Watchdog
from perdure.interceptor import check_interceptors
from perdure.kernel.data.definition import check_text
from perdure.kernel.data.placement import scopes_of
from perdure.node.deploys import Checks, advertised, guard_level
from perdure.node.front.door import Door, door_of
from perdure.node.front.listening import Listening
from perdure.node.gateway import NodeGateway
from perdure.node.kinds import kinds_of
from perdure.node.options import NodeOptions, check_kind
from perdure.node.outlook import Outlook, until_idle
from perdure.node.ownership.lease import Lease
from perdure.node.ownership.ownership import Ownership
from perdure.node.ownership.seat import Seat, Told
from perdure.node.profile import groups_of, profile_of
from perdure.node.queues.routes import Routes
from perdure.node.standing import Standing
from perdure.node.surroundings import Surroundings, go_on_from_last
from perdure.node.telemetry.gauges import NodeGauges
from perdure.node.telemetry.metrics import Metrics, find_provider
from perdure.node.telemetry.tally import NodeMetrics, Tally
from perdure.node.upkeep.elders import Elders
from perdure.node.wiring import Life, wire
from perdure.ports.clock import Clock, SystemClock
from perdure.ports.cluster import Assigner
from perdure.ports.store import Incarnation, SharedStore, Store
from perdure.ports.transport import Peer
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
    from perdure.kernel.unit.kinds import Kinds
    from perdure.node.front.peers import Peers
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
        listen: str | Door | None = None,
    ) -> None:
        """Nothing runs before `start`.

        `interceptors` are around its client's calls, its turns and its activities. Metrics go to
        `meter_provider`, or to that of the process if it has one when the node starts. With a
        `cluster` the node is one of several, and owns the scopes that fall to it. The nodes of a
        PostgreSQL store are a cluster by default. Without a cluster a node owns the whole store.

        With `listen="HOST:PORT"` it answers other nodes and the clients of `perdure.connect`, and
        `address` says where. A `Door` has the token, TLS and the address that others use, too.
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
        self._door = door_of(listen, self.clock)
        self._listening: Listening | None = None
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
        limits = self.options.limits
        return NodeGateway(self._running, lambda: self.store, self.clock, limits, self._peers)

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
        has_ended = self._ended is None or self._ended.is_set()
        self._standing().check_is_at_rest(has_ended=has_ended)
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
        await self._bind(store, stack)  # before it joins, so that the others learn its address
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
        await go_on_from_last(self.clock, store)
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
        if self._listening is not None:
            await self._listening.begin()

    # ------------------------------------------------------------ listening

    async def _bind(self, store: Store, stack: AsyncExitStack) -> None:
        """Take the address at which the node listens, if it does."""
        if self._door is None:
            return
        me = Peer(self._incarnation, store.info.id)
        self._listening = Listening(
            self._door.make(me, self.clock),
            self.gateway,
            self.name,
            Random(),
            self.clock,
            self.options.lease_ms,
            self._at_work,
            lambda: self._seat,
        )
        stack.push_async_callback(self._stop_listening)
        await self._listening.bind()

    async def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.close()

    def _peers(self) -> Peers | None:
        """The other nodes, while this one listens."""
        if self._listening is None:
            return None
        return self._listening.peers

    def _at_work(self) -> Life | None:
        """The present life, unless it is being ended."""
        if self._stopping:
            return None
        return self._life

    async def _join(self, cluster: Cluster | Assigner, life: Life) -> AsyncIterator[Assignment]:
        """Become one of the nodes of a cluster. Return what the node should own from now on."""
        if isinstance(cluster, Assigner):
            return cluster.assignments(self.incarnation)
        options = self.options
        seen = None
        if self._listening is not None:
            seen = self._listening.members_changed
        member = profile_of(self.app, options, self.incarnation, self.address, self.clock.now_ms())
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
            told=Told(self._store_failed, life.deploys.changed, seen),
        )
        await self._seat.take()
        return self._seat.assignments()

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
                self._listening,
            )
        )

    def _kinds(self, store: Store, routes: Routes, ownership: Ownership) -> Kinds:
        return kinds_of(self.app, self.options.limits, store.info, routes, ownership)

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

    def _definitions_changed(self) -> None:
        """New definitions may release instances that wait for them."""
        self._checks.check()
        if self._life is not None:
            self._life.deploys.changed()
        if self._seat is not None:
            self._seat.describe_soon(
                groups_of(self.app, self.options),
                advertised(self.app, self.name),
                self.app.groups(),
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
            # First of all: clients go on with other nodes at once.
            await self._stop_listening()
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
        await ownership.release_all(self.name)

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
            self._standing().refuse_request()
        return self._life.turns

    def _standing(self) -> Standing:
        runs = self._life is not None
        return Standing(self.name, self._failure, self._starting, runs, self._stopping)

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
    def address(self) -> str | None:
        """Where other nodes and clients reach this node. None: it does not listen now."""
        if self._listening is None:
            return None
        return self._listening.address

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
        why = self._standing().why_not_ready()
        if why:
            return why
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
