"""Drives a unit of the kernel by hand: no store, no node, no clock. Each turn's messages and commit are kept."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import ClassVar
from weakref import WeakSet

import msgspec

from perdure import App, Limits
from perdure.codec import digest, encode
from perdure.errors import Failure
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import (
    CLOSED,
    Commit,
    Fence,
    JournalChunk,
    KvEntry,
    UnitRow,
    decode_commit,
    encode_commit,
)
from perdure.kernel.data.events import AnyEvent, decode_events
from perdure.kernel.data.loaded import Loaded
from perdure.kernel.data.message import Message
from perdure.kernel.loop.call import ActivityCall, Call, CheckpointCall, ChildCall, WaitCall
from perdure.kernel.loop.loop import Timer
from perdure.kernel.unit.mailbox import Mailbox
from perdure.kernel.unit.turn import Turn
from perdure.kernel.unit.workflow_unit import WorkflowUnit

FENCE = Fence("unit/0", 1, "driver")
BEGIN_MS = 1_700_000_000_000
UNIT = "u-1"
REFUSED = 0.15
"""How many turns are refused at first, where some are."""


class Recorded(msgspec.Struct):
    """One turn: what the unit was told, when, and the bytes of the commit that came of it (empty: none).

    `left` are messages that no turn has taken and no store has: another owner gets them anew, from their senders.
    `is_cut`: the turn has spent its budget.
    """

    messages: bytes
    now: int
    commit: bytes
    left: bytes = b""
    is_cut: bool = False


class Shelf:
    """What a store would hold of one unit."""

    def __init__(self) -> None:
        self.version = 0
        self.row: UnitRow | None = None
        self.chunks: list[JournalChunk] = []
        self.kv: dict[str, KvEntry] = {}
        self.inbox: dict[bytes, Message] = {}

    def apply(self, commit: Commit) -> None:
        assert commit.expect == self.version
        if self.row is not None and self.row.run != commit.row.run:
            self.chunks, self.kv = [], {}  # a new run has replaced the one before
        self.version, self.row = commit.expect + 1, commit.row
        self.chunks += commit.journal
        for entry in commit.kv:
            if entry.value is None and entry.base is None:
                self.kv.pop(entry.key, None)
            else:
                self.kv[entry.key] = entry
        for message in commit.post:
            if message.to == commit.unit:
                self.inbox[message.id] = message
        for used in commit.consume:
            self.inbox.pop(used, None)

    def journal(self) -> list[JournalChunk]:
        """The chunks of the current execution."""
        assert self.row is not None
        return [c for c in self.chunks if c.execution == self.row.execution]

    def load(self, unit: WorkflowUnit) -> None:
        """Give a new unit what is stored, as bytes would: nothing is shared with the unit that made it."""
        assert self.row is not None
        row = msgspec.structs.replace(self.row)
        unit.load(Loaded(UNIT, self.version, row, list(self.journal()), list(self.kv.values())))


class Drive:
    """A unit, its shelf and its script. `live` are those that a test has not dropped yet."""

    live: ClassVar[WeakSet[Drive]] = WeakSet()

    def __init__(self, app: App, limits: Limits | None = None) -> None:
        self.app = app
        self.limits = limits if limits is not None else Limits()
        self.now = BEGIN_MS
        self.shelf = Shelf()
        self.script: list[Recorded] = []
        self.unit = self.new_unit()
        self.mailbox = Mailbox()
        self.live.add(self)
        self.sent = 0
        self.begun: msg.Start | None = None
        # Decides which turns the store refuses at first. None: it takes all.
        self.refusals: Random | None = None
        self.result: Callable[[ActivityCall], object] = lambda call: (
            f"{call.name}:{digest(call.input)[:6]}"
        )

    def new_unit(self) -> WorkflowUnit:
        return WorkflowUnit(UNIT, self.app, self.limits, shards=1)

    # ------------------------------------------------------------ turns

    def message(self, body: msg.AnyBody, visible_at: int = 0) -> Message:
        self.sent += 1
        return Message(self.sent.to_bytes(16, "big"), UNIT, body, self.now, visible_at)

    def turn(self, *messages: Message) -> Turn:
        """One turn at the present time; its commit goes on the shelf."""
        given = msgspec.msgpack.encode(messages)
        for message in messages:
            self.mailbox.put(message)
        if self.refusals is not None and self.refusals.random() < REFUSED:
            self._advance()
            self.take_back()
        turn = self._advance()
        self.mailbox.settle(turn.kept, turn.commit.consume if turn.commit is not None else ())
        data = b""
        if turn.commit is not None:
            data = encode_commit(turn.commit)
            self.shelf.apply(decode_commit(data))
        is_cut = not turn.budget.has_room()
        self.script.append(Recorded(given, self.now, data, self._left(), is_cut))
        return turn

    def _left(self) -> bytes:
        entries = [*self.mailbox.control, *self.mailbox.queue]
        if not entries:
            return b""
        entries.sort(key=lambda entry: entry.number)
        return msgspec.msgpack.encode([e.message for e in entries if not e.stored])

    def take_over(self, recorded: Recorded) -> None:
        """The owner of before is gone after this turn: senders send what it has not taken."""
        if recorded.left:
            for message in msgspec.msgpack.decode(recorded.left, type=list[Message]):
                self.mailbox.put(message)

    def _advance(self) -> Turn:
        commit_id = len(self.script).to_bytes(16, "big")
        return self.unit.advance(self.mailbox, self.now, FENCE, commit_id)

    def take_back(self) -> None:
        """The store has refused the turn's commit: what is stored takes it again."""
        self.unit.close_memory()
        self.unit = self.new_unit()
        self.mailbox.restore()
        if self.shelf.row is not None:
            self.load()

    def tell(self, *bodies: msg.AnyBody) -> Turn:
        return self.turn(*[self.message(b) for b in bodies])

    def start(self, workflow: str, *args: object) -> Turn:
        self.begun = msg.Start(workflow, None, encode(list(args)), if_exists="replace")
        return self.tell(self.begun)

    def again(self, recorded: Recorded) -> Recorded:
        """The same turn once more, on this unit."""
        self.now = recorded.now
        self.turn(*msgspec.msgpack.decode(recorded.messages, type=list[Message]))
        return self.script[-1]

    def follow(self, recorded: Recorded) -> None:
        """Be a copy of a unit elsewhere: advance by the commit that it made of this turn."""
        self.now = recorded.now
        if recorded.commit:
            self.unit.follow(decode_commit(recorded.commit))
            self.shelf.apply(decode_commit(recorded.commit))
        self.script.append(recorded)

    def evict(self) -> None:
        """Leave memory and come back from what is stored."""
        self.unit.close_memory()
        self.unit = self.new_unit()
        self.load()

    def load(self) -> None:
        """Take over what is stored."""
        self.shelf.load(self.unit)
        self.mailbox.reload(self.shelf.inbox.values())

    # ------------------------------------------------------------ what there is to see

    @property
    def row(self) -> UnitRow:
        assert self.unit.row is not None
        return self.unit.row

    @property
    def closed(self) -> bool:
        return self.row.status in CLOSED

    def events(self) -> list[AnyEvent]:
        """The journal of the current execution."""
        return [e for chunk in self.shelf.journal() for e in decode_events(chunk.events)]

    def pending(self) -> dict[int, Call | Timer]:
        return dict(self.unit.run.pending) if self.unit.run is not None and not self.closed else {}

    def state(self) -> list[object]:
        """What a run has in memory that its next turn depends on, in a form that two units can be compared by."""
        run = self.unit.run
        if run is None or self.closed:
            return [self.unit.held, self.unit.version, self.unit.row]
        calls = [
            [seq, type(p).__name__, p.fire_at if isinstance(p, Timer) else p.describe()]
            for seq, p in run.pending.items()
        ]
        loop = run.loop
        waits = {lane: run.waits.of(lane) for lane in sorted(run.waits.first)}
        tasks = [[t.get_name(), t.done()] for t in loop.tasks if not t.done()]
        seeds = {name: drawn.getstate() for name, drawn in (run._streams or {}).items()}
        numbers = [run.seq, run.local, run.retries, loop.now_ms, run.cancel_requested, seeds]
        entries = [e for e in run.variables.entries() if (e.value, e.base) != (None, None)]
        kept = [entries, run.variables.status]
        return [
            self.unit.version,
            self.unit.row,
            self.unit.held,
            calls,
            waits,
            tasks,
            numbers,
            kept,
        ]

    # ------------------------------------------------------------ answers

    def answer(self, call: Call | Timer, failure: Failure | None = None) -> msg.AnyBody | None:
        """The message that answers a call, if one can come now. A timer needs none: the time is set to it."""
        run = self.unit.run
        assert run is not None
        ids = (run.started.run, run.started.execution, call.seq)
        match call:
            case Timer():
                self.now = max(self.now, call.fire_at)
                return None
            case ActivityCall():
                self.now = max(self.now, call.retry_at)
                result = None if failure else encode(self.result(call))
                return msg.ActivityDone(*ids, call.attempt, result, failure)
            case CheckpointCall():
                return msg.CheckpointDone(
                    *ids, None if failure else call.encode(call.name), failure
                )
            case ChildCall():
                return msg.Reply(*ids, None if failure else encode(call.target), failure)
            case WaitCall(positional=True):
                return msg.Raise(call.channel, encode("ding"))
            case WaitCall():
                return msg.Send(call.channel, encode("dear"))
            case _:
                raise AssertionError(call)

    def finish(self, turns: int = 500) -> None:
        """Answer what is pending, oldest first, timers last, until the unit has ended or waits for nothing."""
        again = False
        while not self.closed and turns and (again or self.pending()):
            turns -= 1
            pending = self.pending()
            body = None
            if pending:
                timers = {s: p for s, p in pending.items() if isinstance(p, Timer)}
                calls = [p for p in pending.values() if not isinstance(p, Timer)]
                body = self.answer(
                    calls[0] if calls else min(timers.values(), key=lambda t: (t.fire_at, t.seq))
                )
            again = (self.tell(body) if body is not None else self.turn()).again
        assert turns, "the unit does not come to an end"


def play(drive: Drive, random: Random, *, evictions: float = 0.0, turns: int = 300) -> None:
    """Tell a started unit random things until it has ended: results, failures, messages, time, ends.

    One that has ended may be started again under its id.
    """
    for _ in range(turns):
        if drive.closed:
            if random.random() < 0.8:
                return
            drive.turn(_start_again(drive, random))
        if evictions and random.random() < evictions:
            drive.evict()
        some = [_something(drive, random) for _ in range(random.choice([1, 1, 1, 2, 3]))]
        drive.turn(*[message for message in some if message is not None])
        is_waiting = drive.unit.run is not None and not drive.closed and not drive.row.paused
        if is_waiting and not drive.pending():
            drive.tell(msg.Cancel("nothing can wake it"))
    if not drive.closed:
        drive.tell(msg.Resume(), msg.Terminate("enough"))


def _start_again(drive: Drive, random: Random) -> Message:
    """A start that replaces the run, at once or later."""
    assert drive.begun is not None
    visible_at = drive.now + 2_000 if random.random() < 0.4 else 0
    return drive.message(drive.begun, visible_at)


def _something(drive: Drive, random: Random) -> Message | None:
    if drive.row.status == "pending" and random.random() < 0.5:
        drive.now += random.randrange(1, 3_000)
        return None
    if random.random() < 0.01:
        return _start_again(drive, random)
    body = _some_body(drive, random)
    return drive.message(body) if body is not None else None


def _some_body(drive: Drive, random: Random) -> msg.AnyBody | None:
    pending = drive.pending()
    if drive.row.paused and random.random() < 0.5:
        return msg.Resume()
    chance = random.random()
    if chance < 0.02:
        return random.choice([msg.Pause("a break"), msg.Cancel("a whim"), msg.Resume()])
    if chance < 0.08:
        return random.choice(
            [msg.Send("letters", encode("dear")), msg.Raise("bell", encode("ding"))]
        )
    if chance < 0.12:
        drive.now += random.randrange(1, 1500)
        return None
    calls = [p for p in pending.values() if not isinstance(p, Timer)]
    timers = [p for p in pending.values() if isinstance(p, Timer) and p.seq]
    if calls and (not timers or random.random() < 0.75):
        failure = None
        if random.random() < 0.12:
            failure = Failure("Boom", "by chance", retryable=random.random() < 0.7)
        return drive.answer(random.choice(calls), failure)
    return drive.answer(min(timers, key=lambda t: (t.fire_at, t.seq))) if timers else None
