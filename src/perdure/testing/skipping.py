"""A clock that skips: time jumps to the next alarm as soon as nothing else is left to do before it.

Theory of operation. Time stands still, and moves only while the test waits: for the end of an
instance, for a change of it, or for the clock itself (`sleep`). Then a task of the clock works in
rounds. It lets turns, commits, loads and attempts of activities come to rest. It jumps to the
earliest alarm and rings all alarms of that moment. It ends with the last wait. So the actions of a
test between two waits happen at one moment, whatever the machine does meanwhile. Alarms ring in the
order of their times.

A running activity is real work. During it time goes on at the pace of the wall, and only as far as
an alarm needs. So an activity that hangs meets its timeout, and one that ends before the next alarm
has taken no time. An activity that itself waits for the clock or for an instance is no work: time
skips while it waits.

When no alarm is left and the test still waits, nothing will ever happen. That is an error, and it
tells the waits of every instance.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import Context
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Protocol

from perdure.activity import node_client, running_attempt
from perdure.errors import UsageError
from perdure.kernel.data.retry import Seconds, to_ms
from perdure.testing.clock import ManualAlarm

START = datetime(2026, 1, 1, tzinfo=UTC)
"""The default beginning of time: the same in every run."""

# Passes of the event loop without any event before time jumps. A task that was answered just now
# may act first, also through a task or two of asyncio's own.
_PASSES = 5

# After so many jumps in a row that lead to nothing, the alarms only set each other.
_IDLE_JUMPS = 1_000


class WaitsForever(AssertionError):
    """A test waits for an event that can never happen.

    The message has the waits of all instances.
    """


class Ticking(Protocol):
    """The part of a node that its clock must know."""

    @property
    def progress(self) -> int:
        """A number that grows with each turn."""
        ...

    @property
    def busy(self) -> bool:
        """Whether work is under way that ends by itself."""
        ...

    async def settle(self) -> None:
        """Wait until it is not busy."""
        ...

    def working(self, asleep: Collection[object]) -> list[asyncio.Task[None]]:
        """Attempts of activities that run, without those that are `asleep`."""
        ...

    async def describe_waits(self) -> str:
        """The waits of every open instance."""
        ...


class _Wait:
    """One wait. `attempt` is the activity that waits, None if it is the test itself."""

    __slots__ = ("attempt", "report", "scope", "what")

    def __init__(self, what: str, scope: asyncio.Timeout) -> None:
        self.what = what
        self.scope = scope
        self.attempt: object = running_attempt.get()
        if self.attempt is None and node_client.get() is not None:
            # A checkpoint has no attempt of its own, so its task stands for it.
            self.attempt = asyncio.current_task()
        self.report: str | None = None

    def fail(self, report: str) -> None:
        """Make the waiting code raise `WaitsForever`."""
        if self.report is None:
            self.report = report
            self.scope.reschedule(asyncio.get_running_loop().time())


class SkippingClock:
    """Time for tests that takes none: `perdure.testing.node(app)` runs by one, `node.clock`.

    It begins at `start`. A wait that can never end is reported after `patience` real seconds
    without any event. So is a wait beyond `limit`, the farthest that time may go from its start.
    """

    def __init__(
        self,
        start: datetime = START,
        *,
        patience: float = 1.0,
        limit: Seconds = timedelta(days=3_650),
    ) -> None:
        """Stand still at `start`.

        Raises:
            UsageError: `start` has no time zone, or a duration is none.
        """
        if type(start) is not datetime or start.tzinfo is None:
            msg = (
                "a clock starts at a datetime with a time zone, "
                f"as in datetime(2026, 1, 1, tzinfo=UTC); got {start!r}"
            )
            raise UsageError(msg)
        self._patience_s = to_ms(patience, "patience of a clock") / 1000
        self._now_ms = round(start.timestamp() * 1000)
        self._limit_ms = self._now_ms + to_ms(limit, "limit of a clock")
        self._alarms: list[tuple[int, bool, int, ManualAlarm]] = []
        self._numbers = count()
        self._nodes: list[Ticking] = []
        self._waits: list[_Wait] = []
        self._holds = 0
        self._spent_s = 0.0
        self._idle_jumps = 0
        self._news = asyncio.Event()
        self._driver: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ the clock of a node

    def now_ms(self) -> int:
        """The present, in milliseconds since 1970."""
        return self._now_ms

    def boot_ms(self) -> int:
        """The same: nobody sets this clock."""
        return self._now_ms

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> ManualAlarm:
        """Call `callback` when time has come to `at_ms`. Soon, if that is not in the future."""
        alarm = ManualAlarm(at_ms, callback)
        if at_ms <= self._now_ms:
            asyncio.get_running_loop().call_soon(alarm.ring)
        else:
            self._set(alarm, late=False)
        return alarm

    def call_after(self, ms: int, callback: Callable[[], None]) -> ManualAlarm:
        """Call `callback` when time has gone on by `ms`."""
        return self.call_at(self._now_ms + ms, callback)

    def _set(self, alarm: ManualAlarm, *, late: bool) -> None:
        """Set an alarm. A `late` one rings after all others of its moment."""
        heapq.heappush(self._alarms, (alarm.at_ms, late, next(self._numbers), alarm))
        self._news.set()

    def attach(self, node: Ticking) -> None:
        """Let a node run by this clock from now on. Time waits for it."""
        self._nodes.append(node)

    def detach(self, node: Ticking) -> None:
        """Forget a node. Time does not wait for it any more."""
        if node in self._nodes:
            self._nodes.remove(node)

    # ------------------------------------------------------------ for tests

    def now(self) -> datetime:
        """The present, in UTC. Workflows see the same by `workflow.now()`."""
        return datetime.fromtimestamp(self._now_ms / 1000, UTC)

    async def sleep(self, delay: Seconds) -> None:
        """Go on by so many seconds. Alarms that are due until then ring at their own times.

        `sleep(0)` waits until nothing is left to do at this moment. In an activity (a fake, say) it
        is the duration of the activity.

        Raises:
            UsageError: time is held, or `delay` is none.
        """
        delay_ms = to_ms(delay, "the delay of clock.sleep()")
        if self._holds:
            msg = (
                "time is held, so that clock.sleep() would never end; leave `with clock.held():` "
                "first"
            )
            raise UsageError(msg)
        over = asyncio.Event()
        alarm = self.late_alarm(delay_ms, over.set)
        try:
            async with self.waiting(f"the clock, for {delay}"):
                await over.wait()
        finally:
            alarm.cancel()

    def late_alarm(self, delay_ms: int, callback: Callable[[], None]) -> ManualAlarm:
        """Call `callback` in so many milliseconds, after all other alarms of that moment."""
        alarm = ManualAlarm(self._now_ms + delay_ms, callback)
        self._set(alarm, late=True)
        return alarm

    @asynccontextmanager
    async def waiting(self, what: str) -> AsyncGenerator[None]:
        """Let time go on while the body waits for `what`.

        The client of the node does it by itself. You need it for other waits, for example for the
        answer of a web application.

        Raises:
            WaitsForever: nothing will happen any more.
        """
        timeout = asyncio.timeout(None)
        wait = _Wait(what, timeout)
        self._waits.append(wait)
        self._stir()
        try:
            async with timeout:
                yield
        except TimeoutError:
            # `_Wait.fail` ends the wait by its timeout. Any other TimeoutError is the body's.
            if wait.report is None:
                raise
            raise WaitsForever(wait.report) from None
        finally:
            self._waits.remove(wait)
            self._news.set()

    @contextmanager
    def held(self) -> Generator[None]:
        """Hold time in spite of all waits.

        This is for a test that does several things at once and waits for one of them already.
        """
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._stir()

    # ------------------------------------------------------------ moving

    def _stir(self) -> None:
        """Tell the driver that the waits have changed, or that time is held or free."""
        self._news.set()
        if self._driver is None and self._awaited():
            # An event belongs to its event loop, and a clock may live longer than one loop.
            self._news = asyncio.Event()
            loop = asyncio.get_running_loop()
            self._driver = loop.create_task(self._drive(), name="perdure-clock", context=Context())

    def _awaited(self) -> bool:
        """Whether the test waits. An activity that waits does not move time by itself."""
        return any(wait.attempt is None for wait in self._waits)

    def _progress(self) -> int:
        return sum(node.progress for node in self._nodes)

    async def _drive(self) -> None:
        """Move time for as long as the test waits."""
        self._idle_jumps = 0
        try:
            while self._awaited():
                working = await self._settle()
                self._news.clear()
                if not self._awaited():
                    return
                at_ms = self._next_ms()
                if self._holds:
                    await self._work(working, None)
                elif working:
                    await self._work(working, at_ms)
                elif at_ms is None or at_ms > self._limit_ms or self._idle_jumps > _IDLE_JUMPS:
                    await self._stall(at_ms)
                else:
                    self._jump()
        except Exception as error:
            # Without this the test would wait for ever, and its report would not say why.
            for wait in self._waits:
                wait.fail(f"the clock of this test failed: {error!r}")
            raise
        finally:
            self._driver = None

    async def _settle(self) -> list[asyncio.Task[None]]:
        """Wait until all nodes have come to rest. Returns the activities that do real work."""
        calm = 0
        before = self._progress()
        while calm < _PASSES:
            # Before the look, and not behind it: an activity may end in any pass, and its node is
            # at work again then.
            await asyncio.sleep(0)
            calm += 1
            for node in list(self._nodes):
                if node.busy:
                    calm = 0
                    await node.settle()
        if self._progress() != before:
            self._idle_jumps = 0
        asleep = {wait.attempt for wait in self._waits if wait.attempt is not None}
        working: list[asyncio.Task[None]] = []
        for node in self._nodes:
            working += node.working(asleep)
        return working

    def _next_ms(self) -> int | None:
        """The time of the next alarm. None: there is none."""
        # Cancelled alarms stay in the heap until it is their turn.
        while self._alarms and self._alarms[0][3].callback is None:
            heapq.heappop(self._alarms)
        if self._alarms:
            return self._alarms[0][0]
        return None

    def _jump(self) -> None:
        """Go to the next alarm, and ring all that are set for that moment."""
        at_ms, late, _, _ = self._alarms[0]
        self._now_ms = max(self._now_ms, at_ms)
        self._spent_s = 0.0
        self._idle_jumps += 1
        loop = asyncio.get_running_loop()
        while self._alarms and self._alarms[0][:2] == (at_ms, late):
            loop.call_soon(heapq.heappop(self._alarms)[3].ring)

    async def _work(self, working: Collection[asyncio.Task[None]], at_ms: int | None) -> None:
        """Let activities work, until one ends, the waits change, or the next alarm is due.

        It is due when so much time of the wall has passed.
        """
        loop = asyncio.get_running_loop()
        left_s = None
        if at_ms is not None:
            left_s = max(0.0, (at_ms - self._now_ms) / 1000 - self._spent_s)
        news = loop.create_task(self._news.wait(), context=Context())
        began_s = loop.time()
        try:
            done, _ = await asyncio.wait(
                [*working, news], timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            news.cancel()
        if not done:
            self._jump()
        elif done != {news}:
            # An activity that has ended before the next alarm took no time.
            self._spent_s = 0.0
        else:
            self._spent_s += loop.time() - began_s

    async def _stall(self, at_ms: int | None) -> None:
        """Report that nothing will happen any more, unless the test acts soon.

        Another task of the test, or a thread, may be about to do something.
        """
        before = self._progress()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                await self._news.wait()
        if self._news.is_set() or self._progress() != before:
            self._idle_jumps = 0
            return
        report = await self._report(at_ms)
        for wait in self._waits:
            wait.fail(report)
        # The waits that fail leave, which is news.
        await self._news.wait()

    async def _report(self, at_ms: int | None) -> str:
        if at_ms is None:
            why = (
                "nothing will happen any more: no timer is set, no activity runs, "
                "and nobody has sent anything"
            )
        elif at_ms > self._limit_ms:
            limit = datetime.fromtimestamp(self._limit_ms / 1000, UTC)
            why = (
                f"time has come to {self.now():%Y-%m-%d} and may not go beyond {limit:%Y-%m-%d} "
                "(limit= of the clock)"
            )
        else:
            why = f"the last {_IDLE_JUMPS} alarms have led to nothing"
        waits = "\n".join(f"  {wait.what}" for wait in self._waits)
        states = "".join([await node.describe_waits() for node in self._nodes])
        return f"{why}.\nWaited for:\n{waits}\n{states}"
