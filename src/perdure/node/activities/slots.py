"""Slots: how many attempts may run at once, and which of them wait.

An attempt takes a slot of the node, one of its queue, and if it needs a thread or a process one of
these. So an attempt that has a slot waits for nothing else, and its time can be counted from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from perdure.node.activities.job import Job, Kind
    from perdure.node.options import NodeOptions

_Line = tuple[str, "Kind"]
"""A queue and a kind of job: all jobs of a line wait for the same slots."""


class Slots:
    """Gives slots to jobs, first come, first served among those that could run."""

    def __init__(self, options: NodeOptions, launch: Callable[[Job], None]) -> None:
        """All slots are free. `launch` is called with each job that gets one."""
        self._options = options
        self._launch = launch
        self._kinds: dict[Kind, int] = {"thread": options.threads, "process": options.processes}
        self._by_queue: dict[str, int] = {}
        self._by_kind: dict[Kind, int] = {"async": 0, "thread": 0, "process": 0}
        # The jobs that wait, by the number of their arrival. A dictionary keeps their order, and a
        # job can leave its middle.
        self._lines: dict[_Line, dict[Job, int]] = {}
        self._arrivals = 0
        self._hands_out = False
        self._closed = False
        self.taken = 0

    @property
    def waiting(self) -> int:
        """How many jobs wait for a slot."""
        lines = list(self._lines.values())  # a copy: metrics are read on another thread
        return sum(map(len, lines))

    def room(self, queue: str, kinds: Collection[Kind]) -> int:
        """How many jobs of a queue could begin now, if they are of these kinds."""
        options = self._options
        room = options.activities - self.taken
        if queue in options.queues:
            room = min(room, options.queues[queue] - self._by_queue.get(queue, 0))
        for kind in kinds:
            if kind in self._kinds:
                room = min(room, self._kinds[kind] - self._by_kind[kind])
        # Jobs that wait do so for slots of their own queue or kind, and take none of these.
        return max(0, room)

    def ask(self, job: Job) -> bool:
        """Launch the job, now (True) or when there is a slot for it."""
        if not self._closed and self._is_free(job.queue, job.kind):
            self._take(job)
            return True
        self._arrivals += 1
        self._lines.setdefault((job.queue, job.kind), {})[job] = self._arrivals
        return False

    def withdraw(self, job: Job) -> bool:
        """Let the job wait no longer. False: it did not wait."""
        key = (job.queue, job.kind)
        line = self._lines.get(key)
        if line is None or line.pop(job, None) is None:
            return False
        if not line:
            del self._lines[key]
        return True

    def give_back(self, job: Job) -> None:
        """Its slot is free. The job that has waited for it longest begins."""
        self.taken -= 1
        self._by_queue[job.queue] -= 1
        self._by_kind[job.kind] -= 1
        # A job that has no time left comes back here from its launch. Each call inside the other,
        # a thousand of them would be more than Python's stack takes.
        if not self._hands_out:
            self._hand_out()

    def _hand_out(self) -> None:
        """Launch the jobs that can go on with the slots that are free."""
        self._hands_out = True
        try:
            while not self._closed and self._lines:
                following = self._next()
                if following is None:
                    return
                self.withdraw(following)
                self._take(following)
        finally:
            self._hands_out = False

    def close(self) -> None:
        """Launch nothing more."""
        self._closed = True

    def _take(self, job: Job) -> None:
        self.taken += 1
        self._by_queue[job.queue] = self._by_queue.get(job.queue, 0) + 1
        self._by_kind[job.kind] += 1
        self._launch(job)

    def _is_free(self, queue: str, kind: Kind) -> bool:
        options = self._options
        if self.taken >= options.activities:
            return False
        if queue in options.queues and self._by_queue.get(queue, 0) >= options.queues[queue]:
            return False
        if kind not in self._kinds:
            return True  # the node's loop takes any number
        return self._by_kind[kind] < self._kinds[kind]

    def _next(self) -> Job | None:
        """The job that came first, of those at the heads of lines that could go on."""
        first: Job | None = None
        first_arrival = 0
        for (queue, kind), line in self._lines.items():
            if self._is_free(queue, kind):
                job, arrival = next(iter(line.items()))
                if first is None or arrival < first_arrival:
                    first = job
                    first_arrival = arrival
        return first
