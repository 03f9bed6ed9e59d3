"""A unit without a node and without a store: journals written by hand and messages go in, turns come out.

`Rig` holds what a store would hold (row, journal, KV, inbox) in plain dicts and applies each Commit to it. After every
turn the whole journal is replayed in a second run, which must end up in the same place: so each scenario is a test of
replay, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from perdure import App, Failure, Limits
from perdure.codec import decode, encode
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED, Fence, JournalChunk, KvEntry, UnitRow
from perdure.kernel.data.loaded import Loaded
from perdure.kernel.execution import match
from perdure.kernel.execution.execution import PYTHON, Execution
from perdure.kernel.loop.disposal import dispose
from perdure.kernel.loop.entered import Entered
from perdure.kernel.unit.mailbox import Mailbox
from perdure.kernel.unit.turn import Turn
from perdure.kernel.unit.workflow_unit import WorkflowUnit

T0 = 1_700_000_000_000
RUN = b"r" * 16
ID = "w"
FENCE = Fence("default/0", 1, "incarnation")

opened: list[WorkflowUnit] = []
"""Units of the test that runs; they leave memory when it ends."""

shared = App("shared")


@shared.activity
async def greet(name: str) -> str:
    return f"hello {name}"


@shared.activity
async def empty() -> None:
    return


@shared.activity(queue="gpu")
async def render(scene: str) -> str:
    return scene


@shared.workflow
async def other(text: str) -> str:
    return text


# ---------------------------------------------------------------- events of a journal, short to write


def started(
    *args: object, workflow: str = "main", version: str = "1.0.0", **fields: Any
) -> ev.Started:
    fields.setdefault("flags", ev.FLAGS)
    return ev.Started(
        T0, workflow, version, encode(list(args)), RUN, fields.pop("execution", 1), PYTHON, **fields
    )


def called(seq: int, *args: object, name: str = "greet", **fields: Any) -> ev.ActivityScheduled:
    return ev.ActivityScheduled(seq, name, encode(list(args)), **fields)


def finished(seq: int, value: object, at: int = 0) -> ev.ActivityCompleted:
    return ev.ActivityCompleted(seq, T0 + at, encode(value))


def failed(seq: int, failure: Failure | None = None) -> ev.ActivityFailed:
    return ev.ActivityFailed(seq, T0, failure if failure is not None else failure_of_app())


def timer(seq: int, after_ms: int = 1_000, name: str | None = None) -> ev.TimerStarted:
    return ev.TimerStarted(seq, T0 + after_ms, name)


def fired(seq: int, at: int = 1_000) -> ev.TimerFired:
    return ev.TimerFired(seq, T0 + at)


def waits(seq: int, channel: str, *, positional: bool = False) -> ev.WaitStarted:
    return ev.WaitStarted(seq, channel, positional)


def child(seq: int, *args: object, target: str | None = None, **fields: Any) -> ev.CallStarted:
    return ev.CallStarted(seq, target or named(seq), "other", None, encode(list(args)), **fields)


def named(seq: int, execution: int = 1) -> str:
    """The id of a child that was given none."""
    return f"{ID}/{RUN.hex()[:8]}.{execution}.{seq}"


def refused(command: type[ev.Event], subject: str, error: str, message: str) -> ev.Refused:
    tag = command.__struct_config__.tag
    assert isinstance(tag, int)
    return ev.Refused(tag, subject, error, message)


def failure_of_app(kind: str = "ValueError", message: str = "no", **fields: Any) -> Failure:
    return Failure(kind, message, **fields)


# ---------------------------------------------------------------- messages, short to write


def done(
    seq: int, value: object, *, attempt: int = 1, execution: int = 1, run: bytes = RUN
) -> msg.ActivityDone:
    return msg.ActivityDone(run, execution, seq, attempt, encode(value))


def broke(seq: int, failure: Failure | None = None, attempt: int = 1) -> msg.ActivityDone:
    return msg.ActivityDone(
        RUN, 1, seq, attempt, failure=failure if failure is not None else failure_of_app()
    )


def replied(seq: int, value: object = None, failure: Failure | None = None) -> msg.Reply:
    return msg.Reply(RUN, 1, seq, None if failure is not None else encode(value), failure)


class Rig:
    """A workflow under test, its unit, and what is stored of it."""

    def __init__(
        self, fn: Callable[..., Any], *, limits: Limits | None = None, **options: Any
    ) -> None:
        self.limits = limits if limits is not None else Limits()
        self.now = T0
        self.row: UnitRow | None = None
        self.version = 0
        self.journals: dict[int, list[ev.Event]] = {}
        self.kv: dict[str, KvEntry] = {}
        self.inbox: dict[bytes, msg.Message] = {}
        self.posted: list[msg.Message] = []
        self.events: list[ev.Event] = []
        self.answers: list[str] = []
        self.mailbox = Mailbox()
        self._messages = 0
        self.deploy(fn, **options)

    def deploy(self, fn: Callable[..., Any], **options: Any) -> None:
        """Run this code from now on, in a unit that knows nothing yet."""
        self.app = App("replay")
        self.app.include(shared)
        self.definition = self.app.workflow(name="main", **options)(fn)
        self.unit = self._new_unit()

    def _new_unit(self) -> WorkflowUnit:
        unit = WorkflowUnit(ID, self.app, self.limits, shards=1)
        opened.append(unit)
        return unit

    # ------------------------------------------------------------ what is stored

    def store(self, *journal: ev.Event, kv: dict[str, object] | None = None, **fields: Any) -> Rig:
        """Write a journal by hand, as if it had been committed, and load the unit from it."""
        first = journal[0] if journal else None
        execution = first.execution if isinstance(first, ev.Started) else 1
        row = UnitRow(
            ID,
            "default/0",
            "workflow",
            "main",
            "1.0.0",
            RUN,
            execution,
            status="running",
            started_at=T0,
        )
        row.journal_events = len(journal)
        for name, value in fields.items():
            setattr(row, name, value)
        self.row, self.version = row, 1
        self.journals[row.execution] = list(journal)
        self.kv = {
            k: KvEntry(k, encode(v), encode(v), row.execution) for k, v in (kv or {}).items()
        }
        self.reload()
        return self

    def reload(self) -> None:
        """Forget the unit in memory and load it again, as another process would."""
        assert self.row is not None
        self.unit = self._new_unit()
        chunk = JournalChunk(
            self.row.execution, 1, len(self.history), ev.encode_events(self.history)
        )
        row = msgspec.structs.replace(self.row)  # memory must not change what is stored
        self.unit.load(Loaded(ID, self.version, row, [chunk], list(self.kv.values())))
        self.mailbox.reload(self.inbox.values())

    @property
    def history(self) -> list[ev.Event]:
        """The journal of the current execution."""
        return self.journals.get(self.row.execution if self.row is not None else 1, [])

    # ------------------------------------------------------------ turns

    def start(self, *args: object, **fields: Any) -> Turn:
        """The first turn."""
        body = msg.Start("main", None, encode(list(args)), **fields)
        return self._advance([msg.Message(RUN, ID, body, self.now)])

    def turn(self, *bodies: msg.Body, after_ms: int = 0) -> Turn:
        """A turn with these messages, this much later."""
        self.now += after_ms
        return self._advance([self.message(body) for body in bodies])

    def message(self, body: Any) -> msg.Message:
        self._messages += 1
        return msg.Message(self._messages.to_bytes(16), ID, body, self.now)

    def _advance(self, messages: list[msg.Message]) -> Turn:
        for message in messages:
            self.mailbox.put(message)
        turn = self.unit.advance(self.mailbox, self.now, FENCE, b"c")
        self.mailbox.settle(turn.kept, turn.commit.consume if turn.commit is not None else ())
        self.answers = [turn.answers.get(m.id, "") for m in messages]
        self.events = []
        commit = turn.commit
        if commit is None:
            return turn
        assert commit.expect == self.version
        self.version, self.row = commit.expect + 1, commit.row
        for chunk in commit.journal:
            new = ev.decode_events(chunk.events)
            journal = self.journals.setdefault(chunk.execution, [])
            assert (chunk.first, chunk.count) == (len(journal) + 1, len(new))
            journal += new
            self.events += new
        for entry in commit.kv:
            self.kv[entry.key] = entry
        self._post(commit.post, commit.consume)
        self._replay_all()
        return turn

    def _post(self, posted: list[msg.Message], consumed: list[bytes]) -> None:
        self.posted += [m for m in posted if m.to != ID]
        self.inbox |= {m.id: m for m in posted if m.to == ID}
        for message in consumed:
            self.inbox.pop(message, None)

    def _replay_all(self) -> None:
        """The stored journal, replayed from nothing, must lead to where the unit is."""
        live = self.unit.run
        if (
            self.unit.held is not None
            or not self.history
            or self.row is None
            or live is None
            or self.row.paused
        ):
            return
        if self.row.failure is not None and self.row.failure.type == match.NONDETERMINISM:
            return
        with self.cold() as run:
            assert run.broken is None, run.broken
            assert run.events == []
            assert run.ended == live.ended
            if live.ended is None:
                assert run.waiting_for() == live.waiting_for()
                assert (sorted(run.pending), run.seq, run.local) == (
                    sorted(live.pending),
                    live.seq,
                    live.local,
                )
                assert run.loop.now_ms == live.loop.now_ms

    @contextmanager
    def cold(self) -> Iterator[Execution]:
        """A run of the present code after a replay of the stored journal."""
        assert self.row is not None
        run = Execution(ID, self.definition.definition, self.app, self.limits)
        run.variables.load(self.kv.values(), self.row.execution)
        with Entered(run.loop):
            run.replay(self.history)
        try:
            yield run
        finally:
            dispose(run.loop)

    # ------------------------------------------------------------ what came out

    @property
    def held(self) -> Failure:
        """Why the unit cannot go on."""
        assert self.unit.held is not None, "the unit is not held"
        return self.unit.held

    @property
    def status(self) -> str:
        assert self.row is not None
        return self.row.status

    @property
    def result(self) -> Any:
        """The result; the instance must have completed."""
        assert self.row is not None
        assert (self.row.status, self.row.failure) == ("completed", None)
        return decode(self.row.result or b"")

    @property
    def failure(self) -> Failure:
        """Why it failed or was cancelled."""
        assert self.row is not None
        assert self.row.status in CLOSED
        assert self.row.failure is not None
        return self.row.failure

    def kinds(self) -> list[str]:
        """The names of the last turn's events."""
        return [type(e).__name__ for e in self.events]
