"""The replayer: does this code still fit a history?

Only the kernel runs. Nothing is stored, and no activity is called.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perdure.app import App
from perdure.codec import DecodeError, to_json
from perdure.errors import Failure, NotFound, UsageError
from perdure.kernel.data import events as ev
from perdure.kernel.data.commit import KvEntry, Status
from perdure.kernel.data.limits import NO_LIMITS
from perdure.kernel.execution.execution import Execution as LiveExecution
from perdure.kernel.execution.match import describe
from perdure.kernel.loop.call import ActivityCall
from perdure.kernel.loop.disposal import dispose
from perdure.kernel.loop.entered import Entered
from perdure.kernel.loop.loop import NeverIdle, Nobody
from perdure.kernel.loop.ordered import install as install_ordered_sets
from perdure.kernel.unit import held
from perdure.node.options import check_kind
from perdure.ports.store import ClientStore, Units
from perdure.replay.history import Execution, History, export_history
from perdure.store import open_store

OPEN: tuple[Status, ...] = ("running", "suspended")
"""Instances that the next deploy will replay."""

_SHOWN = 20


class ReplayMismatch(AssertionError):
    """The code does not fit a history.

    The message has the file, the event, the line of the code, the two commands, and the remedy.
    `mismatches` has one error per history if there are several.
    """

    def __init__(self, message: str, id: str, mismatches: tuple[ReplayMismatch, ...] = ()) -> None:
        """Made by `replay` and `replay_all`."""
        super().__init__(message)
        self.id = id
        self.mismatches = mismatches or (self,)


@dataclass(frozen=True)
class Replayed:
    """A history that the code fits.

    `executions` and `events` were replayed. `goes_on` are commands that the code gives beyond its
    history: an open instance would carry them out. `skipped` are the executions that could not be
    replayed, each with the reason.
    """

    id: str
    workflow: str
    status: str
    executions: int
    events: int
    goes_on: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


class _ReplayedRun(LiveExecution):
    """A run that keeps the two events that did not match."""

    __slots__ = ("given", "recorded")
    given: ev.Event | None
    recorded: ev.Event | None

    def break_off(self, recorded: ev.Event | None, given: ev.Event | None, where: str) -> None:
        """Journal and code differ."""
        self.recorded = recorded
        self.given = given
        super().break_off(recorded, given, where)


def replay(app: App, history: History | str | Path) -> Replayed:
    """Replay a history, or the one in a file, against the code of an app.

    Raises:
        ReplayMismatch: the code does not fit. The message says where, and what to do.
        UsageError: the file cannot be read, or is no history.
    """
    check_kind("the app of a replay", app, App, "be an App")
    if not isinstance(history, History):
        history = History.read(history)
    events = 0
    executions = 0
    goes_on: tuple[str, ...] = ()
    skipped: list[str] = []
    # Each execution begins with the KV entries at the end of the one before, unless it has its own.
    entries: list[KvEntry] | None = None
    for execution in history.executions:
        if execution.kv is not None:
            entries = _entries_of(execution, execution.kv)
        if entries is None:
            skipped.append(
                f"execution {execution.number}: "
                "the values of its KV store come from one that is not kept"
            )
            continue
        entries, goes_on = _replay(app, history, execution, entries)
        events += len(execution.events)
        executions += 1
    return Replayed(
        history.id, history.workflow, history.status, executions, events, goes_on, tuple(skipped)
    )


def _entries_of(execution: Execution, kv: dict[str, bytes]) -> list[KvEntry]:
    """The KV entries at the beginning of an execution."""
    entries: list[KvEntry] = []
    for key, value in kv.items():
        at = execution.kv_times.get(key, 0)
        entries.append(KvEntry(key, value, value, execution.number, at, at))
    return entries


def _replay(
    app: App, history: History, execution: Execution, entries: list[KvEntry]
) -> tuple[list[KvEntry], tuple[str, ...]]:
    """Replay one execution. Returns the KV entries at its end, and the commands beyond it."""
    definition = app.find_workflow(history.workflow, execution.version)
    if definition is None:
        raise _mismatch(history, execution, _not_there(app, history, execution))
    # As a node does it at its start. Without it sets of tasks have another order than live.
    install_ordered_sets()
    run = _ReplayedRun(history.id, definition, app, NO_LIMITS)
    run.variables.load(entries, execution.number)
    try:
        with Entered(run.loop):
            run.replay(execution.events)
        if run.broken is not None:
            raise _mismatch(history, execution, run.broken.message + _both(run))
        # Code that waits for nothing fits its history, but never goes on.
        if run.ended is None and not run.pending:
            raise _mismatch(history, execution, held.stuck(history.id, run.loop).message)
        for call in run.pending.values():
            if isinstance(call, ActivityCall) and app.find_activity(call.name) is None:
                raise _mismatch(history, execution, held.missing_activity(call.name).message)
        return run.variables.entries(), tuple(describe(event) for event in run.events)
    except NeverIdle as error:
        raise _mismatch(history, execution, str(error)) from error
    finally:
        # The run holds itself by circles. Without these cuts a replay of many histories keeps all
        # of them until the garbage collector comes.
        dispose(run.loop)
        run.pending.clear()
        run.main = None
        run.loop.timers = Nobody()


def _not_there(app: App, history: History, execution: Execution) -> str:
    workflows = dict(app.workflows())
    versions = workflows.get(history.workflow)
    if versions:
        has = f"it has version {', '.join(versions)}"
    else:
        has = f"it has {', '.join(workflows) or 'none'}"
    return (
        f"app {app.name!r} has no workflow {history.workflow!r} version {execution.version}; "
        f"{has}. Remedy: keep the version that was recorded (and its name, with name=) while "
        "instances of it run"
    )


def _mismatch(history: History, execution: Execution, why: str) -> ReplayMismatch:
    which = f"{history.workflow} {execution.version}, execution {execution.number}"
    origin = ""
    if history.origin != repr(history.id):
        origin = f"{history.origin}: "
    return ReplayMismatch(
        f"{origin}the history of {history.id!r} ({which}) does not fit the code: {why}", history.id
    )


def _both(run: _ReplayedRun) -> str:
    """The two commands in full, where the report does not tell them apart.

    They differ in a value only, or the code has failed.
    """
    recorded = run.recorded
    given = run.given
    if given is None:
        return ""
    if type(recorded) is not type(given) and not isinstance(given, ev.Failed):
        return ""
    journal = ""
    if recorded is not None:
        journal = f"\n  journal: {_in_full(recorded)}"
    return f"{journal}\n  code:    {_in_full(given)}"


def _in_full(event: ev.Event) -> str:
    fields: list[str] = []
    for name, value in msgspec.structs.asdict(event).items():
        if value not in (None, False):  # the defaults of most fields, which tell nothing
            fields.append(f"{name}={_value_in_full(value)}")
    return f"{type(event).__name__}({', '.join(fields)})"


def _value_in_full(value: object) -> str:
    if isinstance(value, Failure):
        return value.display()
    if not isinstance(value, bytes):
        return str(value)
    try:
        return msgspec.json.encode(to_json(value)).decode()
    except DecodeError:  # it is no payload, but a run id or the like
        return value.hex()


# ---------------------------------------------------------------- all of a store


async def replay_all(
    app: App,
    store: str | ClientStore,
    *,
    status: Status | tuple[Status, ...] = OPEN,
    type: str | None = None,
) -> list[Replayed]:
    """Replay the instances of a store against the code of an app.

    By default these are the open ones, each with its current execution. A deploy of this code will
    do the same. A URL is opened read-only, so a node may run on it meanwhile.

    Raises:
        ReplayMismatch: one or more histories do not fit. All are named.
        StoreError: the store cannot be read.
    """
    fits: list[Replayed] = []
    mismatches: list[ReplayMismatch] = []
    async for result in iterate_replays(app, store, status=status, type=type):
        if isinstance(result, ReplayMismatch):
            mismatches.append(result)
        else:
            fits.append(result)
    if mismatches:
        raise _together(mismatches, len(fits) + len(mismatches))
    return fits


async def iterate_replays(
    app: App,
    store: str | ClientStore,
    *,
    status: Status | tuple[Status, ...] = OPEN,
    type: str | None = None,
) -> AsyncGenerator[Replayed | ReplayMismatch]:
    """As `replay_all`, one by one. A mismatch is yielded and not raised."""
    if isinstance(status, str):
        status = (status,)
    statuses = tuple(status)
    if not isinstance(store, str):
        async for result in _replays(app, store, statuses, type):
            yield result
        return
    async with open_store(_read_only(store)) as opened:
        async for result in _replays(app, opened, statuses, type):
            yield result


def _read_only(url: str) -> str:
    # A store in memory belongs to this process, and has no such option.
    if "read_only=" in url or url.startswith("memory:"):
        return url
    mark = "?"
    if "?" in url:
        mark = "&"
    return f"{url}{mark}read_only=true"


async def _replays(
    app: App, store: ClientStore, statuses: tuple[Status, ...], type: str | None
) -> AsyncGenerator[Replayed | ReplayMismatch]:
    types: tuple[str, ...] = ()
    if type is not None:
        types = (type,)
    after: str | None = None
    while True:
        page = await store.query(Units(statuses=statuses, types=types, after=after))
        for view in page.items:
            try:
                yield replay(app, await export_history(store, view.row.id))
            except NotFound:  # it has not begun, or was deleted a moment ago
                continue
            except ReplayMismatch as mismatch:
                yield mismatch
        after = page.next
        if after is None:
            return


def _together(mismatches: list[ReplayMismatch], count: int) -> ReplayMismatch:
    if len(mismatches) == 1:
        return mismatches[0]
    texts = [f"- {mismatch}" for mismatch in mismatches[:_SHOWN]]
    if len(mismatches) > _SHOWN:
        texts.append(f"... and {len(mismatches) - _SHOWN} more")
    head = f"{len(mismatches)} of {count} histories do not fit the code:"
    return ReplayMismatch("\n".join([head, *texts]), mismatches[0].id, tuple(mismatches))


def files_of(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are, and the JSON files of folders.

    Raises:
        UsageError: a folder has none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(path.glob("**/*.json"))
        if not inside:
            msg = (
                f"the folder {path} has no history in it (*.json); "
                "export one with `perdure history ID --export FILE`"
            )
            raise UsageError(msg)
        found += inside
    return found
