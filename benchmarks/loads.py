"""The workloads, written once against the Engine protocol: each is a function (engine, parameters) -> figures."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.engine import FAILED, PAYLOAD, Engine, Result
from benchmarks.gauges import usage
from benchmarks.summary import percentile

Parameters = Mapping[str, float]
Figures = dict[str, float]
Load = Callable[[Engine, Parameters], Awaitable[Figures]]


class WrongResult(Exception):
    """An engine answered something else than the workload asked for: its figures would be worthless."""


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted and found is not FAILED:
        raise WrongResult(f"{what}: expected {wanted!r}, got {found!r}")


async def bounded(count: int, limit: int, one: Callable[[int], Awaitable[None]]) -> None:
    """Run one(0) ... one(count - 1), at most `limit` at a time."""
    numbers = iter(range(count))

    async def drain() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(drain() for _ in range(min(limit, count))))


async def collect(engine: Engine, results: Sequence[Result], wanted: object, what: str) -> None:
    """Wait for all the results, as many at once as the engine's client likes, and check each."""

    async def one(number: int) -> None:
        expect(await results[number](), wanted, what)

    await bounded(len(results), engine.result_concurrency, one)


def losses(engine: Engine) -> Figures:
    """Workflows that the engine lost, if any: their number becomes a figure."""
    if engine.lost:
        print(f"{len(engine.lost)} lost, the first one: {engine.lost[0]}", file=sys.stderr)
    return {"lost": float(len(engine.lost))} if engine.lost else {}


async def warm_up(engine: Engine) -> None:
    await asyncio.gather(
        *(engine.run("chain", f"warm-up-{number}", 3, PAYLOAD) for number in range(3))
    )
    engine.calls.clear()


async def w1(engine: Engine, parameters: Parameters) -> Figures:
    count, singles = int(parameters["workflows"]), int(parameters["singles"])

    async def one(number: int) -> None:
        expect(await engine.run("chain", f"w1-{number}", 1, PAYLOAD), PAYLOAD, "W1")

    before, start = usage(), time.perf_counter()
    await bounded(count, int(parameters["in_flight"]), one)
    took, used = time.perf_counter() - start, usage() - before
    latencies: list[float] = []
    for number in range(singles):
        start = time.perf_counter()
        await engine.run("chain", f"w1-single-{number}", 1, PAYLOAD)
        latencies.append(1000 * (time.perf_counter() - start))
    return {
        "workflows_per_s": count / took,
        "p50_ms": percentile(latencies, 50),
        "p99_ms": percentile(latencies, 99),
        "cpu_us": 1e6 * used.cpu_seconds / count,
    }


async def chains(engine: Engine, prefix: str, count: int, steps: int) -> tuple[float, float]:
    """Run chains side by side: steps per second, and processor time per step in µs."""

    async def one(number: int) -> None:
        expect(await engine.run("chain", f"{prefix}-{number}", steps, PAYLOAD), PAYLOAD, prefix)

    before, start = usage(), time.perf_counter()
    await bounded(count, count, one)
    took, used = time.perf_counter() - start, usage() - before
    return count * steps / took, 1e6 * used.cpu_seconds / (count * steps)


async def w2(engine: Engine, parameters: Parameters) -> Figures:
    one, _ = await chains(engine, "w2-one", 1, int(parameters["steps_alone"]))
    many, _ = await chains(engine, "w2-many", int(parameters["chains"]), int(parameters["steps"]))
    return {"one_steps_per_s": one, "many_steps_per_s": many}


async def w3(engine: Engine, parameters: Parameters) -> Figures:
    width = int(parameters["width"])
    start = time.perf_counter()
    expect(await engine.run("fan", "w3", width, PAYLOAD), width, "W3")
    return {"activities_per_s": width / (time.perf_counter() - start)}


async def w4(engine: Engine, parameters: Parameters) -> Figures:
    steps = int(parameters["steps"])
    expect(await engine.run("chain", "w4", steps, PAYLOAD), PAYLOAD, "W4")
    times, window = engine.calls.times, min(100, steps // 4)
    first = 1000 * (times[window] - times[0]) / window
    last = 1000 * (times[-1] - times[-1 - window]) / window
    return {"first_ms": first, "last_ms": last, "growth": last / first}


async def w5(engine: Engine, parameters: Parameters) -> Figures:
    count = int(parameters["workflows"])
    results: list[Result] = []

    async def one(number: int) -> None:
        results.append(await engine.start("nap", f"w5-{number}", parameters["seconds"]))

    begin = time.perf_counter()
    await bounded(count, int(parameters["in_flight"]), one)
    started = time.perf_counter()
    await collect(engine, results, "slept", "W5")
    done = time.perf_counter()
    return {"after_last_start_s": done - started, "wall_s": done - begin}


async def idle_cpu_percent(seconds: float) -> tuple[float, float]:
    """Processor time (percent of one core) and voluntary context switches per second of a node that nobody asks."""
    before, start = usage(), time.perf_counter()
    await asyncio.sleep(seconds)
    took, used = time.perf_counter() - start, usage() - before
    return 100 * used.cpu_seconds / took, used.switches / took


async def idle(engine: Engine, parameters: Parameters) -> Figures:
    await asyncio.sleep(parameters["settle_s"])
    percent, switches = await idle_cpu_percent(parameters["seconds"])
    return {"cpu_percent": percent, "switches_per_s": switches}


async def cpu(engine: Engine, parameters: Parameters) -> Figures:
    speed, used = await chains(engine, "cpu", int(parameters["chains"]), int(parameters["steps"]))
    return {"steps_per_s": speed, "cpu_us": used}


async def parallel(engine: Engine, parameters: Parameters) -> Figures:
    width, ends = int(parameters["width"]), time.perf_counter() + parameters["seconds"]
    latencies: list[float] = []
    begin = time.perf_counter()

    async def keep_busy(client: int) -> None:
        number = 0
        while (start := time.perf_counter()) < ends:
            number += 1
            expect(await engine.run("slow_fan", f"p-{client}-{number}", width, PAYLOAD), width, "P")
            latencies.append(1000 * (time.perf_counter() - start))

    await asyncio.gather(*(keep_busy(client) for client in range(int(parameters["outstanding"]))))
    took = time.perf_counter() - begin
    return {
        "workflows_per_s": len(latencies) / took,
        "p50_ms": percentile(latencies, 50),
        "p99_ms": percentile(latencies, 99),
    }


LOADS: dict[str, Load] = {
    "W1": w1,
    "W2": w2,
    "W3": w3,
    "W4": w4,
    "W5": w5,
    "CPU": cpu,
    "IDLE": idle,
    "P": parallel,
}


async def run_load(engine: Engine, name: str, folder: Path, parameters: Parameters) -> Figures:
    """Open a node, warm it up, run one workload and close it."""
    await engine.open(folder)
    try:
        await warm_up(engine)
        return await LOADS[name](engine, parameters) | losses(engine)
    finally:
        await engine.close()
