"""The replayer: does this code still do what a history says? The kernel alone answers; nothing is stored, and no
activity runs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perdure.app import App
from perdure.codec import DecodeError, to_json
from perdure.errors import Failure, NotFound, UsageError
from perdure.kernel import events as ev
from perdure.kernel import held
from perdure.kernel.call import ActivityCall
from perdure.kernel.commit import KvEntry, Status
from perdure.kernel.disposal import dispose
from perdure.kernel.limits import NO_LIMITS
from perdure.kernel.loop import Entered, NeverIdle, Nobody
from perdure.kernel.match import describe
from perdure.kernel.ordered import install as install_ordered_sets
from perdure.kernel.run import Run
from perdure.node.options import check_kind
from perdure.ports.store import Store, Units
from perdure.store import open_store
from perdure.testing.history import Execution, History, export_history

OPEN: tuple[Status, ...] = ("running", "suspended")
"""Instances that the next deploy will replay."""

_SHOWN = 20


class ReplayMismatch(AssertionError):
    """The code does something else than a history says. The message has the file, the event, the line of the code, what
    the journal has, what the code did, and the remedy; `mismatches` has one error per history if there are several.
    """

    def __init__(self, message: str, id: str, mismatches: tuple[ReplayMismatch, ...] = ()) -> None:
        """Made by `replay` and `replay_all`."""
        super().__init__(message)
        self.id = id
        self.mismatches = mismatches or (self,)


@dataclass(frozen=True)
class Replayed:
    """A history that the code fits.

    `executions` and `events` were replayed. `goes_on` are commands that the code gives beyond its history: an instance
    that is open would carry them out. `skipped` says which executions could not be replayed, and why.
    """

    id: str
    workflow: str
    status: str
    executions: int
    events: int
    goes_on: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


class _ReplayedRun(Run):
    """A run that keeps what did not match."""

    __slots__ = ("given", "recorded")
    given: ev.Event | None
    recorded: ev.Event | None

    def break_off(self, recorded: ev.Event | None, given: ev.Event | None, where: str) -> None:
        """Journal and code differ."""
        self.recorded, self.given = recorded, given
        super().break_off(recorded, given, where)


def replay(app: App, history: History | str | Path) -> Replayed:
    """Replay a history, or the one in a file, against the code of an app.

    Raises:
        ReplayMismatch: the code does something else; the message says where, what, and what to do.
        UsageError: the file cannot be read, or is no history.
    """
    check_kind("the app of a replay", app, App, "be an App")
    if not isinstance(history, History):
        history = History.read(history)
    events = executions = 0
    goes_on: tuple[str, ...] = ()
    skipped: list[str] = []
    entries: list[KvEntry] | None = None
    for execution in history.executions:
        kv = execution.kv
        if kv is not None:
            at = execution.kv_times
            entries = [
                KvEntry(key, value, value, execution.number, at.get(key, 0), at.get(key, 0))
                for key, value in kv.items()
            ]
        if entries is None:
            skipped.append(
                f"execution {execution.number}: the values of its KV store come from one that is not kept"
            )
            continue
        entries, goes_on = _replay(app, history, execution, entries)
        events += len(execution.events)
        executions += 1
    return Replayed(
        history.id, history.workflow, history.status, executions, events, goes_on, tuple(skipped)
    )


def _replay(
    app: App, history: History, execution: Execution, entries: list[KvEntry]
) -> tuple[list[KvEntry], tuple[str, ...]]:
    """Replay one execution; the KV entries at its end, and what the code does beyond it."""
    definition = app.find_workflow(history.workflow, execution.version)
    if definition is None:
        versions = dict(app.workflows()).get(history.workflow)
        if versions:
            has = f"it has version {', '.join(versions)}"
        else:
            has = f"it has {_names(app)}"
        why = (
            f"app {app.name!r} has no workflow {history.workflow!r} version {execution.version}; {has}. "
            "Remedy: keep the version that was recorded (and its name, with name=) while instances of it run"
        )
        raise _mismatch(history, execution, why)
    install_ordered_sets()
    run = _ReplayedRun(history.id, definition, app, NO_LIMITS)
    run.variables.load(entries, execution.number)
    try:
        with Entered(run.loop):
            run.replay(execution.events)
        if run.broken is not None:
            raise _mismatch(history, execution, run.broken.message + _both(run))
        if run.ended is None and not run.pending:
            raise _mismatch(history, execution, held.stuck(history.id, run.loop).message)
        for call in run.pending.values():
            if isinstance(call, ActivityCall) and app.find_activity(call.name) is None:
                raise _mismatch(history, execution, held.missing_activity(call.name).message)
        return run.variables.entries(), tuple(describe(event) for event in run.events)
    except NeverIdle as error:
        raise _mismatch(history, execution, str(error)) from error
    finally:
        dispose(run.loop)
        run.pending.clear()
        run.main = None
        run.loop.timers = Nobody()


def _names(app: App) -> str:
    return ", ".join(name for name, _ in app.workflows()) or "none"


def _mismatch(history: History, execution: Execution, why: str) -> ReplayMismatch:
    which = f"{history.workflow} {execution.version}, execution {execution.number}"
    origin = ""
    if history.origin != repr(history.id):
        origin = f"{history.origin}: "
    return ReplayMismatch(
        f"{origin}the history of {history.id!r} ({which}) does not fit the code: {why}", history.id
    )


def _both(run: _ReplayedRun) -> str:
    """The two commands in full, where the report does not tell: they differ in a value, or the code has failed."""
    recorded, given = run.recorded, run.given
    if given is None or not (type(recorded) is type(given) or isinstance(given, ev.Failed)):
        return ""
    journal = ""
    if recorded is not None:
        journal = f"\n  journal: {_in_full(recorded)}"
    return f"{journal}\n  code:    {_in_full(given)}"


def _in_full(event: ev.Event) -> str:
    fields: list[str] = []
    for name, value in msgspec.structs.asdict(event).items():
        if isinstance(value, bytes):
            try:
                value = msgspec.json.encode(to_json(value)).decode()  # noqa: PLW2901  # the same, for people
            except DecodeError:
                value = value.hex()  # noqa: PLW2901
        elif isinstance(value, Failure):
            value = value.display()  # noqa: PLW2901
        if value not in (None, False):
            fields.append(f"{name}={value}")
    return f"{type(event).__name__}({', '.join(fields)})"


# ---------------------------------------------------------------- all of a store


async def replay_all(
    app: App,
    store: str | Store,
    *,
    status: Status | tuple[Status, ...] = OPEN,
    type: str | None = None,
) -> list[Replayed]:
    """Replay what a store holds against the code of an app: by default the instances that are open, each with its
    current execution, which is what a deploy of this code will do.

    A URL is opened read-only; a node may run on it meanwhile.

    Raises:
        ReplayMismatch: for one or more of them; all are named.
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
    store: str | Store,
    *,
    status: Status | tuple[Status, ...] = OPEN,
    type: str | None = None,
) -> AsyncGenerator[Replayed | ReplayMismatch]:
    """The same, one by one; a mismatch is given and not raised."""
    if isinstance(status, str):
        status = (status,)
    statuses = tuple(status)
    if not isinstance(store, str):
        async for result in _replays(app, store, statuses, type):
            yield result
        return
    read_only = "read_only=" in store or store.startswith("memory:")
    if read_only:
        url = store
    else:
        url = f"{store}{'&' if '?' in store else '?'}read_only=true"
    async with open_store(url) as opened:
        async for result in _replays(app, opened, statuses, type):
            yield result


async def _replays(
    app: App, store: Store, statuses: tuple[Status, ...], type: str | None
) -> AsyncGenerator[Replayed | ReplayMismatch]:
    after: str | None = None
    while True:
        page = await store.query(
            Units(statuses=statuses, types=(type,) if type is not None else (), after=after)
        )
        for view in page.items:
            try:
                yield replay(app, await export_history(store, view.row.id))
            except NotFound:  # it has not begun, or was deleted a moment ago
                continue
            except ReplayMismatch as mismatch:
                yield mismatch
        if page.next is None:
            return
        after = page.next


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
            msg = f"the folder {path} has no history in it (*.json); export one with `perdure history ID --export FILE`"
            raise UsageError(msg)
        found += inside
    return found
