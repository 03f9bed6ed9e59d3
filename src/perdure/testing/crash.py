"""The crash harness: end a node at each commit and each effect of a scenario, start it again, and compare the outcome.

    python -m perdure.testing.crash check shop_crash.py:orders            every point, kill -9, two hash seeds
    python -m perdure.testing.crash run shop_crash.py:orders --store sqlite:///x.db --kill-at 7

A scenario is an app, and a script that starts instances and talks to them. First it runs undisturbed. Then, for each
point of its life (see `perdure.testing.faults`), it runs on a fresh store until it is ended there, and again on that
store until it is through. Results, statuses, KV and histories must be those of the undisturbed run (but for times and
attempts), no command may have two answers, and no activity whose result was recorded may run again.

`crash_in_process` is exhaustive and quick: a life ends by being cut off from its store. `crash_in_processes` kills real
processes, and restarts under another hash seed. For that it keeps two interpreters with the scenario loaded, one per
seed, that fork a process per life.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from perdure.app import App
from perdure.client import Client
from perdure.errors import PerdureError, UsageError
from perdure.gateway import StoreGateway
from perdure.kernel.events import ActivityCompleted, ActivityFailed
from perdure.node import NodeOptions
from perdure.ports.store import Store
from perdure.store import open_store
from perdure.testing.faults import ObservedNode, Points, Step
from perdure.testing.outcome import Outcome, all_ended, differences, take_outcome

SEEDS = ("1", "2")
"""Hash seeds of the life that is killed and of the one that goes on."""
LIVES_MAX = 1_000


@dataclass(frozen=True)
class Scenario:
    """An app and a script that drives it.

    `script(client)` runs from its beginning in each life, so it must be idempotent: fixed ids; its messages get fixed
    ids, and are sent once. It returns what is to be compared, and must see to it that every instance ends.
    `ordered=False` allows events in another order (parallel work). `check` gets the script's result, and raises if it
    is wrong. `same_values=False` leaves recorded values out of the comparison (they hold a time or a pid). A life may
    take at most `patience_s` seconds.
    """

    app: App
    script: Callable[[Client], Awaitable[object]]
    ordered: bool = True
    same_values: bool = True
    options: NodeOptions = field(default_factory=NodeOptions)
    patience_s: int = 30
    check: Callable[[object], None] | None = None


@dataclass(frozen=True)
class Report:
    """What was done: points of the undisturbed run, and how often the node was ended."""

    points: int
    crashes: int


class OutcomeDiffers(AssertionError):
    """A crash changed the outcome; the message names the point and the differences."""


# ---------------------------------------------------------------- one life


async def live(scenario: Scenario, store: Store, points: Points) -> Outcome:
    """Run a scenario on an open store until everything has ended, or the life has."""
    recorded = await _recorded(store)
    options = replace(scenario.options, store_retry_ms=0)  # a dead life waits for no store
    node = ObservedNode(scenario.app, store, points, options=options)
    patience = asyncio.timeout(scenario.patience_s)
    await node.start()
    try:
        async with patience:
            result = await scenario.script(node.client)
            await all_ended(node.client)
    except TimeoutError as error:
        if not patience.expired() or points.dead:
            raise
        raise OutcomeDiffers(await _unfinished(store, scenario.patience_s)) from error
    else:
        if scenario.check is not None:
            scenario.check(result)
        reader = Client(StoreGateway(store))
        outcome = await take_outcome(reader, result, points.names, values=scenario.same_values)
        again = [
            f"{step} ran again, although its result was recorded"
            for step in points.steps
            if step in recorded
        ]
        outcome.faults += points.faults + again
        return outcome
    finally:
        await node.stop(0 if points.dead else None)


async def _unfinished(store: Store, patience_s: int) -> str:
    client = Client(StoreGateway(store))
    left = [
        f"{d.id} is {d.status} ({d.reason})"
        for d in await client.list(limit=None)
        if d.closed_at is None
    ]
    return f"not through within {patience_s} s: {', '.join(left) or 'the script'}; counts {await client.counts()}"


async def _recorded(store: Store) -> set[Step]:
    """Activity calls whose result stands in a journal."""
    client = Client(StoreGateway(store))
    steps: set[Step] = set()
    for description in await client.list(limit=None):
        handle = client.get(description.id)
        for execution in await handle.executions():
            for entry in await handle.history(execution):
                if isinstance(entry.event, ActivityCompleted | ActivityFailed):
                    steps.add((description.id, description.run, execution, entry.event.seq))
    return steps


async def _live_or_die(scenario: Scenario, store: Store, points: Points) -> Outcome | None:
    """A life within this process; None if it was ended."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:  # on whatever thread the last point was passed
        loop.call_soon_threadsafe(over.set)

    points.ended = end
    async with store:
        living = asyncio.ensure_future(live(scenario, store, points))
        ending = asyncio.ensure_future(over.wait())
        await asyncio.wait([living, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not points.dead:
            return await living
        points.release()
        living.cancel()
        with suppress(
            asyncio.CancelledError, PerdureError, TimeoutError
        ):  # it dies of having no store
            await living
        return None


# ---------------------------------------------------------------- in one process


def crash_in_process(scenario: Scenario, *, url: str = "memory://", every: int = 1) -> Report:
    """Crash at every point (or at each `every`-th), within this process. Call it where no event loop runs.

    `url` may contain `{folder}`, which stands for a fresh folder: `"sqlite:///{folder}/x.db"`.

    Raises:
        OutcomeDiffers: naming the point.
    """
    with _fresh(url) as opened:
        expected = asyncio.run(_live_or_die(scenario, opened(), Points(None, kill=False)))
    assert expected is not None
    _compare(expected, expected, scenario, "without a crash")
    for crashes, last in enumerate(count(1, every)):
        points = Points(last, kill=False)
        with _fresh(url) as opened, _noted(f"a crash at point {last}"):
            found = asyncio.run(_live_or_die(scenario, opened(), points))
            through = found is not None
            if found is None:
                found = asyncio.run(_live_or_die(scenario, opened(), Points(None, kill=False)))
            assert found is not None
            found.faults += [] if through else points.faults
        if through:
            _compare(expected, found, scenario, "without a crash")
            return Report(len(expected.points), crashes)
        _compare(expected, found, scenario, f"point {last}, {points.names[-1]}")
    raise AssertionError


def crash_repeatedly(scenario: Scenario, *, url: str = "memory://") -> Report:
    """Crash the first life at its first point, the second at its second, and so on until one is through.

    Nothing counts as poison meanwhile. Call it where no event loop runs.

    Raises:
        OutcomeDiffers: the outcome is another one.
    """
    with _fresh(url) as opened:
        expected = asyncio.run(_live_or_die(scenario, opened(), Points(None, kill=False)))
    assert expected is not None
    patient = replace(scenario, options=replace(scenario.options, crash_failures=LIVES_MAX))
    with _fresh(url) as opened:
        for last in range(1, LIVES_MAX):
            found = asyncio.run(_live_or_die(patient, opened(), Points(last, kill=False)))
            if found is not None:
                _compare(expected, found, scenario, f"after {last - 1} crashes")
                return Report(len(expected.points), last - 1)
    msg = f"{LIVES_MAX} lives were not enough: there is no progress"
    raise OutcomeDiffers(msg)


@contextmanager
def _noted(where: str) -> Generator[None]:
    """Say in an error where it happened."""
    try:
        yield
    except Exception as error:
        error.add_note(f"crash harness: {where}")
        raise


@contextmanager
def _fresh(url: str) -> Generator[Callable[[], Store]]:
    """How to open a store that is empty at first: in memory the same object again, in a file a new one."""
    with tempfile.TemporaryDirectory(prefix="perdure-crash-") as folder:
        if "{folder}" in url:
            yield lambda: open_store(url.replace("{folder}", folder))
        else:
            store = open_store(url)
            yield lambda: store


def _compare(expected: Outcome, found: Outcome, scenario: Scenario, where: str) -> None:
    if wrong := differences(expected, found, ordered=scenario.ordered):
        raise OutcomeDiffers(f"{where}:\n" + "\n".join(wrong))


# ---------------------------------------------------------------- in processes of their own


@cache
def load_scenario(target: str) -> Scenario:
    """The scenario that `module:name` or `path/to/file.py:name` names.

    Raises:
        UsageError: there is none.
    """
    place, _, name = target.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        found = getattr(module, name)
    except (OSError, ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{target!r} names no scenario: {error}; give module:name or file.py:name"
        ) from error
    if not isinstance(found, Scenario):
        raise UsageError(
            f"{target!r} is a {type(found).__name__}, not a perdure.testing.crash.Scenario"
        )
    return found


def run_life(target: str, url: str, kill_at: int | None) -> Outcome:
    """One life in this process, which ends by SIGKILL at point `kill_at`."""
    scenario = load_scenario(target)
    outcome = asyncio.run(_live_or_die(scenario, open_store(url), Points(kill_at, kill=True)))
    assert outcome is not None
    return outcome


class Life(msgspec.Struct):
    """An order to a server: run a life of `target` on `url`, and write its outcome to a file."""

    target: str
    url: str
    kill_at: int | None
    outcome: str


class LifeServer:
    """An interpreter with a hash seed of its own that forks a process per life."""

    def __init__(self, seed: str) -> None:
        """Start it."""
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        command = [sys.executable, "-m", "perdure.testing.crash", "serve"]
        self._process = subprocess.Popen(  # noqa: S603  # this module, by this interpreter
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._lives = 0

    def life(self, target: str, url: str, kill_at: int | None, folder: Path) -> Outcome | None:
        """Run a life; None if it was killed.

        Raises:
            OutcomeDiffers: it ended in another way.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self._lives += 1
        path = folder / f"outcome-{self._process.pid}-{self._lives}"
        stdin.write(msgspec.json.encode(Life(target, url, kill_at, str(path))) + b"\n")
        stdin.flush()
        code = int(stdout.readline() or b"1")
        if code == -signal.SIGKILL and kill_at is not None:
            return None
        if code != 0:
            why = ""
            if path.exists():
                why = path.read_text(encoding="utf-8")
            raise OutcomeDiffers(f"a life of {target} (kill at {kill_at}) ended with {code}\n{why}")
        return msgspec.json.decode(path.read_bytes(), type=Outcome)

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._process.communicate()


def crash_in_processes(
    target: str,
    *,
    every: int = 1,
    first: int = 1,
    servers: Sequence[LifeServer] | None = None,
    beside: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Report:
    """Kill -9 at every `every`-th point from `first`, and go on in a new process under another hash seed.

    `target` names the scenario for `load_scenario`, in processes that have this one's `sys.path`. `servers` are two
    interpreters that several calls can share; without them there are two new ones, with the seeds of `SEEDS`.
    `beside` gets the URL of each store before the first life begins on it, and is left when all lives are over: for
    other processes that use the same store.

    Raises:
        OutcomeDiffers: naming the point.
    """
    scenario = load_scenario(target)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-crash-")))
        if servers is not None:
            dying, going_on = servers
        else:
            dying, going_on = [stack.enter_context(LifeServer(seed)) for seed in SEEDS]
        undisturbed = _url(folder, 0)
        stack.enter_context(beside(undisturbed))
        expected = going_on.life(target, undisturbed, None, folder)
        assert expected is not None
        _compare(expected, expected, scenario, "without a crash")
        pool = stack.enter_context(
            ThreadPoolExecutor(1)
        )  # the next life is killed while the last one goes on
        after: list[tuple[int, Future[Outcome | None]]] = []
        for last in range(first, len(expected.points) + 1, every):
            url = _url(folder, last)
            stack.enter_context(beside(url))
            if dying.life(target, url, last, folder) is None:
                after.append((last, pool.submit(going_on.life, target, url, None, folder)))
        for last, future in after:
            with _noted(f"kill -9 at point {last}"):
                found = future.result()
            assert found is not None
            _compare(
                expected,
                found,
                scenario,
                f"kill -9 at point {last} (undisturbed: {expected.points[last - 1]})",
            )
        return Report(len(expected.points), len(after))


def _url(folder: Path, number: int) -> str:
    # The processes die, not the machine: what they wrote stays, with or without fsync.
    return f"sqlite:///{folder}/{number}.db?synchronous=normal"


def _serve() -> None:
    """Fork a process per line of stdin; answer with its exit code (negative: the signal)."""
    importlib.import_module("perdure.store.sqlite")  # once, and not in each child
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Life)
        scenario = load_scenario(order.target)
        child = os.fork()
        if child == 0:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), 1
            )  # what a scenario prints is no answer of ours
            signal.alarm(scenario.patience_s + 5)
            os._exit(_obey(order))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _obey(order: Life) -> int:
    path = Path(order.outcome)
    try:
        path.write_bytes(msgspec.json.encode(run_life(order.target, order.url, order.kill_at)))
    except BaseException:
        path.write_text(traceback.format_exc(), encoding="utf-8")
        return 1
    return 0


# ---------------------------------------------------------------- the program


def main(arguments: list[str] | None = None) -> int:
    """`run`, `check` or `serve`; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m perdure.testing.crash", description="Crash a scenario."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="one life: print its outcome as JSON")
    run.add_argument("scenario", metavar="MODULE:NAME")
    run.add_argument(
        "--store", required=True, metavar="URL", help="a SQLite URL; other lives may go on with it"
    )
    run.add_argument("--kill-at", type=int, metavar="N", help="end by SIGKILL at the N-th point")
    check = verbs.add_parser(
        "check", help="kill -9 at each point, restart under another hash seed, compare"
    )
    check.add_argument("scenario", metavar="MODULE:NAME")
    check.add_argument("--every", type=int, default=1, metavar="K", help="only each K-th point")
    verbs.add_parser("serve", help="used by check: run lives as told on standard input")
    given = parser.parse_args(arguments)
    if given.verb == "serve":
        _serve()
    elif given.verb == "run":
        outcome = run_life(given.scenario, given.store, given.kill_at)
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(outcome)).decode() + "\n")
    else:
        report = crash_in_processes(given.scenario, every=given.every)
        sys.stdout.write(
            f"{report.crashes} crashes at {report.points} points: the outcome was always the same\n"
        )
    return 0


if __name__ == "__main__":
    # Under its own name: the scenario that is loaded imports this module, and `Scenario` must be one class.
    from perdure.testing import crash  # noqa: PLW0406

    sys.exit(crash.main())
