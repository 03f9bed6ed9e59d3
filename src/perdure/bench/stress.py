"""A stress run: keep instances outstanding until the time is up, check every result, and report.

    report = await Stress(Parallel(outstanding=5), "sqlite:///stress.db", seconds=2).run()
    assert report.failed == 0, report.failures

Node and client share this process, so the processor time and the memory are those of both.
Latencies are measured from the start of an instance to its result. A run may use a store that has
other instances: its own ids begin with `prefix`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Literal

from perdure import __version__
from perdure.bench.gauges import MB, Gauges, Latencies, Use
from perdure.bench.machine import commits_per_s, describe
from perdure.bench.shapes import Laps, Shape, app, laps
from perdure.client.client import Client
from perdure.errors import Failed, StoreError, UsageError
from perdure.ports.store import Store
from perdure.store import open_store

Removal = Literal["never", "at_once", "at_end"]
"""The time at which the instances of a run are deleted."""

PREFIX = "bench-"
"""The beginning of the ids of every run."""


@dataclass
class Trouble:
    """Failures of one category: their number, and the text of the first."""

    count: int
    first: str


@dataclass
class Tally:
    """The results of a run so far."""

    begun: float = 0.0
    completed: int = 0
    failures: dict[str, Trouble] = field(default_factory=dict[str, Trouble])
    latencies: Latencies = field(default_factory=Latencies)

    @property
    def failed(self) -> int:
        """Instances without a right result."""
        return sum(trouble.count for trouble in self.failures.values())

    @property
    def took_s(self) -> float:
        """Time since the begin."""
        return time.perf_counter() - self.begun

    def begin(self) -> None:
        """The load begins now."""
        self.begun = time.perf_counter()

    def note_success(self, took_s: float) -> None:
        """Count one more right result."""
        self.completed += 1
        self.latencies.add(1000 * took_s)

    def note_failure(self, category: str, what: object) -> None:
        """Count one more failure of a category."""
        self.failures.setdefault(category, Trouble(0, str(what))).count += 1


@dataclass(frozen=True)
class Scale:
    """The machine, and the speed of SQLite alone on its disk (None for a store in memory)."""

    machine: dict[str, str]
    disk_commits_per_s: float | None


@dataclass(frozen=True)
class Report:
    """The figures of a run.

    Latencies are milliseconds from start to result. `steps_ms` has those of single durable steps.
    `took_s` includes the end of the instances that were outstanding when the time was up, and rates
    are over all of it. `residents` is the number of instances in memory at the end, which is 0,
    because no ended instance stays. `store_mb` is the size of the file at the end, and None for a
    store in memory.
    """

    shape: str
    settings: dict[str, object]
    store: str
    at: str
    version: str
    scale: Scale
    seconds: float
    took_s: float
    completed: int
    failed: int
    failures: dict[str, Trouble]
    success_percent: float
    instances_per_s: float
    activities_per_s: float
    latency_ms: dict[str, float]
    steps_ms: dict[str, float] | None
    use: Use
    residents: int
    store_mb: float | None


class Stress:
    """One run of a shape on a store."""

    def __init__(
        self,
        shape: Shape,
        store: str | Store = "memory://",
        *,
        seconds: float = 10,
        patience_s: float = 60,
        prefix: str | None = None,
        removal: Removal = "never",
    ) -> None:
        """Nothing is opened before `run`.

        An instance that takes longer than `patience_s` counts as failed. With `removal="at_once"`
        an instance is deleted when its result was checked, which is part of the load and keeps a
        store in memory small. With `"at_end"` all are deleted when everything was measured.

        Raises:
            UsageError: the store or a number is impossible.
        """
        if seconds <= 0 or patience_s <= 0:
            msg = (
                f"a run needs some time: seconds={seconds:g} and patience_s={patience_s:g} "
                "must be more than 0"
            )
            raise UsageError(msg)
        self.shape = shape
        self.removal = removal
        self.seconds = seconds
        self.patience_s = patience_s
        if prefix is None:
            # Random, so that several runs may use one store.
            prefix = f"{PREFIX}{os.urandom(4).hex()}-"
        self.prefix = prefix
        self.tally = Tally()
        self.gauges = Gauges()
        self._given = store
        self._store = open_store(store)
        self._numbers = count(1)
        self._broken = False

    @property
    def path(self) -> Path | None:
        """The file of the store, if it has one."""
        path = getattr(self._store, "path", ":memory:")
        if path == ":memory:":
            return None
        return Path(path)

    async def run(self, ready: Callable[[], None] | None = None) -> Report:
        """Run until the time is up and the last instance has ended.

        `ready` is called when the clock starts.

        Raises:
            StoreLocked: another process owns the store.
            StoreError: it cannot be opened.
        """
        measured = Laps()
        # Set before the node is made: its activities get the context of that moment.
        token = laps.set(measured)
        try:
            async with app.node(self._given) as node:
                scale = await self._scale()
                if ready is not None:
                    ready()
                took_s = await self._keep_busy(node.client)
                report = self._report(took_s, node.residents, measured, scale)
                if self.removal == "at_end" and not self._broken:
                    await self._remove_all(node.client)
        finally:
            laps.reset(token)
        return report

    async def _scale(self) -> Scale:
        if self.path is None:
            return Scale(describe(Path()), None)
        folder = self.path.parent
        return Scale(describe(folder), await asyncio.to_thread(commits_per_s, folder))

    async def _remove_all(self, client: Client) -> None:
        # Each call removes a limited number, and says whether there are more.
        more = True
        while more:
            more = (await client.delete(id_prefix=self.prefix, force=True, forget=True)).more

    async def _keep_busy(self, client: Client) -> float:
        # As many loops as instances are outstanding: each starts the next when one has ended.
        async with self.gauges:
            self.tally.begin()
            await asyncio.gather(*(self._repeat(client) for _ in range(self.shape.outstanding)))
            return self.tally.took_s

    async def _repeat(self, client: Client) -> None:
        # At least once: a machine that is busy can use a short time up before the first start.
        await self._one(client, next(self._numbers))
        while self.tally.took_s < self.seconds and not self._broken:
            await self._one(client, next(self._numbers))

    async def _one(self, client: Client, number: int) -> None:
        tally = self.tally
        call = self.shape.call(number)
        name = f"{self.prefix}{number}"
        handle = client.workflow(call.workflow, id=name)
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(self.patience_s):
                found = await handle.run(*call.arguments)
        except TimeoutError:
            tally.note_failure("timeout", f"{name!r} has not ended within {self.patience_s:g} s")
        except Failed as error:
            tally.note_failure(error.failure.category, error)
        except StoreError as error:
            # The node stops, so no instance that is started from now on can succeed.
            self._broken = True
            tally.note_failure("infrastructure", error)
        else:
            if found != call.expected:
                tally.note_failure(
                    "wrong result", f"{name!r} gave {found!r:.80}, not {call.expected!r:.80}"
                )
                return
            tally.note_success(time.perf_counter() - begin)
            if self.removal == "at_once":
                await handle.delete(forget=True)

    def _report(self, took_s: float, residents: int, measured: Laps, scale: Scale) -> Report:
        tally = self.tally
        shape = self.shape
        per_s = 1 / took_s
        steps_ms = None
        if measured.latencies.count:  # only chains have steps
            steps_ms = measured.latencies.summary()
        return Report(
            shape=type(shape).__name__.lower(),
            settings=asdict(shape),  # type: ignore[call-overload]
            store=self._kind(),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            version=__version__,
            scale=scale,
            seconds=self.seconds,
            took_s=took_s,
            completed=tally.completed,
            failed=tally.failed,
            failures=tally.failures,
            success_percent=100 * tally.completed / max(1, tally.completed + tally.failed),
            instances_per_s=tally.completed * per_s,
            activities_per_s=tally.completed * shape.per_instance * per_s,
            latency_ms=tally.latencies.summary(),
            steps_ms=steps_ms,
            use=self.gauges.use(),
            residents=residents,
            store_mb=self._size_mb(),
        )

    def _kind(self) -> str:
        """The store, without its place."""
        kind = type(self._store).__name__.removesuffix("Store").lower()
        if self.path is not None:
            return f"{kind} file"
        if kind == "sqlite":  # `sqlite:///:memory:`, which is not the store in memory
            return f"{kind} in memory"
        return kind

    def _size_mb(self) -> float | None:
        if self.path is None:
            return None
        size = 0
        for end in ("", "-wal", "-shm"):
            file = self.path.with_name(self.path.name + end)
            if file.exists():
                size += file.stat().st_size
        return size / MB
