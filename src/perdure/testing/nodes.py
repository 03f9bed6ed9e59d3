"""Several nodes in one process, on virtual time, for tests of what happens when nodes die.

    async with TestCluster(app, nodes=3) as cluster:
        order = cluster.client.workflow(checkout, id="order-1")
        await order.start(cart)
        await (await cluster.owner("order-1")).kill()
        assert await order.result() == "paid"

The nodes are real: they renew leases, watch each other, place the scopes and take them over, as on
machines of their own. The store is in memory. All that the event loop waits for takes no time.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, overload

from perdure.activity import Activity
from perdure.client.client import Client
from perdure.client.gateway import StoreGateway
from perdure.cluster.local import LocalCluster
from perdure.errors import UsageError
from perdure.kernel.data.limits import check_count
from perdure.kernel.data.placement import scope_of, scopes_of
from perdure.kernel.data.retry import Seconds, to_ms
from perdure.node import NodeOptions
from perdure.ports.store import Scopes
from perdure.store.memory import MemoryStore
from perdure.testing.calls import ActivityRecord, read_calls
from perdure.testing.cluster_node import ClusterNode
from perdure.testing.fakes import FakedApp
from perdure.testing.links import Links
from perdure.testing.skipping import WaitsForever
from perdure.testing.virtual_time import VirtualTime
from perdure.testing.waits import describe_waits
from perdure.transport.inprocess import InProcessNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType
    from typing import ParamSpec, TypeVar

    from perdure.app import App
    from perdure.ports.cluster import Assigner
    from perdure.ports.store import Store

    P = ParamSpec("P")
    R = TypeVar("R")

SHARDS = 16
"""The shards of the store that a cluster makes for itself."""

LIMIT = timedelta(hours=6)
"""Virtual time after which a test waits for something that never comes.

Three idle nodes take a second of the processor for an hour of it: they renew their leases.
"""

_LOOK_S = 0.05
"""How often a wait for owners looks again, in virtual time."""

_MACHINE_NS = 1_000_000_000_000
"""Each machine has been running so much longer than the one before: their boot times differ."""


class TestCluster:
    """Some nodes of one app that share a store. Use it with `async with`.

    While it lasts, the time of the running event loop is virtual: it stands still while there is
    something to do, and jumps to the next timer when there is nothing. That goes for the test's own
    `asyncio.sleep` and `asyncio.timeout`, too. Functions on threads and open sockets take real
    time.
    """

    # pytest would take a class of this name for one with tests.
    __test__ = False

    def __init__(
        self,
        app: App,
        *,
        nodes: int = 3,
        activities: Mapping[Activity[..., Any] | str, Callable[..., object]] | None = None,
        options: NodeOptions | None = None,
        store: Store | None = None,
        seed: int = 0,
        limit: Seconds = LIMIT,
    ) -> None:
        """Nothing runs before it is entered.

        `activities` has fakes for activities, as `replace` takes them. `options` are those of each
        node. `store` is another one than a new store in memory. It must work on the event loop, and
        is opened and closed by the caller. `seed` decides what goes wrong where only a probability
        is given. `limit` is the virtual time after which the test fails, because it waits in vain.

        Raises:
            UsageError: a number is out of range, or a fake does not fit.
        """
        check_count("nodes of a TestCluster", nodes)
        self._limit_s = to_ms(limit, "limit of a TestCluster") / 1000
        # All nodes share it: a fake that is changed later is changed on each of them.
        self._faked = FakedApp(app)
        for activity, fake in (activities or {}).items():
            self._faked.replace(activity, fake)
        if options is None:
            options = NodeOptions(stop_ms=0)
        self.virtual = VirtualTime()
        # For the store and its client. Each node has a clock of its own, which can be set.
        self.clock = self.virtual.clock()
        self._given_store = store
        self.store: Store = self._make_store()
        self.links = Links(InProcessNetwork(seed, self.clock))
        members = self._members()
        self.nodes: tuple[ClusterNode, ...] = tuple(
            ClusterNode(
                f"node-{number}",
                self._faked,
                self.store,
                members,
                options=options,
                virtual=self.virtual,
                links=self.links,
                boot_ns=number * _MACHINE_NS,
                seed=seed + number,
            )
            for number in range(nodes)
        )
        self._stack = AsyncExitStack()
        self._deadline: asyncio.Timeout | None = None

    def _make_store(self) -> Store:
        if self._given_store is not None:
            return self._given_store
        return MemoryStore(shards=SHARDS, clock=self.clock)

    def _members(self) -> LocalCluster | Assigner | None:
        """What says which node should own which scopes. None: a single node owns all of them."""
        return LocalCluster(self.clock)

    # ------------------------------------------------------------ life cycle

    async def __aenter__(self) -> Self:
        """Start all nodes, and wait until each scope has its owner.

        Raises:
            UsageError: the time of this event loop cannot be virtual.
        """
        async with AsyncExitStack() as stack:
            loop = asyncio.get_running_loop()
            stack.enter_context(self.virtual.on(loop))
            self.virtual.real_work = [self._has_real_work]
            if self._given_store is None:
                await stack.enter_async_context(self.store)
            # Before the start: if one node fails to start, the others are stopped all the same.
            stack.push_async_callback(self._end)
            async with asyncio.timeout(self._limit_s):
                await asyncio.gather(*(node.start() for node in self.nodes))
                await self.settled()
            # Innermost, so that the nodes are stopped behind it.
            self._deadline = await stack.enter_async_context(asyncio.timeout(self._limit_s))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all faults, and stop all nodes.

        Raises:
            WaitsForever: the body waited until the limit of its time.
        """
        report = ""
        deadline = self._deadline
        if deadline is not None and deadline.expired():
            # Before the exit, which closes the store that is asked for the waits.
            report = await self._describe()
        try:
            await self._stack.__aexit__(kind, error, trace)
        except TimeoutError:
            if not report:
                raise  # another one, of the body
            raise WaitsForever(report) from None

    async def _describe(self) -> str:
        waits = await describe_waits(Client(StoreGateway(self.store)), None)
        return (
            f"the test has waited until {self.now():%Y-%m-%d %H:%M} of virtual time, which is the "
            f"limit (limit= of TestCluster).\n{waits}"
        )

    async def _end(self) -> None:
        # A limit of its own, because that of the body may be used up.
        async with asyncio.timeout(self._limit_s):
            await asyncio.gather(*(node.end() for node in self.nodes))

    def _has_real_work(self) -> bool:
        return any(node.has_real_work for node in self.nodes)

    # ------------------------------------------------------------ asking

    @property
    def client(self) -> Client:
        """A client that has the store, so that it works whichever nodes live."""
        return Client(StoreGateway(self.store, self.clock))

    def node(self, number: int) -> ClusterNode:
        """The node of this number, from 0.

        Raises:
            UsageError: there is none.
        """
        if not 0 <= number < len(self.nodes):
            msg = f"the cluster has no node {number}; it has {len(self.nodes)}, from 0"
            raise UsageError(msg)
        return self.nodes[number]

    def now(self) -> datetime:
        """The present, in UTC, by a clock that nobody sets."""
        return datetime.fromtimestamp(self.virtual.wall_ns() / 1e9, UTC)

    async def owner(self, id: str) -> ClusterNode:
        """The node on which an instance of this id runs. Wait until one has taken it up.

        A frozen node counts until another one has taken its scopes over.
        """
        scope = scope_of(id, self.store.info.shards)
        while True:
            page = await self.store.query(Scopes(scopes=(scope,)))
            for view in page.items:
                # Both must agree: at a claim the store knows it first, and a node that has lost its
                # scopes to another one learns of it last.
                for node in self.nodes:
                    if (
                        node.is_running
                        and view.owner == node.node.incarnation
                        and scope in node.scopes
                    ):
                        return node
            await asyncio.sleep(_LOOK_S)

    async def settled(self) -> None:
        """Wait until each scope has exactly one owner that knows it, among the nodes that work."""
        wanted = sorted(scopes_of(self.store.info.shards))
        while True:
            owned: list[str] = []
            for node in self.nodes:
                # A frozen node still believes that it owns what others have taken over.
                if not node.is_frozen:
                    owned += node.scopes
            if sorted(owned) == wanted:
                return
            await asyncio.sleep(_LOOK_S)

    # ------------------------------------------------------------ fakes and calls

    @overload
    def replace(self, activity: str, fake: Callable[..., object]) -> Self: ...
    @overload
    def replace(
        self, activity: Activity[P, R], fake: Callable[P, Coroutine[Any, Any, R]]
    ) -> Self: ...
    @overload
    def replace(self, activity: Activity[P, R], fake: Callable[P, R]) -> Self: ...
    def replace(self, activity: Any, fake: Any) -> Self:
        """Run `fake` where the activity would run, on each node, from its next attempt on.

        Raises:
            UsageError: the app does not have the activity, or the fake cannot be called as it is.
        """
        self._faked.replace(activity, fake)
        return self

    async def calls(
        self, activity: Activity[..., Any] | None = None, *, id: str | None = None
    ) -> list[ActivityRecord]:
        """The calls of activities that workflows have made, in their order in time.

        They are read from the histories, so each is there once, however often it was tried.

        Raises:
            NotFound: no instance has this id.
        """
        records = await read_calls(self.client, self._faked, id)
        if activity is None:
            return records
        return [record for record in records if record.name == activity.name]
