"""The workloads with two lives: a first node works and is killed with SIGKILL, a second one opens what it left.

`FIRST` prepares and returns when the process may be killed, with figures; `SECOND` opens the folder in a new process.
`spawned` is the moment the second process was created, on the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.engine import PAYLOAD, Engine
from benchmarks.gauges import resident_bytes
from benchmarks.loads import (
    Figures,
    Parameters,
    WrongResult,
    bounded,
    expect,
    idle_cpu_percent,
    losses,
    warm_up,
)

First = Callable[[Engine, Parameters], Awaitable[Figures]]
Second = Callable[[Engine, Path, Parameters, float], Awaitable[Figures]]
STARTS_IN_FLIGHT = 100


def w6_id(number: int) -> str:
    """Also the payload of the workflow's activities: 20 bytes that say who called."""
    return f"w6-{number:017d}"


async def w6_first(engine: Engine, parameters: Parameters) -> Figures:
    count, steps = int(parameters["workflows"]), int(parameters["steps"])

    async def one(number: int) -> None:
        await engine.start("slow_chain", w6_id(number), steps, w6_id(number))

    payloads = engine.calls.payloads
    engine.calls.hold()
    await bounded(count, count, one)
    while len(set(payloads)) < count:
        await asyncio.sleep(0.001)
    engine.calls.release()
    while len(payloads) < count * steps / 2:
        await asyncio.sleep(0.001)
    done = [0] * count
    for payload in list(payloads):
        done[int(payload[3:])] += 1
    return {"midway": float(sum(0 < executed < steps for executed in done))}


async def w6_second(
    engine: Engine, folder: Path, parameters: Parameters, spawned: float
) -> Figures:
    count = int(parameters["workflows"])
    await engine.open(folder)
    ready, calls = time.perf_counter(), engine.calls
    handles = {w6_id(number): engine.attach("slow_chain", w6_id(number)) for number in range(count)}

    async def one(number: int) -> None:
        expect(await handles[w6_id(number)](), w6_id(number), "W6")

    await bounded(count, engine.result_concurrency, one)
    finished = time.monotonic() - spawned
    first_calls: dict[str, float] = {}
    for moment, payload in zip(calls.times, calls.payloads, strict=True):
        first_calls.setdefault(payload, moment)
    await engine.close()
    if not first_calls:
        raise WrongResult("W6: nothing was left to resume, so there is nothing to measure")
    return {
        "resumed": len(first_calls),
        "resumed_s": max(0.0, max(first_calls.values()) - ready),
        "finished_s": finished,
    }


async def w7_first(engine: Engine, parameters: Parameters) -> Figures:
    count = int(parameters["workflows"])
    empty = resident_bytes()

    async def one(number: int) -> None:
        await engine.start("wait", f"w7-{number}")

    await bounded(count, STARTS_IN_FLIGHT, one)
    await asyncio.sleep(parameters["settle_s"])
    more = resident_bytes() - empty
    percent, _ = await idle_cpu_percent(parameters["idle_s"])
    return {
        "workflows": count,
        "more_mb": more / 1e6,
        "each_kb": more / 1e3 / count,
        "idle_cpu_percent": percent,
    }


async def w7_second(
    engine: Engine, folder: Path, parameters: Parameters, spawned: float
) -> Figures:
    opening = time.monotonic()
    await engine.open(folder)
    ready = time.monotonic()
    await engine.send("wait", "w7-0", PAYLOAD)
    expect(await engine.attach("wait", "w7-0")(), PAYLOAD, "W7")
    answered = time.monotonic()
    await engine.close()
    return {
        "cold_spawn_s": ready - spawned,
        "cold_open_s": ready - opening,
        "cold_answer_s": answered - spawned,
    }


async def replay_first(engine: Engine, parameters: Parameters) -> Figures:
    steps = int(parameters["steps"])
    await engine.start("chain_wait", "replay", steps, PAYLOAD)
    while len(engine.calls.times) < steps:
        await asyncio.sleep(0.01)
    await asyncio.sleep(parameters["settle_s"])
    return {}


async def replay_second(
    engine: Engine, folder: Path, parameters: Parameters, spawned: float
) -> Figures:
    """Two events per step: scheduled and completed.

    `from_open`: the span begins before the node is opened, for engines that recover at once; otherwise after it, for
    those that load a history when a message needs it.
    """
    opening = time.perf_counter()
    await engine.open(folder)
    ready = time.perf_counter()
    await engine.send("chain_wait", "replay", PAYLOAD)
    expect(await engine.attach("chain_wait", "replay")(), PAYLOAD, "REPLAY")
    end = time.perf_counter()
    expect(len(engine.calls.times), 0, "REPLAY: activities executed again")
    await engine.close()
    events = 2 * int(parameters["steps"])
    took = end - (opening if parameters.get("from_open") else ready)
    return {"events_per_s": events / took, "replay_ms": 1000 * took}


FIRST: dict[str, First] = {"W6": w6_first, "W7": w7_first, "REPLAY": replay_first}
SECOND: dict[str, Second] = {"W6": w6_second, "W7": w7_second, "REPLAY": replay_second}


async def first_life(engine: Engine, name: str, folder: Path, parameters: Parameters) -> Figures:
    """Open a node and work until it may be killed. The node stays open: nobody closes a process that dies."""
    await engine.open(folder)
    await warm_up(engine)
    return await FIRST[name](engine, parameters)


async def second_life(
    engine: Engine, name: str, folder: Path, parameters: Parameters, spawned: float
) -> Figures:
    """Open what the first life left, and measure."""
    return await SECOND[name](engine, folder, parameters, spawned) | losses(engine)
