"""Fan-out and fan-in: a hundred activities at once, or five at a time, and their results added up."""

from __future__ import annotations

import asyncio

from perdure import App

app = App("fan-in")


@app.activity
async def square(number: int) -> int:
    return number * number


@app.workflow
async def sum_of_squares(count: int) -> int:
    return sum(await asyncio.gather(*(square(number) for number in range(count))))


@app.workflow
async def five_at_a_time(count: int) -> int:
    slots = asyncio.Semaphore(5)

    async def one(number: int) -> int:
        async with slots:
            return await square(number)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(count)]
    return sum(task.result() for task in tasks)


async def main() -> None:
    async with app.node("memory://") as node:
        first = await node.client.workflow(sum_of_squares, id="squares-1").run(100)
        second = await node.client.workflow(five_at_a_time, id="squares-2").run(100)
    assert first == second == 328_350
    print("the sum of 100 squares is", first)


if __name__ == "__main__":
    asyncio.run(main())
