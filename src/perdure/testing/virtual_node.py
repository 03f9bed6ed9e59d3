"""A node for tests, with time that skips, with fakes for activities, and with their calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, ParamSpec, Self, TypeVar, overload

from perdure.activity import Activity
from perdure.app import App
from perdure.errors import UsageError
from perdure.interceptor import Interceptor
from perdure.kernel.data.commit import UnitRow
from perdure.kernel.data.limits import Limits
from perdure.node import Node, NodeOptions
from perdure.node.gateway import NodeGateway
from perdure.node.loop.turns import Turns
from perdure.node.options import check_kind
from perdure.ports.clock import Clock
from perdure.ports.store import Store
from perdure.store import open_store
from perdure.testing.calls import ActivityRecord, read_calls
from perdure.testing.fakes import FakedApp
from perdure.testing.skipping import SkippingClock
from perdure.testing.waits import describe_waits

P = ParamSpec("P")
R = TypeVar("R")

_ENDING = ("perdure-scan", "perdure-wake")
"""Background work of a node that ends by itself."""

# Real time, in which the store looks by itself. The wait ends by the clock of the test.
_FAR_MS = 86_400_000


class _WaitingGateway(NodeGateway):
    """The gateway of a node whose time skips: each wait moves time."""

    def __init__(
        self,
        running: Callable[[], Turns],
        store: Callable[[], Store],
        clock: Clock,
        limits: Limits,
        skipping: SkippingClock,
    ) -> None:
        super().__init__(running, store, clock, limits)
        self._skipping = skipping

    async def _end_of(self, unit: str, future: asyncio.Future[UnitRow]) -> UnitRow:
        async with self._skipping.waiting(f"the end of {unit!r}"):
            return await super()._end_of(unit, future)

    async def changed(self, unit: str, version: int, within_ms: int) -> None:
        """Wait until the row has another version, or so much time of the clock has passed."""
        over = asyncio.Event()
        alarm = self._skipping.late_alarm(within_ms, over.set)
        # Two waits: the store's limit is real time, and the caller's is time of the clock.
        watching = asyncio.ensure_future(super().changed(unit, version, _FAR_MS))
        passing = asyncio.ensure_future(over.wait())
        try:
            async with self._skipping.waiting(f"a change of {unit!r}"):
                await asyncio.wait([watching, passing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            watching.cancel()
            passing.cancel()
            await asyncio.gather(watching, passing, return_exceptions=True)


class VirtualNode(Node):
    """A node whose time is a `SkippingClock`. Made by `perdure.testing.node`."""

    # Narrowing is unsound where others write the attribute. `Node` does so only in `__init__`.
    clock: SkippingClock  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        app: App,
        store: str | Store,
        *,
        clock: SkippingClock | None = None,
        options: NodeOptions | None = None,
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        """Nothing runs before `start`."""
        if clock is None:
            clock = SkippingClock()
        check_kind(
            "the clock of a test's node",
            clock,
            SkippingClock,
            "be a SkippingClock (for another one: Node)",
        )
        self._faked = FakedApp(app)
        if isinstance(store, str):
            # The store has to count time as the node does, so it is opened here and not by `Node`.
            store = open_store(store, clock=clock)
            self._own_store: Store | None = store
        else:
            self._own_store = None
        if options is None:
            # A grace would be real time. Attempts that still run at the end are cancelled at once.
            options = NodeOptions(stop_ms=0)
        super().__init__(
            self._faked,
            store,
            options=options,
            clock=clock,
            interceptors=interceptors,
        )
        self._is_open = False

    def _make_gateway(self) -> NodeGateway:
        return _WaitingGateway(
            self._running, lambda: self.store, self.clock, self.options.limits, self.clock
        )

    # ------------------------------------------------------------ life cycle

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._life is not None

    async def start(self) -> None:
        """Open the store, if it came as a URL, and start as `Node.start` does.

        Raises:
            UsageError: no asyncio event loop runs here.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            msg = (
                "a node runs on an asyncio event loop, and none runs here; "
                "with anyio's plugin for pytest give anyio_backend the value 'asyncio'"
            )
            raise UsageError(msg) from None
        if self._own_store is not None and not self._is_open:
            await self._own_store.__aenter__()
            self._is_open = True
        try:
            await super().start()
        except BaseException:
            await self._close_store()
            raise
        self.clock.attach(self)

    async def stop(self, grace: float | None = None) -> None:
        """Stop as `Node.stop` does, and close the store."""
        await self._leave(grace)
        await self._close_store()

    async def _leave(self, grace: float | None) -> None:
        with self.clock.held():  # nothing comes due while the node is taken apart
            await super().stop(grace)
        self.clock.detach(self)

    async def _close_store(self) -> None:
        if self._own_store is not None and self._is_open:
            self._is_open = False
            await self._own_store.__aexit__(None, None, None)

    async def restart(self) -> None:
        """Stop and start on the same store. Time stands still meanwhile.

        All instances leave memory, and are replayed from their histories when they go on.
        """
        with self.clock.held():
            await self._leave(0)
            await super().start()
            self.clock.attach(self)

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
        """Run `fake`, a `def` or an `async def`, where the activity would run, from its next
        attempt on.

        Its result must be of the activity's type, and its exception is the attempt's failure. A
        `def` runs on the event loop and should be quick. `await node.clock.sleep(60)` in an `async
        def` makes an attempt that takes a minute.

        Raises:
            UsageError: the app does not have the activity, or the fake cannot be called as it is.
        """
        self._faked.replace(activity, fake)
        return self

    async def calls(
        self, activity: Activity[..., Any] | str | None = None, *, id: str | None = None
    ) -> list[ActivityRecord]:
        """The calls of activities that workflows have made, in their order in time.

        They are those of one activity or all, of one instance or all. They are read from the
        histories, so each is there once, however often it was tried.

        Raises:
            UsageError: the app does not have the activity.
            NotFound: no instance has this id.
        """
        if isinstance(activity, Activity):
            name: str | None = activity.name
        else:
            name = activity
        if name is not None and self._faked.find_activity(name) is None:
            has = ", ".join(self.app.activities()) or "none"
            msg = f"app {self.app.name!r} has no activity {name!r}; it has {has}"
            raise UsageError(msg)
        records = await read_calls(self.client, self._faked, id)
        if name is None:
            return records
        return [record for record in records if record.name == name]

    # ------------------------------------------------------------ questions of the clock

    @property
    def progress(self) -> int:
        """The number of turns that were taken."""
        if self._life is not None:
            return self._life.turns.count
        return 0

    @property
    def busy(self) -> bool:
        """Whether a turn, a commit or a load is under way."""
        if self._life is None:
            return False
        return not self._life.ending.quiet or bool(self._ending())

    async def settle(self) -> None:
        """Wait until no turn, commit or load is under way."""
        ending = self._ending()
        if ending:
            await asyncio.wait(ending)
        if self._life is not None:
            await self._life.ending.settle()

    def _ending(self) -> list[asyncio.Task[None]]:
        if self._life is None:
            return []
        return self._life.background.named(_ENDING)

    def working(self, asleep: Collection[object]) -> list[asyncio.Task[None]]:
        """Attempts of activities that run, without those that are `asleep`."""
        if self._life is not None:
            return self._life.attempts.working(asleep)
        return []

    async def describe_waits(self) -> str:
        """The waits of every open instance, for people."""
        turns = None
        if self._life is not None:
            turns = self._life.turns
        return await describe_waits(self.client, turns)


def node(
    app: App,
    store: str | Store = "memory://",
    *,
    activities: Mapping[Activity[..., Any] | str, Callable[..., object]] | None = None,
    clock: SkippingClock | None = None,
    options: NodeOptions | None = None,
    interceptors: Sequence[Interceptor] = (),
) -> VirtualNode:
    """A node for a test: `async with perdure.testing.node(app) as node:`.

    `activities` has fakes, as `VirtualNode.replace` takes them. Type checkers check that call, too.
    Several nodes may run by one `clock`.

    Raises:
        UsageError: a fake is for no activity of the app, or cannot be called as it is.
    """
    made = VirtualNode(app, store, clock=clock, options=options, interceptors=interceptors)
    for activity, fake in (activities or {}).items():
        made.replace(activity, fake)
    return made
