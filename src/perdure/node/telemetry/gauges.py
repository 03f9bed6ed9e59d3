"""Gauges: numbers of a node's memory and of its store, when the exporter of metrics asks for them.

Turns are read in the same way, from the node's own tally. There are more of them than of anything
else, and so they cost nothing.

OpenTelemetry can create an observable instrument once per provider and never take it back. So there
is one set of them per provider, for all nodes of the process. It sums the nodes of an app, and
follows when a node stops and starts.

The exporter asks on a thread of its own. Numbers in memory are read there. Numbers from the store
are those of the last question, and each question makes the node's loop fetch new ones. So nothing
is read without a question.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import CLOSED
from perdure.node.telemetry.instruments import BY_NAME
from perdure.node.telemetry.tally import NodeMetrics
from perdure.ports.store import Counts

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

    from perdure.ports.clock import Clock
    from perdure.ports.store import Store


_COUNTED: dict[str, Callable[[NodeMetrics], int]] = {
    "perdure.turns": lambda counted: counted.turns,
    "perdure.turn.failures": lambda counted: counted.turn_failures,
}
"""Counters that are read from the tally, and how."""


class NodeGauges:
    """The numbers of one node."""

    def __init__(
        self, app: str, store: Store, clock: Clock, in_memory: Callable[[], NodeMetrics]
    ) -> None:
        """`in_memory` gives the numbers of the moment (any thread). Call it on the node's loop."""
        self.app = app
        self.in_memory = in_memory
        self.in_store: dict[str, int] = {}
        self._store = store
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Have the numbers of the store read again (any thread)."""
        with suppress(RuntimeError):  # the loop is closed: the process is about to end
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        # One question at a time: a slow store must not get more and more of them.
        if self._reading is None or self._reading.done():
            self._reading = self._loop.create_task(self.read(), name="perdure-gauges")

    async def read(self) -> None:
        """Read the numbers of the store. A store that cannot be read has none."""
        try:
            page = await self._store.query(Counts(at=self._clock.now_ms()))
        except StoreUnavailable:
            self.in_store = {}  # old numbers would look as if all were well
        else:
            self.in_store = dict(page.items)

    async def stop(self) -> None:
        """Read nothing any more."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])


class Gauges:
    """The gauges of one provider."""

    def __init__(self, meter: Meter) -> None:
        """Create them."""
        self._nodes: list[NodeGauges] = []
        # The counts of nodes that have stopped, by instrument and app.
        self._past: dict[str, Counter[str]] = {name: Counter() for name in _COUNTED}
        self._lock = Lock()
        self._create(meter, "perdure.node.residents", lambda node: node.in_memory().residents)
        self._create(meter, "perdure.activity.running", lambda node: node.in_memory().running)
        self._create(meter, "perdure.activity.waiting", lambda node: node.in_memory().waiting)
        self._create(meter, "perdure.inbox.depth", lambda node: node.in_store.get("inbox"))
        self._create(meter, "perdure.task.depth", lambda node: node.in_store.get("tasks"))
        self._create(meter, "perdure.dead_letters", lambda node: node.in_store.get("dead_letters"))
        spec = BY_NAME["perdure.instances"]
        meter.create_observable_gauge(spec.name, [self._instances], spec.unit, spec.text)
        for name in _COUNTED:
            self._count(meter, name)

    def _count(self, meter: Meter, name: str) -> None:
        spec = BY_NAME[name]

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return self._totals(name)

        meter.create_observable_counter(spec.name, [observe], spec.unit, spec.text)

    def _create(self, meter: Meter, name: str, read: Callable[[NodeGauges], int | None]) -> None:
        spec = BY_NAME[name]

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return self._sums(read)

        meter.create_observable_gauge(spec.name, [observe], spec.unit, spec.text)

    def add(self, node: NodeGauges) -> None:
        """A node has started."""
        with self._lock:
            self._nodes.append(node)

    def remove(self, node: NodeGauges) -> None:
        """It has stopped. Its counts stay: a counter does not go back."""
        with self._lock:
            self._nodes.remove(node)
            for name, read in _COUNTED.items():
                self._past[name][node.app] += read(node.in_memory())

    def _totals(self, name: str) -> Iterator[Observation]:
        from opentelemetry.metrics import Observation

        with self._lock:
            sums = self._past[name].copy()
            for node in self._nodes:
                sums[node.app] += _COUNTED[name](node.in_memory())
        for app, value in sums.items():
            yield Observation(value, {"perdure.app": app})

    def _all(self) -> list[NodeGauges]:
        with self._lock:
            return list(self._nodes)

    def _sums(self, read: Callable[[NodeGauges], int | None]) -> Iterator[Observation]:
        from opentelemetry.metrics import Observation

        sums: Counter[str] = Counter()
        for node in self._all():
            value = read(node)
            if value is not None:  # a store that cannot be read is not one without messages
                sums[node.app] += value
        for app, value in sums.items():
            yield Observation(value, {"perdure.app": app})

    def _instances(self, _options: CallbackOptions) -> Iterator[Observation]:
        from opentelemetry.metrics import Observation

        sums: Counter[tuple[str, str]] = Counter()
        for node in self._all():
            # Here and not in each gauge of the store: one question brings the numbers of all.
            node.ask()
            for status in ("pending", "running", "suspended", *sorted(CLOSED)):
                if status in node.in_store:
                    sums[node.app, status] += node.in_store[status]
        for (app, status), value in sums.items():
            yield Observation(value, {"perdure.app": app, "perdure.status": status})


_made: WeakKeyDictionary[MeterProvider, Gauges] = WeakKeyDictionary()


def gauges_of(provider: MeterProvider, meter: Meter) -> Gauges:
    """The gauges of a provider. They are made when the first node needs them."""
    gauges = _made.get(provider)
    if gauges is None:
        gauges = Gauges(meter)
        _made[provider] = gauges
    return gauges
