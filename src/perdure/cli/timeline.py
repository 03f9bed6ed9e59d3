"""A history as the steps that people think in, and the steps as bars on one scale of time.

A step is what workflow code waited for or had done: an activity with all its attempts, a timer, a message, a child, a
checkpoint. The journal has no time for a command, only for what the code is told; a command is given while the code
digests a delivery, so its time is that of the delivery before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from perdure.description import HistoryEvent
from perdure.errors import Failure
from perdure.kernel import events as ev

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

Kind = Literal[
    "activity", "timer", "message", "event", "child", "detached", "checkpoint", "sent", "pause"
]
StepOutcome = Literal["open", "retrying", "completed", "failed", "cancelled"]

ROWS = 40
"""How many steps `render` shows unless it is told otherwise."""
_BAR_COLUMNS = (10, 48)
_NAME_COLUMNS = (12, 40)
_DETAIL_COLUMNS = 60


@dataclass(slots=True)
class Step:
    """One step. Times are milliseconds since 1970; `ended_ms` is None while it is open.

    `seq` is the number of its command in the execution (0: it has none). `detail` is what went wrong, or what the
    step is about: the reason of a retry, the id of a child.
    """

    kind: Kind
    name: str
    seq: int
    started_ms: int
    ended_ms: int | None = None
    attempts: int = 1
    outcome: StepOutcome = "open"
    detail: str | None = None

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.ended_ms is None

    def duration_ms(self, now_ms: int) -> int:
        """How long it took, or has taken until `now_ms`."""
        return max(0, (self.ended_ms if self.ended_ms is not None else now_ms) - self.started_ms)


@dataclass(frozen=True, slots=True)
class Span:
    """The execution itself: what the bars are drawn in. `ended_ms` is None while it runs."""

    started_ms: int
    latest_ms: int
    ended_ms: int | None


def steps(history: Iterable[HistoryEvent]) -> list[Step]:
    """The steps of one execution's history, in the order in which the code began them."""
    reader = _Reader()
    for entry in history:
        reader.read(entry.event)
    return reader.steps


def span(history: Iterable[HistoryEvent]) -> Span:
    """When an execution began, when it was told something last, and when it ended."""
    started = latest = 0
    ended: int | None = None
    for entry in history:
        at: int | None = getattr(entry.event, "at", None)
        if at is not None:
            started, latest = started or at, max(latest, at)
            if isinstance(entry.event, ev.END_EVENTS):
                ended = at
    return Span(started, latest, ended)


class _Reader:
    """Walks a history once; knows the time, and which steps are open."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._open: dict[int, Step] = {}
        self._pause: Step | None = None
        self.now = 0

    def read(self, event: ev.AnyEvent) -> None:
        at: int | None = getattr(event, "at", None)
        if at is not None:
            self.now = max(self.now, at)
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def begin(self, kind: Kind, name: str, seq: int = 0, detail: str | None = None) -> Step:
        step = Step(kind, name, seq, self.now, detail=detail)
        self.steps.append(step)
        if seq:
            self._open[seq] = step
        return step

    def at_once(self, kind: Kind, name: str, seq: int = 0, detail: str | None = None) -> None:
        step = self.begin(kind, name, seq, detail)
        self._open.pop(seq, None)
        self._end(step, "completed")

    def _end(self, step: Step, outcome: StepOutcome, failure: Failure | None = None) -> None:
        step.ended_ms, step.outcome = self.now, outcome
        if failure is not None:
            step.detail = failure.display()

    def answer(self, seq: int, failure: Failure | None = None, attempts: int = 1) -> None:
        step = self._open.pop(seq, None)
        if step is None:
            return  # cancelled before: the answer came too late to count
        step.attempts = attempts
        if step.kind == "activity":
            step.detail = None
        self._end(step, "failed" if failure is not None else "completed", failure)

    def attempt_failed(self, event: ev.AttemptFailed) -> None:
        step = self._open.get(event.seq)
        if step is not None:
            step.attempts, step.outcome = event.attempt + 1, "retrying"
            step.detail = f"attempt {event.attempt}: {event.failure.display()}"

    def cancel(self, seq: int) -> None:
        step = self._open.pop(seq, None)
        if step is not None:
            self._end(step, "cancelled")

    def pause(self, event: ev.Paused) -> None:
        if self._pause is None:
            self._pause = self.begin("pause", event.reason or "paused")

    def resume(self) -> None:
        if self._pause is not None:
            self._end(self._pause, "completed")
            self._pause = None

    def close(self) -> None:
        """The execution has ended: nobody waits for what is still open."""
        self.resume()
        for step in self._open.values():
            self._end(step, "cancelled")
        self._open.clear()

    def raised(self, event: ev.EventRaised) -> None:
        if event.seq:
            self.answer(event.seq)


_HANDLERS: dict[type[ev.Event], Callable[[_Reader, Any], object]] = {
    ev.ActivityScheduled: lambda r, e: r.begin("activity", e.name, e.seq),
    ev.ActivityCompleted: lambda r, e: r.answer(e.seq, attempts=e.attempt),
    ev.ActivityFailed: lambda r, e: r.answer(e.seq, e.failure, e.attempt),
    ev.AttemptFailed: _Reader.attempt_failed,
    ev.TimerStarted: lambda r, e: r.begin("timer", e.name or duration(e.fire_at - r.now), e.seq),
    ev.TimerFired: lambda r, e: r.answer(e.seq),
    ev.WaitStarted: lambda r, e: r.begin("event" if e.positional else "message", e.channel, e.seq),
    ev.Received: lambda r, e: r.answer(e.seq),
    ev.EventRaised: _Reader.raised,
    ev.CallStarted: lambda r, e: (
        r.at_once("detached", e.workflow, e.seq, e.target)
        if e.detached
        else r.begin("child", e.workflow, e.seq, e.target)
    ),
    ev.Replied: lambda r, e: r.answer(e.seq, e.failure),
    ev.StepStarted: lambda r, e: r.begin("checkpoint", e.name, e.seq),
    ev.StepRecorded: lambda r, e: r.answer(e.seq, e.failure),
    ev.ValueRecorded: lambda r, e: r.at_once("checkpoint", e.name),
    ev.MessageSent: lambda r, e: r.at_once("sent", e.channel, detail=f"to {e.target}"),
    ev.CancelSent: lambda r, e: r.at_once("sent", "cancel", detail=f"to {e.target}"),
    ev.CommandCancelled: lambda r, e: r.cancel(e.seq),
    ev.Paused: _Reader.pause,
    ev.Resumed: lambda r, _: r.resume(),
    **{end: (lambda r, _: r.close()) for end in ev.END_EVENTS},
}


# ---------------------------------------------------------------- for people


def duration(ms: int) -> str:
    """A length of time in at most seven characters: `0.42 s`, `3m 20s`, `2d 4h`."""
    if ms < 1_000:
        return f"{max(0, ms)} ms"
    if ms < 60_000:
        digits = 1
        if ms < 10_000:
            digits = 2
        return f"{ms / 1000:.{digits}f}".rstrip("0").rstrip(".") + " s"
    seconds = ms // 1000
    for name, size, part, part_size in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if seconds >= size:
            rest = seconds % size // part_size
            return f"{seconds // size}{name}" + (f" {rest}{part}" if rest else "")
    raise AssertionError(ms)


MARKS: dict[StepOutcome, tuple[str, str]] = {
    "open": ("…", "cyan"),
    "retrying": ("↻", "yellow"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("–", "bright_black"),
}
"""How an outcome is marked, and its colour."""


class Timeline:
    """Steps as a table with bars; give it to a rich console. As wide as the console allows."""

    def __init__(self, shown: Sequence[Step], scale: Span, now_ms: int, rows: int | None) -> None:
        """Made by `render`."""
        self._steps = shown
        self._scale = scale
        self.now_ms = now_ms
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw."""
        from rich.table import Table
        from rich.text import Text

        if not self._steps:
            yield Text(
                "no steps: the workflow has called nothing and waited for nothing",
                style="bright_black",
            )
            return
        name_columns = min(
            max(_NAME_COLUMNS[0], *(len(step.name) for step in self._steps)), _NAME_COLUMNS[1]
        )
        fixed = 11 + name_columns + 9 + 9 + 6 + 22
        columns = min(max(options.max_width - fixed, _BAR_COLUMNS[0]), _BAR_COLUMNS[1])
        table = Table(box=None, pad_edge=False, show_edge=False, header_style="bright_black")
        table.add_column("kind", no_wrap=True, style="bright_black")
        table.add_column("step", no_wrap=True, overflow="ellipsis", max_width=name_columns)
        table.add_column("", no_wrap=True, width=columns)
        table.add_column("at", justify="right", no_wrap=True)
        table.add_column("took", justify="right", no_wrap=True)
        table.add_column("tries", justify="right", no_wrap=True)
        table.add_column("outcome", overflow="ellipsis", no_wrap=True, max_width=_DETAIL_COLUMNS)
        for step in self._visible():
            if isinstance(step, int):
                table.add_row("…", f"{step} more", *[""] * 5)
            else:
                table.add_row(*self._row(step, columns))
        yield table

    def _visible(self) -> Iterator[Step | int]:
        """The rows: the first and the last of too many, and between them how many are left out."""
        left_out = 0
        if self._rows is not None:
            left_out = len(self._steps) - self._rows
        if self._rows is None or left_out <= 0:
            yield from self._steps
            return
        half = self._rows // 2
        yield from self._steps[: self._rows - half]
        yield left_out
        yield from self._steps[len(self._steps) - half :] if half else ()

    def _row(self, step: Step, columns: int) -> list[Text]:
        from rich.text import Text

        mark, colour = MARKS[step.outcome]
        outcome = Text(f"{mark} {step.outcome}", style=colour)
        if step.detail:
            outcome.append(f"  {' '.join(step.detail.split())}", style="bright_black")
        return [
            Text(step.kind),
            Text(step.name),
            Text(self._bar(step, columns), style=colour),
            Text(f"+{duration(step.started_ms - self._scale.started_ms)}", style="bright_black"),
            Text(duration(step.duration_ms(self.now_ms))),
            Text(str(step.attempts), style="yellow" if step.attempts > 1 else "bright_black")
            if step.kind == "activity"
            else Text(""),
            outcome,
        ]

    def _bar(self, step: Step, columns: int) -> str:
        whole = max(1, self.now_ms - self._scale.started_ms)
        begin = min(int((step.started_ms - self._scale.started_ms) * columns / whole), columns - 1)
        length = max(1, round(step.duration_ms(self.now_ms) * columns / whole))
        return " " * begin + "━" * min(length, columns - begin)


def render(
    history: Iterable[HistoryEvent], *, now_ms: int | None = None, rows: int | None = ROWS
) -> Timeline:
    """The timeline of one execution, for a rich console.

    Open steps reach to `now_ms` (default: the latest time in the history). `rows` limits how many steps are shown:
    the first and the last ones (None: all).
    """
    kept = list(history)
    scale = span(kept)
    if scale.ended_ms is not None:
        now = scale.ended_ms
    else:
        now = max(now_ms or 0, scale.latest_ms)
    return Timeline(steps(kept), scale, now, rows)
