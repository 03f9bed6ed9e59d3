"""Tasks of an instance, for people and as JSON: what waits for a worker, and what runs where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.cli import screen
from perdure.cli.timeline import duration
from perdure.ports.store import Tasks

if TYPE_CHECKING:
    from perdure.cli.view import Json
    from perdure.kernel.data.commit import Task
    from perdure.ports.store import ClientStore

_SHOWN = 10
_READ_MAX = 500


async def read_tasks(store: ClientStore, unit: str) -> list[Task]:
    """The first tasks of an instance, which may have thousands."""
    return (await store.query(Tasks(unit=unit, limit=_READ_MAX))).items


def task_lines(tasks: Sequence[Task], now_ms: int) -> list[str]:
    """A line for each of the first tasks."""
    lines = [_line(task, now_ms) for task in tasks[:_SHOWN]]
    more = len(tasks) - _SHOWN
    if len(tasks) == _READ_MAX:
        lines.append(f"and more than {more} others")
    elif more > 0:
        lines.append(f"and {screen.counted(more, 'other')}")
    return lines


def _line(task: Task, now_ms: int) -> str:
    what = f"{task.name}, attempt {task.attempt}"
    if task.worker is None:
        if task.visible_at > now_ms:
            return f"{what}: for queue {task.queue} in {duration(task.visible_at - now_ms)}"
        waited = duration(now_ms - task.visible_at)
        return f"{what}: waits for queue {task.queue} since {waited}"
    since = ""
    if task.leased_at is not None:
        since = f" since {duration(now_ms - task.leased_at)}"
    if task.expires_at is not None and task.expires_at <= now_ms:
        return f"{what}: its worker {task.worker} was lost"
    return f"{what}: runs on {task.worker}{since}"


def task_json(task: Task) -> Json:
    """A task as JSON."""
    return {
        "seq": task.seq,
        "attempt": task.attempt,
        "activity": task.name,
        "queue": task.queue,
        "visible_at": task.visible_at,
        "worker": task.worker,
        "leased_at": task.leased_at,
        "expires_at": task.expires_at,
        "key": task.key,
        "session": task.session,
        "tag": task.tag,
    }
