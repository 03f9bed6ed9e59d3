"""Where the time of a step goes: `python -m benchmarks.profiling [--store URL]`.

Runs 100 chains of 100 activities and 1,000 one-activity workflows under cProfile and prints the share of each part of
the node's own thread. The profiler makes everything slower, so only the shares count, not the times.
"""

import argparse
import asyncio
import cProfile
import pstats

from perdure import App

app = App("profiling")

PARTS = {
    "the turn: message, delivery, user code, packing the commit": (
        "kernel/unit/workflow_unit.py",
        "advance",
    ),
    "the attempt: its coroutine, encoding, the delivery of its result": (
        "node/activities/runner.py",
        "run",
    ),
    "what follows a commit: starting attempts, answers, deadlines": (
        "node/loop/turns.py",
        "_effects",
    ),
    "the turn and the node's bookkeeping around it": ("node/loop/turns.py", "_turn"),
    "the store's call in this thread": ("store/", "commit"),
}


@app.activity
async def echo(text: str) -> str:
    return text


@app.workflow
async def chain(n: int) -> str:
    result = ""
    for _ in range(n):
        result = await echo("a payload of 20 bytes")
    return result


async def run(url: str) -> None:
    """Both workloads on a node of its own."""
    async with app.node(url) as node:
        client = node.client
        await asyncio.gather(
            *(client.workflow(chain, id=f"chain-{i}").run(100) for i in range(100))
        )
        await asyncio.gather(*(client.workflow(chain, id=f"one-{i}").run(1) for i in range(1_000)))


def main() -> None:
    """Print shares of the total, each with everything below it (the parts overlap where one calls the other)."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--store", default="memory://", help="a store URL; a thread of the store is not profiled"
    )
    profile = cProfile.Profile()
    profile.runcall(asyncio.run, run(arguments.parse_args().store))
    stats = pstats.Stats(profile)
    total: float = stats.total_tt  # type: ignore[attr-defined]
    rows: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = stats.stats  # type: ignore[attr-defined]
    for part, (file, function) in PARTS.items():
        spent = sum(
            row[3]
            for key, row in rows.items()
            if f"perdure/{file}" in key[0] and key[2] == function
        )
        print(f"{100 * spent / total:5.1f} %  {part}")


if __name__ == "__main__":
    main()
