"""Records the histories of a release, once: `python tests/histories/record.py 0.1` writes tests/histories/0.1.

A recorded history is never written again; a new release adds a folder of its own.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

import msgspec

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "determinism")]

import programs  # noqa: E402
from drive import Drive  # noqa: E402

from perdure.codec import encode  # noqa: E402
from perdure.errors import Failure  # noqa: E402
from perdure.kernel.data import message as msg  # noqa: E402
from perdure.kernel.data.commit import JournalChunk  # noqa: E402
from perdure.kernel.data.events import Failed, decode_events, encode_events  # noqa: E402
from perdure.kernel.loop.call import ActivityCall, Call  # noqa: E402
from perdure.kernel.loop.loop import Timer  # noqa: E402


class History(msgspec.Struct):
    """The journal of each execution, one chunk per turn, as a store keeps it (bytes are base64 here)."""

    workflow: str
    python: str
    executions: list[list[JournalChunk]]


def portable(chunk: JournalChunk) -> JournalChunk:
    """The chunk without the place where this clone lies: tracebacks name files."""
    events = decode_events(chunk.events)
    for event in events:
        if isinstance(event, Failed):
            trace = event.failure.traceback.replace(f"{FOLDER.parents[1]}/", "")
            event.failure = msgspec.structs.replace(event.failure, traceback=trace)
    return msgspec.structs.replace(chunk, events=encode_events(events))


def failing(drive: Drive, call: Call | Timer, text: str, *, retryable: bool = False) -> None:
    drive.tell(drive.answer(call, Failure("Boom", text, retryable=retryable)) or msg.Resume())


def purchase(drive: Drive) -> None:
    drive.start("purchase", "o-1", 100)
    drive.tell(drive.answer(drive.pending()[1]) or msg.Resume())
    failing(drive, drive.pending()[2], "the parcel service is away", retryable=True)
    drive.finish()


def approval(drive: Drive) -> None:
    drive.start("approval", "o-2")
    drive.tell(msg.Send("approved", encode(True)))
    drive.evict()
    drive.now += 60_000
    drive.turn()


def approval_too_late(drive: Drive) -> None:
    drive.start("approval", "o-3")
    drive.now += 3_600_000
    drive.turn()
    drive.tell(msg.Send("approved", encode(True)), msg.Send("approved", encode(False)))
    assert drive.closed


def saga(drive: Drive) -> None:
    drive.start("saga", "o-4")
    while not any(
        isinstance(c, ActivityCall) and c.name == "ship" for c in drive.pending().values()
    ):
        drive.tell(drive.answer(next(iter(drive.pending().values()))) or msg.Resume())
    failing(drive, next(iter(drive.pending().values())), "lost at sea")
    drive.finish()


def fan_out(drive: Drive) -> None:
    drive.start("fan_out", 4)
    for seq in (3, 1, 4, 2):
        drive.tell(drive.answer(drive.pending()[seq]) or msg.Resume())
    for seq in (6, 5):
        drive.tell(drive.answer(drive.pending()[seq]) or msg.Resume())
    failing(drive, next(iter(drive.pending().values())), "the child failed")
    drive.finish()


def counter(drive: Drive) -> None:
    drive.start("counter", 2, [])
    drive.finish()


def cleanup(drive: Drive) -> None:
    drive.start("cleanup", "o-5")
    drive.tell(msg.Cancel("a change of mind"))
    drive.finish()


def terminated(drive: Drive) -> None:
    drive.start("cleanup", "o-6")
    drive.tell(msg.Terminate("at once"))


def talk(drive: Drive) -> None:
    drive.start("talk", "other")
    drive.tell(msg.Raise("bell", encode("too early")), msg.Pause("lunch"))
    drive.tell(msg.Resume())
    drive.finish()


def doomed(drive: Drive) -> None:
    drive.start("doomed", "o-7")
    drive.finish()


STORIES = [
    purchase,
    approval,
    approval_too_late,
    saga,
    fan_out,
    counter,
    cleanup,
    terminated,
    talk,
    doomed,
]


def main(release: str) -> None:
    folder = FOLDER / release
    folder.mkdir(exist_ok=True)
    for story in STORIES:
        file = folder / f"{story.__name__}.json"
        if file.exists():
            sys.exit(f"{file} is recorded already; a release is recorded once")
        drive = Drive(programs.app)
        drive.result = lambda call: None if call.name == "refund" else f"{call.name} {call.seq}"
        story(drive)
        assert drive.closed, story
        executions = [
            [portable(c) for c in chunks]
            for _, chunks in groupby(drive.shelf.chunks, lambda c: c.execution)
        ]
        history = History(drive.row.type, f"3.{sys.version_info.minor}", executions)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(history), indent=1) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
