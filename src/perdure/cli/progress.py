"""The progress of a running instance on stderr: its status, its waits and its last steps."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from perdure.cli import screen
from perdure.cli.payloads import payload_json
from perdure.cli.timeline import MARKS, Labels, Step, duration, span, steps
from perdure.client.description import HistoryEvent
from perdure.kernel.data.commit import UnitRow

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

_ROWS = 10
_FRAMES_PER_SECOND = 8
_STATUS_COLUMNS = 60


class Progress:
    """A few lines that a live display draws repeatedly. A change only stores new facts."""

    def __init__(self, id: str) -> None:
        """Nothing is known yet."""
        self._id = id
        self._row: UnitRow | None = None
        self._steps: list[Step] = []
        self._began_ms = time.time_ns() // 1_000_000

    def change(self, row: UnitRow, history: list[HistoryEvent]) -> None:
        """Show this from now on."""
        self._steps = steps(history)
        self._began_ms = span(history).started_ms or self._began_ms
        self._row = row

    def live(self) -> AbstractContextManager[object]:
        """The display while this is open. Without a terminal on stderr there is none."""
        from rich.live import Live

        console = screen.notes()
        if not console.is_terminal:
            return nullcontext()
        return Live(self, console=console, transient=True, refresh_per_second=_FRAMES_PER_SECOND)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw."""
        from rich.spinner import Spinner
        from rich.table import Table

        now_ms = time.time_ns() // 1_000_000
        # All is made anew for each frame. The spinner takes its position from the time.
        spinner = Spinner("dots").render(time.monotonic())
        head = Table.grid(padding=(0, 1))
        head.add_row(spinner, self._headline(now_ms))
        yield head
        shown = self._shown()
        grid = Table.grid(padding=(0, 2))
        # By default rich cuts words that are longer than their column.
        for _ in range(5):
            grid.add_column(overflow="fold")
        labels = Labels(self._steps)
        for step in shown:
            grid.add_row(*self._line(step, labels.of(step), now_ms))
        if shown:
            yield grid
        left_out = len(self._steps) - len(shown)
        if left_out:
            from rich.text import Text

            yield Text(f"  and {left_out} more", style="bright_black")

    def _shown(self) -> list[Step]:
        """The open steps, and before them as many of the ended ones as there is room for."""
        running = [step for step in self._steps if step.open][:_ROWS]
        ended = [step for step in self._steps if not step.open]
        first = max(0, len(ended) + len(running) - _ROWS)
        return ended[first:] + running

    def _headline(self, now_ms: int) -> Text:
        from rich.text import Text

        row = self._row
        if row is None:
            return Text(f"{self._id}  has not begun", style="bold")
        text = Text.assemble((row.type, "bold"), " ", row.id, "  ", (row.status, "cyan"))
        if row.reason:
            text.append(f" ({row.reason})", style="bright_black")
        text.append(f"  {duration(now_ms - self._began_ms)}")
        if row.custom_status is not None:
            custom = screen.json_text(payload_json(row.custom_status), indent=0)
            if len(custom) > _STATUS_COLUMNS:
                custom = custom[: _STATUS_COLUMNS - 1] + "…"
            text.append(f"  {custom}", style="magenta")
        return text

    def _line(self, step: Step, name: str, now_ms: int) -> list[Text]:
        from rich.text import Text

        mark, colour = MARKS[step.outcome]
        tail = ""
        if step.attempts > 1:
            tail = f"attempt {step.attempts}"
        if step.detail:
            tail += f"  {' '.join(step.detail.split())[:_STATUS_COLUMNS]}"
        style = "bright_black"
        if step.outcome == "retrying":
            style = "yellow"
        return [
            Text(f"  {mark}", style=colour),
            Text(step.kind, style="bright_black"),
            Text(name),
            Text(duration(step.duration_ms(now_ms))),
            Text(tail.strip(), style=style),
        ]
