"""The procedure of leasing by itself, and a worker that stops while the store answers it."""

from __future__ import annotations

import asyncio
from typing import Any

from engine import PATIENCE_S, World, until

from perdure import App, NodeOptions
from perdure.kernel.data.queue import NO_RULES, QueueRules
from perdure.node.activities.job import Job
from perdure.node.activities.slots import Slots
from perdure.node.queues.keeper import renew_after_ms
from perdure.ports.tasks import Leased, TaskRequest
from perdure.store.leasing import FindTasks, Step, leasing
from perdure.store.memory import MemoryStore


def steps_of(request: TaskRequest) -> tuple[list[type], Leased]:
    """The steps for an empty queue, and the answer."""
    procedure = leasing(request)
    taken: list[type] = []
    found: Any = None
    try:
        while True:
            step: Step = procedure.send(found)
            taken.append(type(step))
            found = None
            if isinstance(step, FindTasks):
                found = []
    except StopIteration as end:
        return taken, end.value


def _request(**changes: Any) -> TaskRequest:
    given = {"queue": "q", "worker": "w", "limit": 5, "lease_ms": 1, "at": 0, "rules": NO_RULES}
    return TaskRequest(**(given | changes))


def test_a_queue_without_shared_limits_is_not_locked() -> None:
    names = [step.__name__ for step in steps_of(_request())[0]]
    assert names == ["FindTasks", "FindNext"]
    names = [step.__name__ for step in steps_of(_request(rules=QueueRules(per_node=1)))[0]]
    assert names == ["FindTasks", "FindNext"]


def test_nothing_is_leased_for_no_room() -> None:
    _, leased = steps_of(_request(limit=0))
    assert leased == Leased([], 0)


def test_leases_are_renewed_in_time() -> None:
    # At the timeout less a margin from 15 s up, at half below.
    assert [renew_after_ms(ms) for ms in (1_000, 14_998, 15_000, 30_000)] == [
        500,
        7_499,
        10_000,
        25_000,
    ]


def test_a_full_line_leaves_room_for_other_queues() -> None:
    slots = Slots(NodeOptions(activities=10, queues={"line": 1}), lambda job: None)
    call = _Call()
    for _ in range(50):
        job = Job("unit", call, "async", lambda message: None, "unit")  # type: ignore[arg-type]
        job.queue = "line"
        slots.ask(job)
    assert (slots.taken, slots.waiting) == (1, 49)
    assert slots.room("gpu", {"async"}) == 9
    assert slots.room("line", {"async"}) == 0
    assert Slots(NodeOptions(threads=3), lambda job: None).room("gpu", {"async", "thread"}) == 3


class _Call:
    """A call, as far as a job looks at it."""

    key = (b"run", 1, 1)

    run, execution, workflow, version = b"run", 1, "w", "1.0.0"

    @property
    def origin(self) -> _Call:
        """The start of its execution."""
        return self


async def test_a_worker_that_stops_gives_back_what_it_is_just_given() -> None:
    app = App("late")
    app.queue("gpu")
    go = asyncio.Event()

    @app.activity(queue="gpu")
    async def work() -> str:
        await go.wait()
        return "done"

    @app.workflow
    async def job() -> str:
        return await work()

    class Slow(MemoryStore):
        asked = asyncio.Event()
        answers = asyncio.Event()

        async def lease(self, request: TaskRequest) -> Leased:
            leased = await super().lease(request)
            if leased.tasks and not self.answers.is_set():
                self.asked.set()
                await self.answers.wait()
            return leased

    async with Slow() as store:
        world = World(store)
        async with world.node(app, serves=(), rescan_ms=50) as owner:
            worker = world.node(app, worker_only=True, task_lease_ms=600_000)
            await worker.start()
            handle = owner.client.workflow(job, id="one")
            await handle.start()
            await store.asked.wait()
            stopping = asyncio.ensure_future(worker.stop())
            await asyncio.sleep(0)
            store.answers.set()
            await stopping

            async def is_free() -> bool:
                return (await store.load(["one"]))[0].tasks[0].worker is None

            await until(is_free, "the task without a worker")
            go.set()
            async with world.node(app, worker_only=True):
                assert await handle.result(timeout=PATIENCE_S) == "done"


async def test_a_session_that_a_new_task_has_opened_again_stays() -> None:
    app = App("sessions")
    app.queue("gpu")

    @app.activity(queue="gpu")
    async def work() -> str:
        return "done"

    @app.workflow
    async def job() -> str:
        return await work.with_options(session="s")()

    class Late(MemoryStore):
        """It answers late when a session is given up, and only once."""

        gives_up = asyncio.Event()
        answers = asyncio.Event()

        async def hold_sessions(self, holds: Any, at: int) -> list[bool]:
            kept = await super().hold_sessions(holds, at)
            if any(hold.lease_ms == 0 for hold in holds) and not self.answers.is_set():
                self.gives_up.set()
                await self.answers.wait()
            return kept

    async with Late() as store:
        options: dict[str, Any] = {"session_idle_ms": 1, "task_lease_ms": 400}
        async with World(store).node(app, **options) as node:
            assert await node.client.workflow(job, id="first").run() == "done"
            await store.gives_up.wait()
            assert await node.client.workflow(job, id="second").run() == "done"
            store.answers.set()

            async def is_free() -> bool:
                return (await store.dump())["sessions"] == []

            # It is given up once more, and not forgotten while the store has it.
            await until(is_free, "the end of the session")
