"""Activities as plain `def`: on a thread where they block, in a process of a pool where they compute."""

from __future__ import annotations

import asyncio
import os
import threading
import time

from perdure import App

app = App("plain-functions")


@app.activity
def blocking() -> str:
    time.sleep(0.01)  # a driver without asyncio, a file, a library: the node's loop goes on
    return threading.current_thread().name


@app.activity(executor="process")
def computing(limit: int) -> tuple[int, int]:
    primes = sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, limit))
    return primes, os.getpid()


@app.workflow
async def work() -> tuple[str, tuple[int, int]]:
    return await asyncio.gather(blocking(), computing(10_000))


async def main() -> None:
    async with app.node("memory://") as node:
        thread, (primes, pid) = await node.client.workflow(work, id="work-1").run()
    assert thread != threading.main_thread().name
    assert pid != os.getpid()
    assert (
        primes == computing.fn(10_000)[0] == 1_229
    )  # `fn` is the function as it was written: for tests
    print(f"ran on {thread}; counted {primes} primes in another process")


if __name__ == "__main__":
    asyncio.run(main())
