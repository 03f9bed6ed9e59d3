"""What a worker keeps in the store, when the store fails once or the clock of the machine is set."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from perdure import NodeOptions
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Task
from perdure.node.queues.held import Held
from perdure.node.queues.keeper import Keeper
from perdure.node.queues.overdue import _PAGE, OverdueTasks
from perdure.node.queues.store_time import StoreTime
from perdure.ports.clock import SystemClock
from perdure.ports.store import Overdue, Page, Query
from perdure.ports.tasks import Renewal, SessionHold
from perdure.testing.virtual_time import VirtualTime, run_virtually

LEASE_MS = 30_000


class Flaky:
    """A store that does not answer these questions, of all that it is asked."""

    def __init__(self, *fails: int) -> None:
        self.fails = fails
        self.asked = 0
        self.renewed: list[list[Renewal]] = []
        self.held_at_s: list[float] = []

    def _ask(self) -> None:
        self.asked += 1
        if self.asked in self.fails:
            raise StoreUnavailable("away")

    async def renew(self, renewals: Sequence[Renewal], at: int) -> list[str]:
        self._ask()
        self.renewed.append(list(renewals))
        return ["kept" for _ in renewals]

    async def hold_sessions(self, holds: Sequence[SessionHold], at: int) -> list[bool]:
        self._ask()
        self.held_at_s.append(asyncio.get_running_loop().time())
        return [True for _ in holds]


def keeper_of(store: Any) -> Keeper:
    given: Any = SimpleNamespace(store=store, options=NodeOptions(task_lease_ms=LEASE_MS))
    time = StoreTime(store, SystemClock(), is_shared=False)
    return Keeper(given, "worker", time, lambda held: None)


def held_task(session: str | None = None) -> Held:
    task = Task("u", b"r", 1, 1, 1, "default/0", "gpu", "work", b"", 0)
    task.token, task.session = b"token", session
    return Held(task, asyncio.get_running_loop().time())


async def kept(keeper: Keeper, seconds: float) -> None:
    running = asyncio.create_task(keeper.run())
    await asyncio.sleep(seconds)
    running.cancel()
    await asyncio.wait([running])


def test_a_session_outlives_a_question_that_failed() -> None:
    async def main(_: VirtualTime) -> None:
        store = Flaky(1)
        keeper = keeper_of(store)
        began_s = asyncio.get_running_loop().time()
        keeper.sessions["gpu", "s"] = began_s
        await kept(keeper, 60)
        assert store.held_at_s[0] - began_s < LEASE_MS / 1_000

    run_virtually(main)


def test_news_of_a_dropped_task_outlive_a_question_that_failed() -> None:
    async def main(_: VirtualTime) -> None:
        store = Flaky(1)
        keeper = keeper_of(store)
        keeper.add(held_task())
        keeper.look_at("gpu")
        await kept(keeper, 12)
        assert store.asked == 2, "it is asked again at the next tick, and then known"

    run_virtually(main)


def test_a_heartbeat_outlives_a_question_that_failed() -> None:
    async def main(_: VirtualTime) -> None:
        store = Flaky(1)
        keeper = keeper_of(store)
        held = held_task()
        held.run_as(SimpleNamespace(attempt=SimpleNamespace(beats=1, details=b"half")))  # type: ignore[arg-type]
        keeper.add(held)
        await kept(keeper, 18)
        assert [[one.details for one in batch] for batch in store.renewed] == [[b"half"]]

    run_virtually(main)


def test_the_time_of_a_shared_store_does_not_jump_with_the_machine() -> None:
    async def main(_: VirtualTime) -> None:
        wall_ns, boot_ns = [10**18], [10**12]
        clock = SystemClock(lambda: wall_ns[0], lambda: boot_ns[0])

        class Store:
            async def now(self) -> int:
                return 5_000_000

        time = StoreTime(Store(), clock, is_shared=True)  # type: ignore[arg-type]
        assert await time.look() == 5_000_000
        wall_ns[0] += 3_600 * 10**9  # somebody sets the clock
        boot_ns[0] += 7 * 10**6
        assert await time.look() == 5_000_007, "or the leases of all workers would be over"

    run_virtually(main)


def test_tasks_that_stay_overdue_hide_no_others() -> None:
    """Their instances are paused, say."""

    async def main(_: VirtualTime) -> None:
        everything = [
            Task(f"u{n:05}", b"r", 1, 1, 1, "default/0", "gpu", "work", b"", 0)
            for n in range(3 * _PAGE + 1)
        ]
        delivered: list[str] = []

        class Store:
            async def query(self, query: Query[Task]) -> Page[Task]:
                assert isinstance(query, Overdue)
                first = int(query.after or 0)
                items = everything[first : first + query.limit]
                after = first + len(items)
                return Page(items, str(after) if after < len(everything) else None)

        store: Any = Store()
        turns: Any = SimpleNamespace(
            store=store, deliver=lambda message: delivered.append(message.to)
        )
        scope = SimpleNamespace(name="default/0", takes_messages=True)
        ownership: Any = SimpleNamespace(all=lambda: [scope], is_frozen=False)
        worker: Any = SimpleNamespace(has=lambda token: False)
        time = StoreTime(store, SystemClock(), is_shared=False)
        overdue = OverdueTasks(turns, ownership, NodeOptions(), worker, time)
        for looks in range(1, 5):
            await overdue.look()
            assert len(delivered) == min(looks * _PAGE, len(everything)), "a page at a time"
        await overdue.look()
        assert sorted(delivered) == [task.unit for task in everything], "each once"

    run_virtually(main)
