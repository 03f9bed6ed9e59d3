"""One process of the proof: `python batch.py record|check FIRST COUNT FILE`.

`record` plays programs FIRST to FIRST+COUNT-1 and writes what each was told and the bytes of each commit. `check`, in
another process under another hash seed, tells new units the same and compares every byte; replays every journal; goes
on from a random point of each; and lets a copy follow the commits. Both write one line of JSON: the number of programs,
of events, and what was wrong.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from random import Random

import continuations  # noqa: F401  # it registers its kinds of programs
import msgspec
from drive import Drive, Recorded, play
from random_programs import app, program

from perdure import Limits
from perdure.kernel.data.commit import Commit, KvEntry, decode_commit
from perdure.kernel.data.events import AnyEvent, decode_events
from perdure.kernel.execution.execution import Execution
from perdure.kernel.loop.entered import Entered

Script = list[Recorded]


def limits_of(seed: int) -> Limits:
    """Low limits, so that many commands are refused. Every fourth seed has the usual ones."""
    if seed % 4 == 3:
        return Limits()
    random = Random(seed + 2)
    commit_bytes = (
        10**6 if seed % 10 == 0 else random.randrange(300, 3_000)
    )  # the program itself goes on
    return Limits(
        payload_bytes=10**6 if seed % 10 == 0 else random.randrange(100, 700),
        commit_bytes=commit_bytes,
        status_bytes=random.randrange(50, 200),
        kv_keys=random.randrange(1, 6),
        kv_value_bytes=random.randrange(50, 130),
    )


OTHERS = (Limits(), Limits(1_000_000, 10**9, 1, 1, 1, 1, 1, 1, 1, 1))
"""Limits of another node: everything fits, or nothing."""


def record(seed: int) -> Script:
    drive = Drive(app, limits_of(seed))
    drive.refusals = Random(seed + 3) if seed % 3 == 0 else None
    drive.start("tree", program(seed), int(seed % 10 == 0))
    play(drive, Random(seed + 1), evictions=0.1 if seed % 4 == 0 else 0.0)
    return drive.script


def commits(script: Script) -> list[Commit]:
    return [decode_commit(r.commit) for r in script if r.commit]


def journals(script: Script) -> list[tuple[bytes, list[AnyEvent]]]:
    """The journals of all executions, each with its run."""
    chunks = [(commit.row.run, c) for commit in commits(script) for c in commit.journal]
    groups = groupby(chunks, lambda pair: (pair[0], pair[1].execution))
    return [
        (run, [e for _, c in group for e in decode_events(c.events)]) for (run, _), group in groups
    ]


def redriven(seed: int, script: Script) -> str | None:
    """Tell a new unit the same; what differs, if anything."""
    drive = Drive(app, limits_of(seed))
    return _tell_all(drive, script)


def resumed(seed: int, script: Script, after: int) -> str | None:
    """Load a unit under other limits from the commits of the first `after` turns and tell it the rest."""
    drive = Drive(app, OTHERS[seed % 2])
    for recorded in script[:after]:
        if recorded.commit:
            drive.shelf.apply(decode_commit(recorded.commit))
        drive.script.append(recorded)
    drive.load()
    drive.take_over(script[after - 1])
    drive.unit.limits = limits_of(seed)  # what is new is judged as it was then
    if drive.unit.run is not None:
        drive.unit.run.limits = drive.unit.limits
    return _tell_all(drive, script[after:])


def _tell_all(drive: Drive, script: Script) -> str | None:
    """Up to a turn that its budget cuts.

    After a load it takes up stored messages again, and ends elsewhere.
    """
    for recorded in script:
        turn = len(drive.script) + 1
        got = drive.again(recorded)
        if got.commit != recorded.commit:
            if recorded.is_cut:
                break
            return f"turn {turn}: {_difference(recorded.commit, got.commit)}"
    drive.unit.close_memory()
    return None


def _difference(recorded: bytes, got: bytes) -> str:
    sides = [decode_commit(data) if data else None for data in (recorded, got)]
    for name in Commit.__struct_fields__:
        before, now = (getattr(side, name, None) for side in sides)
        if before != now:
            if name == "journal":
                before, now = (
                    [decode_events(c.events) for c in side or []] for side in (before, now)
                )
            return f"{name} was {before}, is {now}"
    return "the encoding"


def followed(seed: int, script: Script, until: int) -> str | None:
    """Advance a copy by the commits alone, compare it with the unit that makes them, then let the copy take over."""
    leader, copy = (Drive(app, limits_of(seed)) for _ in range(2))
    leader.refusals = Random(seed + 4)  # a copy hears only of what became durable
    for recorded in script[:until]:
        got = leader.again(recorded)
        if recorded.is_cut and got.commit != recorded.commit:
            break  # the leader was loaded anew and took up stored messages again, within its budget
        copy.follow(recorded)
        if leader.state() != copy.state():
            return (
                f"turn {len(copy.script)}: the copy is {copy.state()}, the unit is {leader.state()}"
            )
    leader.unit.close_memory()
    until = len(copy.script)
    copy.take_over(script[until - 1])
    return _tell_all(copy, script[until:])


def replayed(seed: int, script: Script) -> str | None:
    """Under other limits replay every journal of the script from its first to its last event."""
    entries: list[KvEntry] = []
    last_run = None
    found = journals(script)
    for number, (run_id, journal) in enumerate(found):
        if run_id != last_run:
            entries, last_run = [], run_id
        started = journal[0]
        if len(journal) == 1:
            continue  # it was replaced between two executions: its code has never begun
        definition = app.find_workflow("tree", None)
        assert definition is not None
        run = Execution("u-1", definition, app, OTHERS[seed % 2])
        run.variables.load(entries, started.execution)  # type: ignore[union-attr]
        with Entered(run.loop):
            run.replay(journal)
        if run.broken is not None:
            return run.broken.message
        is_last_of_run = number + 1 == len(found) or found[number + 1][0] != run_id
        is_replaced = is_last_of_run and run_id != commits(script)[-1].row.run
        ended = None if is_replaced and run.ended is None else journal[-1]
        if run.events or run.ended != ended:
            return f"the replay ended with {run.ended} and gave {run.events} in addition"
        entries = run.variables.entries()
        run.leave_memory()  # one that was replaced waits still
    return None


def check(seed: int, script: Script) -> str | None:
    random = Random(seed)
    assert sum(1 for r in script if r.commit) > 1
    return (
        redriven(seed, script)
        or replayed(seed, script)
        or resumed(seed, script, random.randrange(1, len(script)))
        or followed(seed, script, random.randrange(1, len(script)))
    )


def main(mode: str, first: int, count: int, file: Path) -> None:
    seeds = range(first, first + count)
    if mode == "record":
        scripts = [record(seed) for seed in seeds]
        file.write_bytes(msgspec.msgpack.encode(scripts))
    else:
        scripts = msgspec.msgpack.decode(file.read_bytes(), type=list[Script])
    wrong = {}
    for seed, script in zip(seeds, scripts, strict=True):
        if mode == "record" and seed % 4:
            continue  # the other process checks all of them; this one, with everything warm, a part
        problem = check(seed, script)
        if problem is not None:
            wrong[seed] = problem[:2000]
    events = sum(len(j) for s in scripts for _, j in journals(s))
    sys.stdout.write(json.dumps({"programs": len(scripts), "events": events, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
