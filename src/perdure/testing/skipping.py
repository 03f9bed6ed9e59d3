"""A clock that skips: time jumps to the next alarm as soon as nothing else is left to do before it.

Theory of operation. Time stands still, and moves only while somebody waits: for the end of an instance, for a change of
it, or for the clock itself (`sleep`). Then a task of the clock lets everything come to rest that is on its way (turns,
commits, loads, attempts of activities), jumps to the earliest alarm, rings all that are set for that moment, and so on
until nobody waits any more. So what a test does between two waits happens at one moment, whatever the machine does
meanwhile, and the order in which alarms ring is that of their times.

An activity that runs is real work. While one does, time goes on at the pace of the wall, and only as far as an alarm
needs: an activity that hangs meets its timeout, and one that ends before the next alarm has taken no time. One that
itself waits for the clock or for an instance is no work: time skips while it waits.

When there is no alarm left and still somebody waits, nothing will ever happen. That is an error, and it tells what
every instance waits for.
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
from perdure.kernel.retry import Seconds, to_ms
from perdure.testing.clock import ManualAlarm

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When time begins unless a test says otherwise: the same in every run."""

_PASSES = 5
"""Passes of the event loop that nothing must come of before time jumps: who was answered just now may act first, also
through a task or two of asyncio's own."""

_IDLE_JUMPS = 1_000
"""Jumps in a row that lead to nothing: then what is left are alarms that ring for their own sake."""


class WaitsForever(AssertionError):
    """What a test waits for can never happen; the message says what every instance waits for."""


class Ticking(Protocol):
    """What a clock must know of a node that runs by it."""

    @property
    def progress(self) -> int:
        """A number that grows with all that happens."""
        ...

    @property
    def busy(self) -> bool:
        """Whether something is on its way that ends by itself."""
        ...

    async def settle(self) -> None:
        """Wait until it is not busy."""
        ...

    def working(self, asleep: Collection[object]) -> list[asyncio.Task[None]]:
        """Attempts of activities that run, but for those that are `asleep`."""
        ...

    async def describe_waits(self) -> str:
        """What every open instance waits for."""
        ...


class _Wait:
    """Somebody who waits. `attempt` is the activity that does, None if it is the test itself."""

    __slots__ = ("attempt", "report", "scope", "what")

    def __init__(self, what: str, scope: asyncio.Timeout) -> None:
        self.what = what
        self.scope = scope
        self.attempt: object = running_attempt.get()
        if self.attempt is None and node_client.get() is not None:
            self.attempt = asyncio.current_task()  # a checkpoint: it has no attempt of its own
        self.report: str | None = None

    def fail(self, report: str) -> None:
        """Make the waiting code raise `WaitsForever`."""
        if self.report is None:
            self.report = report
            self.scope.reschedule(asyncio.get_running_loop().time())


class SkippingClock:
    """Time for tests that takes none: `perdure.testing.node(app)` runs by one, `node.clock`.

    It begins at `start`. What can never happen is reported after `patience` real seconds in which nobody did anything;
    so is a wait that outlasts `limit`, the farthest that time may go from its start.
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
                "a clock starts at a datetime with a time zone, as in datetime(2026, 1, 1, tzinfo=UTC); "
                f"got {start!r}"
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

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> ManualAlarm:
        """Call `callback` when time has come to `at_ms`; soon, if that is not in the future."""
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
        """`late`: it rings when everything else of that moment is done."""
        heapq.heappush(self._alarms, (alarm.at_ms, late, next(self._numbers), alarm))
        self._news.set()

    def attach(self, node: Ticking) -> None:
        """A node runs by this clock from now on: time waits for it."""
        self._nodes.append(node)

    def detach(self, node: Ticking) -> None:
        """It does no more."""
        if node in self._nodes:
            self._nodes.remove(node)

    # ------------------------------------------------------------ for tests

    def now(self) -> datetime:
        """The present, in UTC. Workflows see the same by `workflow.now()`."""
        return datetime.fromtimestamp(self._now_ms / 1000, UTC)

    async def sleep(self, delay: Seconds) -> None:
        """Go on by so many seconds, and let everything happen that is due until then, at its own time.

        `sleep(0)` waits until nothing is left to do at this moment. In an activity (a fake, say) it is how long the
        activity takes.

        Raises:
            UsageError: time is held, or `delay` is none.
        """
        delay_ms = to_ms(delay, "the delay of clock.sleep()")
        if self._holds:
            msg = "time is held, so that clock.sleep() would never end; leave `with clock.held():` first"
            raise UsageError(msg)
        over = asyncio.Event()
        alarm = self.late_alarm(delay_ms, over.set)
        try:
            async with self.waiting(f"the clock, for {delay}"):
                await over.wait()
        finally:
            alarm.cancel()

    def late_alarm(self, delay_ms: int, callback: Callable[[], None]) -> ManualAlarm:
        """Call `callback` in so many milliseconds, when everything else of that moment is done."""
        alarm = ManualAlarm(self._now_ms + delay_ms, callback)
        self._set(alarm, late=True)
        return alarm

    @asynccontextmanager
    async def waiting(self, what: str) -> AsyncGenerator[None]:
        """Let time go on while the body waits for `what`. The client of the node does it by itself; you need it for
        what is waited for in another way, for example the answer of a web application.

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
            if wait.report is None:
                raise
            raise WaitsForever(wait.report) from None
        finally:
            self._waits.remove(wait)
            self._news.set()

    @contextmanager
    def held(self) -> Generator[None]:
        """Hold time, whoever waits: for a test that does several things at once and waits for one of them already."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._stir()

    # ------------------------------------------------------------ moving

    def _stir(self) -> None:
        """Something has changed: who waits, or whether time is held."""
        self._news.set()
        if self._driver is None and self._awaited():
            self._news = asyncio.Event()  # of this event loop: a clock may live longer than one
            loop = asyncio.get_running_loop()
            self._driver = loop.create_task(self._drive(), name="perdure-clock", context=Context())

    def _awaited(self) -> bool:
        """Whether the test waits. An activity that waits does not move time by itself."""
        return any(wait.attempt is None for wait in self._waits)

    def _progress(self) -> int:
        return sum(node.progress for node in self._nodes)

    async def _drive(self) -> None:
        """Move time for as long as somebody waits."""
        self._idle_jumps = 0
        try:
            while self._awaited():
                working = await self._settle()
                self._news.clear()
                if not self._awaited():
                    return
                at_ms = self._next_ms()
                if self._holds or working:
                    await self._work(working, None if self._holds else at_ms)
                elif at_ms is None or at_ms > self._limit_ms or self._idle_jumps > _IDLE_JUMPS:
                    await self._stall(at_ms)
                else:
                    self._jump()
        except (
            Exception
        ) as error:  # otherwise everybody would wait for ever, and nobody would know why
            for wait in self._waits:
                wait.fail(f"the clock of this test failed: {error!r}")
            raise
        finally:
            self._driver = None

    async def _settle(self) -> list[asyncio.Task[None]]:
        """Wait until everything has come to rest but activities that do real work; those are returned."""
        calm, before = 0, self._progress()
        while calm < _PASSES:
            calm += 1
            for node in list(self._nodes):
                if node.busy:
                    calm = 0
                    await node.settle()
            await asyncio.sleep(0)
        if self._progress() != before:
            self._idle_jumps = 0
        asleep = {wait.attempt for wait in self._waits if wait.attempt is not None}
        return [task for node in self._nodes for task in node.working(asleep)]

    def _next_ms(self) -> int | None:
        """When the next alarm rings."""
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
        """Let activities work. If that takes until the next alarm, at the pace of the wall, time has come to it."""
        loop = asyncio.get_running_loop()
        if at_ms is None:
            left_s = None
        else:
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
            self._spent_s = 0.0  # what has ended before the next alarm took no time
        else:
            self._spent_s += loop.time() - began_s

    async def _stall(self, at_ms: int | None) -> None:
        """Nothing will happen any more, unless somebody acts soon."""
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
        await self._news.wait()  # they leave

    async def _report(self, at_ms: int | None) -> str:
        if at_ms is None:
            why = "nothing will happen any more: no timer is set, no activity runs, and nobody has sent anything"
        elif at_ms > self._limit_ms:
            limit = datetime.fromtimestamp(self._limit_ms / 1000, UTC)
            why = f"time has come to {self.now():%Y-%m-%d} and may not go beyond {limit:%Y-%m-%d} (limit= of the clock)"
        else:
            why = f"the last {_IDLE_JUMPS} alarms have led to nothing"
        waits = "\n".join(f"  {wait.what}" for wait in self._waits)
        states = "".join([await node.describe_waits() for node in self._nodes])
        return f"{why}.\nWaited for:\n{waits}\n{states}"
