"""Each history that a release has recorded is replayed by this one: whole, and from each turn at which it may load."""

from __future__ import annotations

import importlib.util
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure import Limits, testing
from perdure.kernel.data.commit import JournalChunk, KvEntry, UnitRow
from perdure.kernel.data.events import ContinuedAsNew, Started, decode_events, encode_events
from perdure.kernel.data.loaded import Loaded
from perdure.kernel.execution.execution import Execution as LiveExecution
from perdure.kernel.loop.disposal import dispose
from perdure.kernel.loop.entered import Entered
from perdure.kernel.unit.workflow_unit import WorkflowUnit
from perdure.replay.history import Execution

FOLDER = Path(__file__).resolve().parent / "histories"
FILES = sorted(FOLDER.glob("*/*.json"))


def _app() -> Any:
    spec = importlib.util.spec_from_file_location("histories_programs", FOLDER / "programs.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


app = _app()


class History(msgspec.Struct):
    """The journal of each execution, one chunk per turn."""

    workflow: str
    python: str
    executions: list[list[JournalChunk]]


def read(file: Path) -> History:
    return msgspec.json.decode(file.read_bytes(), type=History)


def exported(history: History) -> testing.History:
    """The same, as `perdure history --export` would write it today."""
    executions: list[Execution] = []
    for number, chunks in enumerate(history.executions, 1):
        events = tuple(chain.from_iterable(decode_events(c.events) for c in chunks))
        assert isinstance(events[0], Started)
        turns = tuple(c.events for c in chunks)
        executions.append(
            Execution(number, events[0].version, {} if number == 1 else None, turns, events)
        )
    return testing.History(
        "u-1", history.workflow, "completed", tuple(executions), "a recorded history"
    )


def replay(history: History, chunks: list[JournalChunk], kv: list[KvEntry]) -> LiveExecution:
    journal = list(chain.from_iterable(decode_events(c.events) for c in chunks))
    started = journal[0]
    assert isinstance(started, Started)
    definition = app.find_workflow(history.workflow, started.version)
    run = LiveExecution("u-1", definition, app, Limits())
    run.variables.load(kv, started.execution)
    with Entered(run.loop):
        run.replay(journal)
    assert run.broken is None, run.broken.message
    assert run.events == [], "the code gives more than the journal has"
    assert run.ended == journal[-1]
    dispose(run.loop)
    return run


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_replayed_to_the_end(file: Path) -> None:
    history = read(file)
    kv: list[KvEntry] = []
    for number, chunks in enumerate(history.executions, 1):
        run = replay(history, chunks, kv)
        kv = run.variables.entries()
        assert isinstance(run.ended, ContinuedAsNew) == (number < len(history.executions))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_replayed_as_users_replay_theirs(file: Path, tmp_path: Path) -> None:
    history = exported(read(file))
    history.write(tmp_path / "history.json")
    replayed = testing.replay(app, tmp_path / "history.json")
    assert (replayed.executions, replayed.events) == (len(history.executions), history.count)
    assert (replayed.goes_on, replayed.skipped) == ((), ())


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_loaded_at_each_turn(file: Path) -> None:
    history = read(file)
    kv: list[KvEntry] = []
    for chunks in history.executions:
        started = decode_events(chunks[0].events)[0]
        assert isinstance(started, Started)
        for turns in range(1, len(chunks)):
            row = UnitRow(
                "u-1", "default/0", "workflow", started.workflow, started.version, started.run
            )
            row.execution, row.status, row.started_at = started.execution, "running", started.at
            row.journal_events = sum(c.count for c in chunks[:turns])
            unit = WorkflowUnit("u-1", app, Limits(), shards=1)
            unit.load(Loaded("u-1", turns, row, list(chunks[:turns]), list(kv)))
            assert unit.held is None, unit.held.message
            unit.close_memory()
        kv = replay(history, chunks, kv).variables.entries()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_events_keep_their_bytes(file: Path) -> None:
    """What an old release wrote, this one would write, too: fields and tags have not moved. Fields that came later
    stand at the end and are empty.
    """
    for chunk in chain.from_iterable(read(file).executions):
        written = encode_events(decode_events(chunk.events))
        old, new = msgspec.msgpack.decode(chunk.events), msgspec.msgpack.decode(written)
        assert len(old) == len(new)
        _begins_with(new, old)


def _begins_with(now: object, before: object) -> None:
    """The same, but for empty fields at the ends of lists: structs in structs are lists as well."""
    if not isinstance(now, list) or not isinstance(before, list):
        assert now == before
        return
    for one, other in zip(now, before, strict=False):
        _begins_with(one, other)
    assert len(now) >= len(before)
    assert not any(now[len(before) :])


def test_there_are_histories_and_they_cover_the_workflows() -> None:
    recorded = {read(file).workflow for file in FILES}
    assert recorded == {name for name, _ in app.workflows()} - {"parcel"}


def test_a_changed_program_is_noticed() -> None:
    """The replay above compares: with one argument changed it fails."""
    history = read(FOLDER / "0.1" / "doomed.json")
    chunk = history.executions[0][0]
    changed = chunk.events.replace(b"o-7", b"o-8", 1)
    assert changed != chunk.events
    history.executions[0][0] = msgspec.structs.replace(chunk, events=changed)
    with pytest.raises(AssertionError, match="activity 'charge'"):
        replay(history, history.executions[0], [])
    with pytest.raises(
        testing.ReplayMismatch, match=r"programs.py:\d+ in doomed: .* activity 'charge'"
    ):
        testing.replay(app, exported(history))
