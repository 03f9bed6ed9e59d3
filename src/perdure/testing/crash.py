"""The crash harness: end a node at each commit and each effect of a scenario, and start it again.

    python -m perdure.testing.crash check shop_crash.py:orders
    python -m perdure.testing.crash run shop_crash.py:orders --store sqlite:///x.db --kill-at 7

`check` kills at every point with kill -9, under two hash seeds. `run` is one life.

A scenario is an app, and a script that starts instances and sends to them. First it runs
undisturbed. Then, for each point of its life (see `perdure.testing.faults`), it runs on a fresh
store until it is ended there, and again on that store until it is through. Results, statuses, KV
and histories must be those of the undisturbed run (but for times and attempts). No command may have
two answers, and no activity whose result was recorded may run again.

`crash_in_process` is exhaustive and quick: a life ends by being cut off from its store.
`crash_in_processes` kills real processes, and restarts under another hash seed. For that it keeps
two interpreters with the scenario loaded, one per seed, that fork a process per life.
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
from perdure.client.client import Client
from perdure.client.description import Description
from perdure.client.gateway import StoreGateway
from perdure.errors import PerdureError, UsageError
from perdure.kernel.data.events import ActivityCompleted, ActivityFailed
from perdure.node import NodeOptions
from perdure.ports.store import Store
from perdure.store import open_store
from perdure.testing.faults import CallKey, ObservedNode, Points
from perdure.testing.outcome import Outcome, all_ended, differences, take_outcome

SEEDS = ("1", "2")
"""Hash seeds of the life that is killed and of the one that goes on."""
LIVES_MAX = 1_000


@dataclass(frozen=True)
class Scenario:
    """An app and a script that drives it.

    `script(client)` runs from its beginning in each life, so it must be idempotent. Its instances
    need fixed ids. Its messages get fixed ids, and are sent once. Its result is compared, and it
    must see to it that every instance ends. `check` gets the result, and raises if it is wrong.
    `ordered=False` allows events in another order (parallel work). `same_values=False` leaves
    recorded values out of the comparison (they hold a time or a pid). A life may take at most
    `patience_s` seconds.
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
    """The number of points of the undisturbed run, and of crashes."""

    points: int
    crashes: int


class OutcomeDiffers(AssertionError):
    """A crash changed the outcome. The message names the point and the differences."""


# ---------------------------------------------------------------- one life


async def live(scenario: Scenario, store: Store, points: Points) -> Outcome:
    """Run a scenario on an open store until everything has ended, or the life has."""
    recorded = await _recorded(store)
    # A dead life has no store any more, and must not wait for it.
    options = replace(scenario.options, store_retry_ms=0)
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
        outcome.faults += points.faults
        for call in points.calls:
            if call in recorded:
                outcome.faults.append(f"{call} ran again, although its result was recorded")
        return outcome
    finally:
        grace = None
        if points.dead:
            grace = 0
        await node.stop(grace)


async def _unfinished(store: Store, patience_s: int) -> str:
    client = Client(StoreGateway(store))
    still_open = await client.list(status=("pending", "running", "suspended"), limit=None)
    left = [_state(description) for description in still_open]
    blamed = ", ".join(left) or "the script"
    return f"not through within {patience_s} s: {blamed}; counts {await client.counts()}"


def _state(description: Description) -> str:
    state = f"{description.id} is {description.status} ({description.reason})"
    if description.failure is None:
        return state
    return f"{state}: {description.failure.message}"


async def _recorded(store: Store) -> set[CallKey]:
    """Activity calls whose result stands in a journal."""
    client = Client(StoreGateway(store))
    calls: set[CallKey] = set()
    for description in await client.list(limit=None):
        handle = client.get(description.id)
        for execution in await handle.executions():
            for entry in await handle.history(execution):
                if isinstance(entry.event, ActivityCompleted | ActivityFailed):
                    calls.add((description.id, description.run, execution, entry.event.seq))
    return calls


async def _live_or_die(scenario: Scenario, store: Store, points: Points) -> Outcome | None:
    """A life within this process. None if it was ended."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    # The last point may be passed on any thread.
    points.call_at_end(lambda: loop.call_soon_threadsafe(over.set))
    async with store:
        living = asyncio.ensure_future(live(scenario, store, points))
        ending = asyncio.ensure_future(over.wait())
        await asyncio.wait([living, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not points.dead:
            return await living
        points.release()
        living.cancel()
        # It dies of having no store, wherever it is.
        with suppress(asyncio.CancelledError, PerdureError, TimeoutError):
            await living
        return None


# ---------------------------------------------------------------- in one process


def crash_in_process(scenario: Scenario, *, url: str = "memory://", every: int = 1) -> Report:
    """Crash at every point (or at each `every`-th), within this process.

    Call it where no event loop runs.

    `url` may contain `{folder}`, which stands for a fresh folder: `"sqlite:///{folder}/x.db"`.

    Raises:
        OutcomeDiffers: naming the point.
    """
    with _fresh(url) as opened:
        expected = asyncio.run(_live_or_die(scenario, opened(), Points(None, kill=False)))
    assert expected is not None
    _compare(expected, expected, scenario, "without a crash")
    crashes = 0
    for last in count(1, every):
        points = Points(last, kill=False)
        with _fresh(url) as opened, _noted(f"a crash at point {last}"):
            found = asyncio.run(_live_or_die(scenario, opened(), points))
            if found is not None:
                # The life has fewer points than `last`: every point has been tried.
                _compare(expected, found, scenario, "without a crash")
                break
            found = asyncio.run(_live_or_die(scenario, opened(), Points(None, kill=False)))
            assert found is not None
            found.faults += points.faults
        crashes += 1
        _compare(expected, found, scenario, f"point {last}, {points.names[-1]}")
    return Report(len(expected.points), crashes)


def crash_repeatedly(scenario: Scenario, *, url: str = "memory://") -> Report:
    """Crash the first life at its first point, the second at its second, and so on until one is
    through.

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
    """Note the place in an error."""
    try:
        yield
    except Exception as error:
        error.add_note(f"crash harness: {where}")
        raise


@contextmanager
def _fresh(url: str) -> Generator[Callable[[], Store]]:
    """A function that opens a store, which is empty at first.

    In memory it returns the same object again, for a file a new one.
    """
    with tempfile.TemporaryDirectory(prefix="perdure-crash-") as folder:
        if "{folder}" in url:
            yield lambda: open_store(url.replace("{folder}", folder))
        else:
            store = open_store(url)
            yield lambda: store


def _compare(expected: Outcome, found: Outcome, scenario: Scenario, where: str) -> None:
    wrong = differences(expected, found, ordered=scenario.ordered)
    if wrong:
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
            # Dataclasses and pickled activities look their module up by its name.
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
        path = os.pathsep.join(filter(None, sys.path))
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        command = [sys.executable, "-m", "perdure.testing.crash", "serve"]
        self._process = subprocess.Popen(  # noqa: S603  # this module, by this interpreter
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._lives = 0

    def life(self, target: str, url: str, kill_at: int | None, folder: Path) -> Outcome | None:
        """Run a life. None if it was killed.

        Raises:
            OutcomeDiffers: it ended in another way.
        """
        stdin = self._process.stdin
        stdout = self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self._lives += 1
        path = folder / f"outcome-{self._process.pid}-{self._lives}"
        stdin.write(msgspec.json.encode(Life(target, url, kill_at, str(path))) + b"\n")
        stdin.flush()
        # An empty line means that the server itself has died.
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
    """Kill -9 at every `every`-th point from `first`, and go on in a new process under another hash
    seed.

    `target` names the scenario for `load_scenario`, in processes that have this one's `sys.path`.
    `servers` are two interpreters that several calls can share. Without them two new ones are
    started, with the seeds of `SEEDS`. `beside` gets the URL of each store before the first life
    begins on it, and is left when all lives are over. Other processes can use the store there.

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
        # One thread, so that the next life is killed while the last one goes on.
        pool = stack.enter_context(ThreadPoolExecutor(1))
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
            # The killed process cannot name its point. The undisturbed one passed it, too.
            where = f"kill -9 at point {last} (undisturbed: {expected.points[last - 1]})"
            _compare(expected, found, scenario, where)
        return Report(len(expected.points), len(after))


def _url(folder: Path, number: int) -> str:
    # The processes die, not the machine: their writes stay, with or without fsync.
    return f"sqlite:///{folder}/{number}.db?synchronous=normal"


def _serve() -> None:
    """Fork a process per line of stdin. Answer with its exit code (negative: the signal)."""
    # Imported once, and not in each child.
    importlib.import_module("perdure.store.sqlite")
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Life)
        scenario = load_scenario(order.target)
        child = os.fork()
        if child == 0:
            # Standard output is for answers, and a scenario may print.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            # A life that hangs in C code does not see its timeout.
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
    """`run`, `check` or `serve`. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m perdure.testing.crash", description="Crash a scenario."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="one life: print its outcome as JSON")
    run.add_argument("scenario", metavar="MODULE:NAME")
    run.add_argument(
        "--store", required=True, metavar="URL", help="a SQLite URL. Other lives may go on with it"
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
    # Under its own name: the scenario that is loaded imports this module, and `Scenario` must be
    # one class.
    from perdure.testing import crash  # noqa: PLW0406

    sys.exit(crash.main())
