"""`show`: all that a store knows of one instance. Reading needs no node and disturbs none."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli import screen
from perdure.cli.clusters import why_unserved
from perdure.cli.door import find_or_posted, reading, why_not_begun
from perdure.cli.listings import COLOURS
from perdure.cli.options import DEFAULT_URL, AsJson, Id, StoreUrl, Wide
from perdure.cli.payloads import is_undecodable, payload_json
from perdure.cli.tasks import read_tasks, task_json, task_lines
from perdure.cli.timeline import Step, duration, open_steps, render, steps
from perdure.cli.view import (
    Json,
    failure_lines,
    message_json,
    message_text,
    row_json,
    step_json,
    time_text,
)
from perdure.cli.watch import read_history
from perdure.client.description import HistoryEvent, readable_row
from perdure.codec.failure import without_own_frames
from perdure.errors import Failure
from perdure.kernel.data.commit import Task, UnitRow
from perdure.kernel.data.message import Message
from perdure.ports.store import ClientStore, Executions, Inbox, KvEntries

if TYPE_CHECKING:
    from rich.console import RenderableType

# Messages that are read of an inbox, and those that are shown to people.
_INBOX_MAX = 500
_INBOX_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Instance:
    """The content of `show`."""

    row: UnitRow
    executions: list[int]
    kv: Json
    history: list[HistoryEvent]
    inbox: list[Message]
    tasks: list[Task]
    has_more_messages: bool
    reason: str
    unserved: str
    unreadable: list[str]


def show(
    id: Id,
    store: StoreUrl = DEFAULT_URL,
    rows: Annotated[
        int, typer.Option("--rows", min=0, metavar="N", help="At most so many steps; 0 for all.")
    ] = 40,
    wide: Wide = False,
    as_json: AsJson = False,
) -> int:
    """Show an instance: its state, its result or failure, and the timeline of its steps."""
    instance = asyncio.run(_read(store, id))
    code = screen.note_unreadable(instance.unreadable)
    if as_json:
        found = steps(instance.history)
        screen.json(
            {
                **row_json(instance.row),
                "executions": instance.executions,
                "kv": instance.kv,
                "steps": [step_json(step) for step in found],
                "inbox": [message_json(message) for message in instance.inbox],
                "more_messages": instance.has_more_messages,
                "tasks": [task_json(task) for task in instance.tasks],
                "unserved": instance.unserved or None,
                "unreadable": instance.unreadable,
            }
        )
        return code
    now_ms = time.time_ns() // 1_000_000
    # A pipe has no width.
    wide = wide or not screen.answers().is_terminal
    drawn = render(instance.history, now_ms=now_ms, rows=rows or None, wide=wide)
    screen.show(_facts(instance, now_ms), "", drawn)
    return code


async def _read(url: str, id: str) -> _Instance:
    async with reading(url) as store:
        # A start that waits for a node has no row. One is made of it.
        row, damaged = readable_row(await find_or_posted(store, id))
        inbox = await store.query(Inbox(unit=id, limit=_INBOX_MAX))
        kv = await _read_kv(store, id)
        executions = await kept_executions(store, row)
        read = await read_history(store, id, row.execution)
        reason = await _reason(store, row)
        unserved = await why_unserved(store, row)
        tasks = await read_tasks(store, id)
    # A damaged part is named, and the others are shown: that is when people look.
    unreadable = [
        f"the column {name} of {id!r} cannot be read; it is shown as empty" for name in damaged
    ]
    for key, value in kv.items():
        if is_undecodable(value):
            unreadable.append(f"the KV entry {key!r} of {id!r} cannot be read")
    unreadable += read.unreadable
    has_more = inbox.next is not None
    return _Instance(
        row=row,
        executions=executions,
        kv=kv,
        history=read.events,
        inbox=inbox.items,
        tasks=tasks,
        has_more_messages=has_more,
        reason=reason,
        unserved=unserved,
        unreadable=unreadable,
    )


async def _read_kv(store: ClientStore, id: str) -> Json:
    kv: Json = {}
    after: str | None = None
    while True:
        page = await store.query(KvEntries(unit=id, after=after))
        kv |= {key: payload_json(value) for key, value in page.items}
        after = page.next
        if after is None:
            return kv


async def kept_executions(store: ClientStore, row: UnitRow) -> list[int]:
    """The numbers of the executions whose history is kept, oldest first."""
    numbers: list[int] = []
    after: str | None = None
    while True:
        page = await store.query(Executions(unit=row.id, after=after))
        numbers += [ended.execution for ended in page.items]
        if page.next is None:
            return [*numbers, row.execution]
        after = page.next


class _Facts:
    """What is known of an instance, as a table of names and texts."""

    def __init__(self) -> None:
        from rich.table import Table

        self.table = Table.grid(padding=(0, 2))
        self.table.add_column(style="bright_black", overflow="fold")
        self.table.add_column(overflow="fold")

    def add(self, name: str, value: object, style: str = "") -> None:
        """Add a line, unless there is nothing to say."""
        from rich.text import Text

        if value not in (None, "", {}):
            self.table.add_row(name, Text(str(value), style=style))

    def add_list(self, name: str, texts: list[str]) -> None:
        """Add lines, of which only the first has the name."""
        for text in texts:
            self.add(name, text)
            name = ""


def _facts(instance: _Instance, now_ms: int) -> RenderableType:
    row = instance.row
    facts = _Facts()
    facts.add("id", row.id, "bold")
    facts.add("workflow", f"{row.type} {row.type_version}".rstrip())
    facts.add("status", f"{row.status}{instance.reason}", COLOURS.get(row.status, ""))
    facts.add("note", instance.unserved, "yellow")
    facts.add("parent", row.parent_unit)
    facts.add("created", f"{time_text(row.created_at)}, {duration(now_ms - row.created_at)} ago")
    if row.closed_at:
        took = duration(row.closed_at - row.created_at)
        facts.add("ended", f"{time_text(row.closed_at)}, after {took}")
    elif row.wake_at:
        facts.add("wakes", f"{time_text(row.wake_at)}, in {duration(row.wake_at - now_ms)}")
    waits = [
        f"{step.kind} {step.name}{_due(step, now_ms)}" for step in open_steps(instance.history)
    ]
    facts.add_list("waits for", waits)
    facts.add_list("tasks", task_lines(instance.tasks, now_ms))
    facts.add_list("inbox", _inbox_lines(instance, now_ms))
    if instance.history:
        others = ""
        if row.execution > 1:
            others = f", execution {row.execution}"
        facts.add("history", f"{row.journal_events} events, {row.journal_bytes} bytes{others}")
    _add_payloads(facts, instance)
    if row.failure is not None:
        lines = [(name, screen.near(text)) for name, text in failure_lines(row.failure)]
        if not row.failure.traceback:
            lines.append(("", without_own_frames(_origin(instance.history, row.failure))))
        for name, text in lines:
            style = "red"
            if not name:  # the traceback below its failure
                style = "bright_black"
            facts.add(name, text, style)
    return facts.table


async def _reason(store: ClientStore, row: UnitRow) -> str:
    if row.reason == "posted":
        return f" (posted: {await why_not_begun(store)})"
    # Some reasons are the name of the status, and need not be said twice.
    if row.reason and row.reason != row.status:
        return f" ({row.reason})"
    return ""


def _add_payloads(facts: _Facts, instance: _Instance) -> None:
    row = instance.row
    payloads = {
        "input": _input(instance.history),
        "set status": row.custom_status,
        "result": row.result,
        "attributes": row.attributes,
    }
    for name, payload in payloads.items():
        if payload is not None:
            facts.add(name, screen.json_text(payload_json(payload), indent=0))
    for key, value in instance.kv.items():
        facts.add(f"kv {key}", screen.json_text(value, indent=0))


def _due(step: Step, now_ms: int) -> str:
    """When a timer ends the wait."""
    if step.due_ms is None:
        return ""
    return f", until {time_text(step.due_ms)}, in {duration(step.due_ms - now_ms)}"


def _inbox_lines(instance: _Instance, now_ms: int) -> list[str]:
    """The messages that the code has not received."""
    lines = [
        f"{message_text(message)}, {duration(now_ms - message.at)} ago"
        for message in instance.inbox[:_INBOX_SHOWN]
    ]
    more = len(instance.inbox) - _INBOX_SHOWN
    if instance.has_more_messages:
        lines.append(f"and more than {more} others")
    elif more > 0:
        lines.append(f"and {screen.counted(more, 'other')}")
    return lines


def _origin(history: list[HistoryEvent], failure: Failure) -> str:
    """The traceback of the call whose failure the workflow failed with. Empty: there is none."""
    for entry in reversed(history):
        inner: object = getattr(entry.event, "failure", None)
        if isinstance(inner, Failure) and (inner.type, inner.message) in failure.causes:
            return inner.traceback
    return ""


def _input(history: list[HistoryEvent]) -> bytes | None:
    if not history:
        return None
    # Only a start has an input. A damaged history may begin with another event.
    return getattr(history[0].event, "input", None)
