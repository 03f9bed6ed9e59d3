"""How many tasks of a shared queue workers run in a second: `python -m benchmarks.queues URL [TASKS] [WORKERS]`.

One node owns the instances and runs nothing. Workers are processes of their own. Each instance calls 100
activities that do nothing, so what is measured is the way of a task: its row, the lease, the result, the turn.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time

from perdure import App, Node, NodeOptions

CALLS = 100

app = App("benchmark")
app.queue("work")


@app.activity(queue="work")
async def nothing(number: int) -> int:
    return number


@app.workflow
async def many(calls: int) -> int:
    return len(await asyncio.gather(*(nothing(n) for n in range(calls))))


async def _work(url: str) -> None:
    options = NodeOptions(worker_only=True)
    async with Node(
        app, url, options=options, name=f"worker-{multiprocessing.current_process().pid}"
    ):
        await asyncio.Event().wait()


def worker(url: str) -> None:
    """The program of a worker."""
    asyncio.run(_work(url))


async def measure(url: str, tasks: int, workers: int) -> None:
    """Print the tasks in a second, and the time of a single task in an idle store."""
    context = multiprocessing.get_context("spawn")
    processes: list[multiprocessing.process.BaseProcess] = []
    async with app.node(url, options=NodeOptions(serves=())) as node:
        for _ in range(workers):
            processes.append(context.Process(target=worker, args=(url,), daemon=True))
            processes[-1].start()
        try:
            await node.client.workflow(many, id=f"warm-{time.time_ns()}").run(1)
            single: list[float] = []
            for n in range(20):
                began = time.perf_counter()
                await node.client.workflow(many, id=f"single-{time.time_ns()}-{n}").run(1)
                single.append(time.perf_counter() - began)
            began = time.perf_counter()
            runs = [
                node.client.workflow(many, id=f"run-{time.time_ns()}-{n}").run(CALLS)
                for n in range(tasks // CALLS)
            ]
            await asyncio.gather(*runs)
            seconds = time.perf_counter() - began
        finally:
            for process in processes:
                process.terminate()
    middle = sorted(single)[len(single) // 2]
    print(
        f"{tasks} tasks, {workers} workers: {tasks / seconds:,.0f} tasks/s; one alone: {middle * 1000:.1f} ms"
    )


def main() -> None:
    """Read the arguments."""
    url, *numbers = sys.argv[1:]
    tasks, workers = [*map(int, numbers), *(10_000, 2)[len(numbers) :]]
    asyncio.run(measure(url, tasks, workers))


if __name__ == "__main__":
    main()
