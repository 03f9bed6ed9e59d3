"""The program around an engine: one workload, one folder, one line of JSON on stdout.

`python -m benchmarks.engines.NAME WORKLOAD PARAMETERS FOLDER`, where PARAMETERS is a JSON object. A workload with two
lives starts this same program twice more, with `--life first` (killed when it says that it may be) and `--life second`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.engine import Engine
from benchmarks.lives import FIRST, first_life, second_life
from benchmarks.loads import LOADS, Figures, run_load

LIFE_TIMEOUT_S = 240
T = TypeVar("T")


def own_stdout() -> int:
    """A descriptor for our line of JSON; whatever else the engine prints to stdout goes to stderr from now on."""
    ours = os.dup(1)
    os.dup2(2, 1)
    return ours


def say(descriptor: int, value: object) -> None:
    os.write(descriptor, json.dumps(value).encode() + b"\n")


def last_line(text: str) -> dict[str, float]:
    lines = text.strip().splitlines()
    if not lines:
        raise RuntimeError("the engine's program printed no result")
    found: dict[str, float] = json.loads(lines[-1])
    return found


def two_lives(module: str, options: argparse.Namespace) -> Figures:
    """Run the first life, kill it with SIGKILL when it is ready, run the second, and join their figures."""
    command = [sys.executable, "-m", module, options.workload, options.parameters, options.folder]
    first = subprocess.Popen([*command, "--life", "first"], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        figures = last_line(first.stdout.readline())
    finally:
        first.kill()
        first.wait()
    spawned = repr(time.monotonic())
    second = subprocess.run(
        [*command, "--life", "second", "--spawned", spawned],
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIFE_TIMEOUT_S,
        check=False,
    )
    if second.returncode:
        raise RuntimeError(
            f"the second life of {options.workload} ended with exit code {second.returncode}"
        )
    return figures | last_line(second.stdout)


async def live(engine: Engine, options: argparse.Namespace, descriptor: int) -> None:
    """One life inside this process; the first one ends by SIGKILL from outside."""
    parameters, folder = json.loads(options.parameters), Path(options.folder)
    if options.life == "first":
        say(descriptor, await first_life(engine, options.workload, folder, parameters))
        await asyncio.Event().wait()
    else:
        say(
            descriptor,
            await second_life(engine, options.workload, folder, parameters, float(options.spawned)),
        )


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run; on uvloop if BENCH_UVLOOP is set."""
    factory = None
    if os.environ.get("BENCH_UVLOOP"):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)


def main(module: str, make_engine: Callable[[], Engine]) -> None:
    parser = argparse.ArgumentParser(description=f"One benchmark of {module}.")
    parser.add_argument("workload", choices=sorted({*LOADS, *FIRST}))
    parser.add_argument("parameters", help="JSON object")
    parser.add_argument("folder", help="empty folder for the engine's data")
    parser.add_argument("--life", choices=("first", "second"))
    parser.add_argument("--spawned", default="0")
    options = parser.parse_args()
    descriptor = own_stdout()
    try:
        work(module, make_engine, options, descriptor)
    except BaseException:
        # Threads of an engine that has failed may wait for ever: leave without them.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def work(
    module: str, make_engine: Callable[[], Engine], options: argparse.Namespace, descriptor: int
) -> None:
    if options.life:
        run(live(make_engine(), options, descriptor))
        return
    if options.workload in FIRST:
        say(descriptor, {"figures": two_lives(module, options), "about": make_engine().about()})
        return
    engine = make_engine()
    parameters = json.loads(options.parameters)
    figures = run(run_load(engine, options.workload, Path(options.folder), parameters))
    say(descriptor, {"figures": figures, "about": engine.about()})
