"""One node of a `TestCluster`, and what a test can do to it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

from perdure.client.client import Client
from perdure.cluster.local import LocalCluster
from perdure.errors import StoreUnavailable, UsageError
from perdure.kernel.data.retry import Seconds, to_ms
from perdure.node import Door, Node
from perdure.ports.clock import SystemClock
from perdure.ports.cluster import NameTaken
from perdure.testing.links import Cable, ClusterLink, StoreLink
from perdure.testing.mishaps import Mishap, Mishaps
from perdure.testing.virtual_process import VirtualProcess
from perdure.transport.inprocess import InProcessTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from typing import Any

    from perdure.app import App
    from perdure.client.gateway import Began, Begun
    from perdure.errors import StoreError
    from perdure.kernel.data.commit import UnitRow
    from perdure.kernel.data.limits import Limits
    from perdure.kernel.data.message import Message
    from perdure.kernel.unit.turn import Outcome
    from perdure.node import NodeOptions
    from perdure.ports.clock import Clock
    from perdure.ports.cluster import Assigner
    from perdure.ports.store import Store
    from perdure.ports.transport import Peer
    from perdure.testing.links import Links
    from perdure.testing.virtual_time import VirtualTime

T = TypeVar("T")

Way = Literal["store", "cluster", "nodes"]
"""A way that a partition can cut: to the store, to the cluster, where the leases are, or to the
other nodes.
"""

WAYS: tuple[Way, ...] = ("store", "cluster", "nodes")

_AGAIN_S = 0.05
"""A start that the store or the cluster does not answer is tried again after this time."""


class Life(Node):
    """One life of a node, in a process of its own."""

    def __init__(
        self,
        process: VirtualProcess,
        cables: Mapping[Way, Cable],
        app: App,
        store: StoreLink,
        cluster: ClusterLink | Assigner | None,
        *,
        name: str,
        options: NodeOptions,
        clock: SystemClock,
        links: Links,
    ) -> None:
        """Nothing runs before `start`."""
        self._links = links
        self._transport: InProcessTransport | None = None
        super().__init__(
            app,
            store,
            name=name,
            options=options,
            clock=clock,
            cluster=cluster,
            listen=Door(transport=self._make_transport),
        )
        self.process = process
        self.cables = cables

    def _make_transport(self, me: Peer) -> InProcessTransport:
        self._transport = InProcessTransport(me, self._links.network, clock=self.clock)
        return self._transport

    def die(self) -> None:
        """End the process. Its links to other nodes end with it."""
        self.process.kill()
        if self._transport is not None:
            self._transport.vanish()

    @property
    def has_real_work(self) -> bool:
        """Whether a function runs on a thread or in a process, which takes real time."""
        return self._life is not None and self._life.attempts.on_threads > 0

    async def end(self) -> None:
        """Take a killed life apart, so that no task of it is left. Nothing of it gets through."""
        # First, because its tasks run again below: nothing of them may reach the store.
        for cable in self.cables.values():
            cable.is_gone = True
        self.process.go_on()
        with suppress(StoreUnavailable):
            await self.stop(0)


class ClusterNode:
    """A node that can be killed, frozen, cut off, and disturbed.

    Each start is another life, with another incarnation, as that of a process. `TestCluster` makes
    its nodes.
    """

    def __init__(
        self,
        name: str,
        app: App,
        store: Store,
        cluster: LocalCluster | Assigner | None,
        *,
        options: NodeOptions,
        virtual: VirtualTime,
        links: Links,
        boot_ns: int,
        seed: int,
    ) -> None:
        """It does not run. `boot_ns` is how long its machine has been running."""
        self.name = name
        self._app = app
        self._store = store
        self._cluster = cluster
        self.options = options
        self._virtual = virtual
        self._links = links
        self._boot_ns = boot_ns
        # By `set_clock`: how far its wall clock is ahead of virtual time.
        self._skew_ns = 0
        self.mishaps = Mishaps(seed, {})
        self._life: Life | None = None
        # Their tasks must be cancelled before the event loop ends.
        self._dead: list[Life] = []

    # ------------------------------------------------------------ life and death

    @property
    def node(self) -> Node:
        """The node of the present life, for what this class does not show.

        Raises:
            UsageError: it does not run.
        """
        return self._living()

    def _living(self) -> Life:
        if self._life is None:
            msg = f"node {self.name!r} does not run; `await restart()` it first"
            raise UsageError(msg)
        return self._life

    @property
    def is_running(self) -> bool:
        """Whether it was started, and neither stopped nor killed. It may be frozen."""
        return self._life is not None

    @property
    def is_frozen(self) -> bool:
        """Whether it is stopped in the middle of its work, until it thaws."""
        return self._life is not None and self._life.process.is_stopped

    @property
    def scopes(self) -> dict[str, str]:
        """The scopes that it owns, as far as it knows, each with its state."""
        if self._life is None:
            return {}
        return self._life.scopes

    @property
    def has_real_work(self) -> bool:
        """Whether one of its functions takes real time now."""
        return self._life is not None and self._life.has_real_work

    async def start(self) -> None:
        """Begin a life, as soon as the store and the cluster let it.

        It has to wait while another life of its name is a member, until that one's lease is over.

        Raises:
            UsageError: it runs already.
        """
        if self._life is not None:
            msg = f"node {self.name!r} runs already"
            raise UsageError(msg)
        life = self._new_life()
        self._life = life
        # A kill meanwhile ends the attempts, too: the life is over then.
        while self._life is life:
            try:
                await life.process.run(life.start)
            except (StoreUnavailable, NameTaken):
                await asyncio.sleep(_AGAIN_S)
            except BaseException:
                self._life = None
                raise
            else:
                return

    def _new_life(self) -> Life:
        # New for each life: a life that was killed keeps its own, by which nothing comes any more.
        cables: dict[Way, Cable] = {"store": Cable("store"), "cluster": Cable("cluster")}
        self._links.resume(self.name)
        # An assigner is asked in this very process, so there is no way to it that could be cut.
        if isinstance(self._cluster, LocalCluster):
            cluster: ClusterLink | Assigner | None = ClusterLink(self._cluster, cables["cluster"])
        else:
            cluster = self._cluster
        return Life(
            VirtualProcess(self.name),
            cables,
            self._app,
            StoreLink(self._store, self.mishaps, cables["store"]),
            cluster,
            name=self.name,
            options=self.options,
            clock=SystemClock(self._wall_ns, self._machine_ns),
            links=self._links,
        )

    def _wall_ns(self) -> int:
        return self._virtual.wall_ns() + self._skew_ns

    def _machine_ns(self) -> int:
        return self._virtual.boot_ns() + self._boot_ns

    async def stop(self) -> None:
        """Stop in order, as at SIGTERM: its scopes are handed over. It may be started again."""
        life = self._living()
        await life.process.run(lambda: life.stop(0))
        self._life = None

    async def kill(self) -> None:
        """End its process at once, as `kill -9` does. All who wait for an answer of it are told.

        What it had under way runs no further. At the end of the cluster its tasks are cancelled,
        and then the `finally` blocks of its activities run.
        """
        life = self._living()
        self._life = None
        self._dead.append(life)
        life.die()
        # A caller of it may act on that before anything else happens.
        await asyncio.sleep(0)

    async def restart(self) -> None:
        """Begin another life, behind a stop in order if it runs."""
        if self._life is not None:
            await self.stop()
        await self.start()

    async def end(self) -> None:
        """Stop it, and take the lives apart that were killed."""
        self.calm()
        if self._life is not None:
            with suppress(StoreUnavailable):
                await self.stop()
        dead, self._dead = self._dead, []
        for life in dead:
            await life.end()

    # ------------------------------------------------------------ faults

    def freeze(self) -> None:
        """Stop it in the middle of its work, as SIGSTOP does. It does not notice."""
        self._living().process.stop()
        self._links.network.stall(self.name)

    def thaw(self) -> None:
        """Let it go on, as SIGCONT does. Its timers are late, and its lease may be over."""
        self._living().process.go_on()
        self._links.network.resume(self.name)

    def cut(self, *ways: Way) -> None:
        """Cut it off from the store, the cluster, the other nodes, or all of them (by default).

        Raises:
            UsageError: there is no such way.
        """
        self._set_cut(ways, is_cut=True)

    def heal(self, *ways: Way) -> None:
        """Let it reach these again, or everything.

        Raises:
            UsageError: there is no such way.
        """
        self._set_cut(ways, is_cut=False)

    def _set_cut(self, ways: tuple[Way, ...], *, is_cut: bool) -> None:
        cables = self._living().cables
        for way in ways or WAYS:
            if way == "nodes":
                self._links.part(self.name, is_cut=is_cut)
                continue
            if way not in cables:
                msg = f"a node has no way to {way!r}; it has {', '.join(WAYS)}"
                raise UsageError(msg)
            cables[way].is_cut = is_cut

    def slow(self, way: Way, seconds: Seconds) -> None:
        """Let each call to the store or to the cluster take so long. 0 ends that.

        Raises:
            UsageError: `seconds` is no duration.
        """
        latency_s = to_ms(seconds, "the latency of a way") / 1000
        cables = self._living().cables
        if way not in cables:
            msg = f"the way to {way!r} has no latency here; `links.use(Faults(delay_ms=...))` has"
            raise UsageError(msg)
        cables[way].latency_s = latency_s

    def disturb(self, rates: Mapping[Mishap, float], *, seed: int = 0) -> None:
        """Let calls to the store fail, be late or stay unanswered, each with its probability.

        `perdure.testing.mishaps` has the list. An empty `rates` ends it.
        """
        self.mishaps.begin(rates, seed)

    def set_clock(self, ahead: Seconds) -> None:
        """Set the wall clock of its machine so far ahead of the others, or behind them."""
        if isinstance(ahead, timedelta):
            ahead = ahead.total_seconds()
        self._skew_ns = int(ahead * 1e9)

    def calm(self) -> None:
        """End all of its faults. Its clock stays as it is set."""
        self.mishaps.end()
        if self._life is None:
            return
        self._links.part(self.name, is_cut=False)
        for cable in self._life.cables.values():
            cable.is_cut = False
            cable.latency_s = 0.0
        if self._life.process.is_stopped:
            self.thaw()

    # ------------------------------------------------------------ its client

    @property
    def client(self) -> Client:
        """A client that is connected to this node, in whichever life it is.

        Its calls wait while the node is frozen. They fail with `StoreUnavailable` when the node is
        killed, and with `UsageError` while it does not run.
        """
        return Client(NodeDoor(self))

    async def ask(self, question: Callable[[Node], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the process of the node, as a request from outside.

        Raises:
            StoreUnavailable: the node was killed meanwhile.
            UsageError: it does not run.
        """
        life = self._living()
        return await life.process.run(lambda: question(life))


class NodeDoor:
    """The gateway of a client that is connected to one node."""

    def __init__(self, node: ClusterNode) -> None:
        """Connect to the node, in whichever life it is."""
        self._node = node

    @property
    def store(self) -> Store:
        """The store, as the node reaches it."""
        return self._node.node.store

    @property
    def clock(self) -> Clock:
        """The clock of the node."""
        return self._node.node.clock

    @property
    def limits(self) -> Limits:
        """The limits of the node."""
        return self._node.options.limits

    async def send(self, message: Message) -> Outcome:
        """Deliver a message."""
        return await self._node.ask(lambda node: node.gateway.send(message))

    async def post(self, message: Message) -> Outcome:
        """Put a message into the inbox."""
        return await self._node.ask(lambda node: node.gateway.post(message))

    async def post_all(self, messages: Sequence[Message]) -> list[Outcome]:
        """Put several messages into inboxes, in one transaction."""
        return await self._node.ask(lambda node: node.gateway.post_all(messages))

    async def begin(self, message: Message) -> Began:
        """Deliver a start."""
        return await self._node.ask(lambda node: node.gateway.begin(message))

    async def begin_all(self, messages: Sequence[Message]) -> list[Began | StoreError]:
        """Deliver many starts together."""
        return await self._node.ask(lambda node: node.gateway.begin_all(messages))

    async def closed(
        self, unit: str, begun: Begun | None = None, *, through_suspension: bool = False
    ) -> UnitRow:
        """Wait until a run has ended, or is held."""
        return await self._node.ask(
            lambda node: node.gateway.closed(unit, begun, through_suspension=through_suspension)
        )

    async def run(self, message: Message) -> tuple[Outcome, UnitRow | None]:
        """Deliver a start, and wait until its run has ended, or is held."""
        return await self._node.ask(lambda node: node.gateway.run(message))

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Wait for a change of a unit's row."""
        await self._node.ask(lambda node: node.gateway.changed(unit, version, within_ms))
