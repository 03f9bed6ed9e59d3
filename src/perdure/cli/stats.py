"""`stats`: the numbers of a store, and of the messages and tasks that wait in it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from perdure.cli import screen
from perdure.cli.door import reading
from perdure.cli.layout import Column
from perdure.cli.listings import COLOURS
from perdure.cli.options import DEFAULT_URL, AsJson, StoreUrl
from perdure.cli.outcome import Exit
from perdure.cli.sheet import Sheet
from perdure.cli.timeline import duration
from perdure.client.store_metrics import StoreMetrics, read_metrics, read_queues
from perdure.ports.store import QueueDepth, StoreInfo

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def stats(store: StoreUrl = DEFAULT_URL, as_json: AsJson = False) -> int:
    """Count the instances by status, executions, events, messages and tasks of a store."""
    info, metrics, queues = asyncio.run(_read(store))
    if as_json:
        document = msgspec.to_builtins(metrics)
        document |= {
            "format": info.format,
            "queues": {name: _depths(depth) for name, depth in queues.items()},
        }
        screen.json(document)
        return Exit.OK
    screen.show(_instances(metrics), "", _others(metrics))
    if queues:
        screen.say("")
        _print_queues(queues)
    return Exit.OK


async def _read(url: str) -> tuple[StoreInfo, StoreMetrics, dict[str, QueueDepth]]:
    # One time for both, so that a task is not delayed in one table and visible in the other.
    at_ms = time.time_ns() // 1_000_000
    async with reading(url) as store:
        return store.info, await read_metrics(store, at_ms), await read_queues(store, at_ms)


def _depths(depth: QueueDepth) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(depth).items() if name != "queue"}


def _grid(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bright_black")
    table.add_column(columns[0], overflow="fold")
    for name in columns[1:]:
        table.add_column(name, no_wrap=True, justify="right")
    return table


def _instances(metrics: StoreMetrics) -> RenderableType:
    from rich.text import Text

    table = _grid("instances", "")
    for status, count in metrics.instances.items():
        # A status that no instance has is grey, so that the others stand out.
        style = "bright_black"
        if count:
            style = COLOURS[status]
        table.add_row(Text(status, style=style), str(count))
    table.add_row("in all", str(metrics.total))
    if metrics.starts:
        table.add_row("and posted starts", str(metrics.starts))
    return table


def _others(metrics: StoreMetrics) -> RenderableType:
    table = _grid("", "now", "delayed")
    table.add_row("messages that wait", str(metrics.messages), str(metrics.messages_delayed))
    table.add_row("tasks that wait", str(metrics.tasks), str(metrics.tasks_delayed))
    table.add_row("executions", str(metrics.executions))
    table.add_row("history events", str(metrics.history_events))
    table.add_row("dead letters", str(metrics.dead_letters))
    table.add_row("tombstones", str(metrics.tombstones))
    table.add_row("answers kept", str(metrics.answers))
    return table


def _row(depth: QueueDepth) -> list[str]:
    counts = (depth.visible, depth.delayed, depth.leased, depth.expired)
    oldest = ""
    if depth.visible:
        oldest = duration(depth.oldest_ms)
    return [depth.queue, *map(str, counts), oldest]


def _print_queues(queues: dict[str, QueueDepth]) -> None:
    names = ("visible", "delayed", "leased", "expired", "oldest")
    sheet = Sheet([Column("queue"), *(Column(name, is_right=True) for name in names)])
    sheet.add(map(_row, queues.values()))
