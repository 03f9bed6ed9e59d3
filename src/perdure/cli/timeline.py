"""A history as steps, and the steps as bars on one scale of time.

A step is one thing that workflow code waited for or did: an activity with all its attempts, a
timer, a message, a child, a checkpoint. The journal has times for deliveries, and none for
commands. The code gives a command while it digests a delivery, so the time of that delivery is the
time of the command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from perdure.cli.layout import (
    NEVER,
    Cell,
    Column,
    Line,
    Row,
    clipped,
    columns_of,
    grown,
    heads,
    lines_of,
    plan,
)
from perdure.cli.payloads import arguments_text
from perdure.client.description import HistoryEvent
from perdure.errors import Failure
from perdure.kernel.data import events as ev

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

Kind = Literal[
    "activity", "timer", "message", "event", "child", "detached", "checkpoint", "sent", "pause"
]
StepOutcome = Literal["open", "retrying", "completed", "failed", "cancelled"]

ROWS = 40
"""The default number of steps that `render` shows."""


@dataclass(slots=True)
class Step:
    """One step. Times are milliseconds since 1970. `ended_ms` is None while it is open.

    `seq` is the number of its command in the execution (0: it has none). `detail` is a failure, the
    reason of a retry, or the id of a child. `due_ms` is the time of a timer.
    """

    kind: Kind
    name: str
    seq: int
    started_ms: int
    ended_ms: int | None = None
    attempts: int = 1
    outcome: StepOutcome = "open"
    detail: str | None = None
    due_ms: int | None = None
    # The encoded arguments. Not compared: they do not tell steps apart, their numbers do.
    input: bytes | None = field(default=None, compare=False)

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.ended_ms is None

    @property
    def names_instance(self) -> bool:
        """Whether `detail` is the id of another instance, which people copy."""
        calls = self.kind in ("child", "detached", "sent")
        return calls and self.outcome != "failed"

    def duration_ms(self, now_ms: int) -> int:
        """The time that it took, or has taken until `now_ms`."""
        until_ms = now_ms
        if self.ended_ms is not None:
            until_ms = self.ended_ms
        # The clock of this process may be behind that of the node.
        return max(0, until_ms - self.started_ms)

    def end(self, at_ms: int, outcome: StepOutcome, failure: Failure | None = None) -> None:
        """It has ended."""
        self.ended_ms = at_ms
        self.outcome = outcome
        if failure is not None:
            self.detail = failure.display()

    def take(self, arguments: bytes) -> None:
        """It is a call with these arguments."""
        self.input = arguments

    def ring_at(self, due_ms: int) -> None:
        """It is a timer, and ends at this time."""
        self.due_ms = due_ms

    def retry(self, attempt: int, failure: Failure) -> None:
        """An attempt has failed, and there will be another one."""
        self.attempts = attempt + 1
        self.outcome = "retrying"
        self.detail = f"attempt {attempt}: {failure.display()}"

    def succeed_in(self, attempts: int) -> None:
        """The attempts of the past do not matter any more."""
        self.attempts = attempts
        if self.kind == "activity":
            self.detail = None


@dataclass(frozen=True, slots=True)
class Span:
    """The time of the execution itself. `ended_ms` is None while it runs."""

    started_ms: int
    latest_ms: int
    ended_ms: int | None


def steps(history: Iterable[HistoryEvent]) -> list[Step]:
    """The steps of one execution's history, in the order in which the code began them."""
    reader = _Reader()
    for entry in history:
        reader.read(entry.event)
    return reader.steps


def open_steps(history: Iterable[HistoryEvent], limit: int = 10) -> list[Step]:
    """What an execution waits for, at most `limit` of them. None once it has ended."""
    return [step for step in steps(history) if step.open][:limit]


def span(history: Iterable[HistoryEvent]) -> Span:
    """The times of an execution's first delivery, its last delivery, and its end."""
    started = 0
    latest = 0
    ended: int | None = None
    for entry in history:
        at: int | None = getattr(entry.event, "at", None)
        if at is None:
            continue
        if not started:
            started = at
        latest = max(latest, at)
        if isinstance(entry.event, ev.END_EVENTS):
            ended = at
    return Span(started, latest, ended)


class _Reader:
    """Walks a history once, with the time and the open steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._open: dict[int, Step] = {}
        self._pause: Step | None = None
        self.now = 0

    def read(self, event: ev.AnyEvent) -> None:
        at: int | None = getattr(event, "at", None)
        # A clock may have been set back. In a view time only goes on.
        if at is not None:
            self.now = max(self.now, at)
        # Some events are no steps: a change of the custom status, for example.
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
        step.end(self.now, "completed")

    def answer(self, seq: int, failure: Failure | None = None, attempts: int = 1) -> None:
        step = self._open.pop(seq, None)
        if step is None:
            return  # cancelled before: the answer came too late to count
        step.succeed_in(attempts)
        if failure is not None:
            step.end(self.now, "failed", failure)
        else:
            step.end(self.now, "completed")

    def attempt_failed(self, event: ev.AttemptFailed) -> None:
        step = self._open.get(event.seq)
        if step is not None:
            step.retry(event.attempt, event.failure)

    def call(self, event: ev.CallStarted) -> None:
        # A detached instance answers to nobody, so its step has ended with its start.
        if event.detached:
            self.at_once("detached", event.workflow, event.seq, event.target)
        else:
            self.begin("child", event.workflow, event.seq, event.target).take(event.input)

    def sleep(self, event: ev.TimerStarted) -> None:
        name = event.name or duration(event.fire_at - self.now)
        self.begin("timer", name, event.seq).ring_at(event.fire_at)

    def wait(self, event: ev.WaitStarted) -> None:
        kind: Kind = "message"
        if event.positional:
            kind = "event"
        self.begin(kind, event.channel, event.seq)

    def cancel(self, seq: int) -> None:
        step = self._open.pop(seq, None)
        if step is not None:
            step.end(self.now, "cancelled")

    def pause(self, event: ev.Paused) -> None:
        if self._pause is None:
            self._pause = self.begin("pause", event.reason or "paused")

    def resume(self) -> None:
        if self._pause is not None:
            self._pause.end(self.now, "completed")
            self._pause = None

    def close(self) -> None:
        """End the execution. Its open steps are not awaited any more."""
        self.resume()
        for step in self._open.values():
            step.end(self.now, "cancelled")
        self._open.clear()

    def raised(self, event: ev.EventRaised) -> None:
        if event.seq:
            self.answer(event.seq)


_HANDLERS: dict[type[ev.Event], Callable[[_Reader, Any], object]] = {
    ev.ActivityScheduled: lambda r, e: r.begin("activity", e.name, e.seq).take(e.input),
    ev.ActivityCompleted: lambda r, e: r.answer(e.seq, attempts=e.attempt),
    ev.ActivityFailed: lambda r, e: r.answer(e.seq, e.failure, e.attempt),
    ev.AttemptFailed: _Reader.attempt_failed,
    ev.TimerStarted: _Reader.sleep,
    ev.TimerFired: lambda r, e: r.answer(e.seq),
    ev.WaitStarted: _Reader.wait,
    ev.Received: lambda r, e: r.answer(e.seq),
    ev.EventRaised: _Reader.raised,
    ev.CallStarted: _Reader.call,
    ev.Replied: lambda r, e: r.answer(e.seq, e.failure),
    ev.CheckpointStarted: lambda r, e: r.begin("checkpoint", e.name, e.seq),
    ev.CheckpointRecorded: lambda r, e: r.answer(e.seq, e.failure),
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
            text = f"{seconds // size}{name}"
            rest = seconds % size // part_size
            if rest:
                text += f" {rest}{part}"
            return text
    raise AssertionError(ms)


MARKS: dict[StepOutcome, tuple[str, str]] = {
    "open": ("…", "cyan"),
    "retrying": ("↻", "yellow"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("–", "bright_black"),
}
"""The mark of an outcome, and its colour."""


# Step and times are never cut. The bar shrinks first. A detail that has no room goes below its row.
_COLUMNS = (
    Column("kind", "bright_black"),
    Column("step", is_head=True),
    Column("", role="bar", least=10, most=48),
    Column("at", "bright_black", is_right=True),
    Column("took", is_right=True),
    Column("tries", is_right=True),
    Column("outcome"),
    Column("", "bright_black", role="text", least=NEVER),
)
_BAR = 2
_ARGUMENTS_COLUMNS = 30


class Labels:
    """The names of steps. Calls of the same name are told apart by their arguments."""

    def __init__(self, shown: Sequence[Step]) -> None:
        """Count the names of these steps."""
        self._counts = Counter((step.kind, step.name) for step in shown)

    def of(self, step: Step) -> str:
        """The name of one of them."""
        # Made when it is asked for: of thousands of steps only some are shown.
        if step.input is None or self._counts[step.kind, step.name] == 1:
            return step.name
        arguments = clipped(arguments_text(step.input), _ARGUMENTS_COLUMNS)
        return f"{step.name}({arguments})"


class Timeline:
    """Steps as a table with bars, for a rich console. It is as wide as the console allows."""

    def __init__(
        self,
        shown: Sequence[Step],
        scale: Span,
        now_ms: int,
        rows: int | None,
        is_wide: bool,
    ) -> None:
        """Made by `render`."""
        self._steps = shown
        self._labels = Labels(shown)
        self._scale = scale
        self.now_ms = now_ms
        self._rows = rows
        self._is_wide = is_wide

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw."""
        from rich.text import Text

        if not self._steps:
            yield Text(
                "no steps: the workflow has called nothing and waited for nothing",
                style="bright_black",
            )
            return
        if self._is_wide:
            for line in self._lines(None):
                yield Text.assemble(*line, no_wrap=True, overflow="ignore")
            return
        # Only an id that is longer than the console is folded here.
        for line in self._lines(options.max_width):
            yield Text.assemble(*line, overflow="fold")

    def _lines(self, room: int | None) -> Iterator[Line]:
        visible = list(self._visible())
        names = [columns_of(column.name) for column in _COLUMNS]
        widths = grown(names, (self._row(number) for number in visible))
        layout = plan(_COLUMNS, widths, room)
        bar = layout.width_of(_BAR)
        for row in (heads(layout, _COLUMNS), *(self._row(number, bar) for number in visible)):
            yield from lines_of(layout, _COLUMNS, row)

    def _visible(self) -> Iterator[int | None]:
        """The numbers of the steps to show. None stands for those that are left out."""
        count = len(self._steps)
        if self._rows is None or count <= self._rows:
            yield from range(count)
            return
        half = self._rows // 2
        yield from range(self._rows - half)
        yield None
        yield from range(count - half, count)

    def _row(self, number: int | None, bar: int = 0) -> Row:
        """A step as a row, or the number of steps that are left out."""
        if number is None:
            left_out = len(self._steps) - (self._rows or 0)
            return ("…", f"{left_out} more", "", "", "", "", "", "")
        step = self._steps[number]
        mark, colour = MARKS[step.outcome]
        attempts = Cell("")
        if step.kind == "activity":
            style = "bright_black"
            if step.attempts > 1:
                style = "yellow"
            attempts = Cell(str(step.attempts), style)
        drawn = ""
        if bar:
            drawn = self._bar(step, bar)
        return (
            step.kind,
            self._labels.of(step),
            Cell(drawn, colour),
            f"+{duration(step.started_ms - self._scale.started_ms)}",
            duration(step.duration_ms(self.now_ms)),
            attempts,
            Cell(f"{mark} {step.outcome}", colour),
            Cell(" ".join((step.detail or "").split()), "bright_black", step.names_instance),
        )

    def _bar(self, step: Step, columns: int) -> str:
        whole = max(1, self.now_ms - self._scale.started_ms)
        # A step that began just now, or took no time, is still one mark that can be seen.
        begin = min(int((step.started_ms - self._scale.started_ms) * columns / whole), columns - 1)
        length = max(1, round(step.duration_ms(self.now_ms) * columns / whole))
        return " " * begin + "━" * min(length, columns - begin)


def render(
    history: Iterable[HistoryEvent],
    *,
    now_ms: int | None = None,
    rows: int | None = ROWS,
    wide: bool = False,
) -> Timeline:
    """The timeline of one execution, for a rich console.

    Open steps reach to `now_ms` (default: the latest time in the history). At most `rows` steps are
    shown, the first and the last ones (None: all). `wide` puts each step on one whole line.
    """
    kept = list(history)
    scale = span(kept)
    now = scale.latest_ms
    if scale.ended_ms is not None:
        now = scale.ended_ms
    elif now_ms is not None:
        now = max(now_ms, scale.latest_ms)
    return Timeline(steps(kept), scale, now, rows, wide)
