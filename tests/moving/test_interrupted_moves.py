"""A move that is cut off anywhere goes on, and at no moment do two stores take work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from moved_stores import Places, comparable, content, furnish
from msgspec.structs import replace

from perdure.errors import StoreError, StoreLocked, StoreMoved, UsageError
from perdure.moving import give_up, move, plan
from perdure.ports.moving import RowPart
from perdure.ports.store import Incarnation, Units
from perdure.store import copied, open_store
from perdure.store.derived import Rows
from perdure.store.memory import MemoryStore
from perdure.store.postgres import moving as postgres
from perdure.testing.conformance.scenario import Scenario

KINDS = ("sqlite", "postgres")
SHARDS = 2
WRITES = ("reseal", "fill")
STEP = {"sqlite": 1, "postgres": 8}
"""At each how manyth write a move is cut off. A schema takes half a second to make."""


class Killed(BaseException):
    """The process ends here."""


def dying(url: str, count: list[int], *, after: bool) -> Any:
    """A store in a process that dies before or after its n-th write of a move. Two stores share the count."""
    store: Any = open_store(url)

    def dies(write: Any) -> Any:
        async def call(*arguments: Any) -> None:
            count[0] -= 1
            if count[0] == 0 and not after:
                raise Killed
            await write(*arguments)
            if count[0] == 0:
                raise Killed

        return call

    for name in WRITES:
        setattr(store, name, dies(getattr(store, name)))
    return store


async def furnished(url: str) -> Rows:
    async with open_store(url) as store, MemoryStore(shards=SHARDS) as same:
        for one in (store, same):
            await furnish(Scenario(one))
        return comparable(await same.dump())


async def takes_work(url: str) -> bool:
    """Whether a node could claim the store."""
    async with open_store(url) as store:
        try:
            await store.claim(["probe/0"], Incarnation("probe", "probe-1"))
        except StoreMoved:
            return False
        return True


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is two rows, so that tables have several."""
    monkeypatch.setattr(copied, "PART_ROWS", 2)


async def cut_off(old: str, new: str, at: int, *, after: bool) -> bool:
    """Move until the n-th write. False: there were fewer."""
    count = [at]
    source, target = (dying(url, count, after=after) for url in (old, new))
    try:
        await move(source, target)
    except Killed:
        return True
    return False


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("source", "target"), [("sqlite", "sqlite"), ("postgres", "sqlite")])
@pytest.mark.usefixtures("small_parts")
async def test_a_move_that_is_cut_off_at_any_write_goes_on(
    places: Places, source: str, target: str, after: bool
) -> None:
    at = 1 - STEP[source]
    was_cut_off = True
    while was_cut_off:
        at += STEP[source]
        old, new = places.new(source, SHARDS), places.new(target, SHARDS)
        there = await furnished(old)
        was_cut_off = await cut_off(old, new, at, after=after)
        takers = [url for url in (old, new) if await takes_work(url)]
        # Before the first write they are two stores that know nothing of each other.
        assert len(takers) <= 1 or (at == 1 and not after), at
        await move(old, new)
        assert await content(new) == there, at
        assert [url for url in (old, new) if await takes_work(url)] == [new]
    # Two seals, a part at least of each table and of the scopes, and two seals.
    assert at > 4 + len(copied.KEYS)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_move_can_be_given_up_until_the_target_is_open(places: Places, kind: str) -> None:
    was_cut_off, at, given_up = True, 1 - STEP[kind], 0
    while was_cut_off:
        at += STEP[kind]
        old, new = places.new(kind, SHARDS), places.new("sqlite", SHARDS)
        there = await furnished(old)
        was_cut_off = await cut_off(old, new, at, after=True)
        # The target has everything, and may have worked since.
        if await takes_work(new):
            with pytest.raises(UsageError, match="cannot be given up"):
                await give_up(old, new)
            await move(old, new)
            assert not await takes_work(old)
            continue
        await give_up(old, new)
        given_up += 1
        assert await takes_work(old)
        assert await content(old) == there
        async with open_store(new) as store:
            assert (await store.query(Units())).items == []
        # The next move takes what has happened in the source since.
        await move(old, new)
        assert await content(new) == there
    if kind == "sqlite":
        # All but the last two: the opening of the target, and the last seal of the source.
        assert given_up == at - 3
    assert given_up > 0


async def test_a_move_that_was_sealed_on_one_side_only_begins_anew(places: Places) -> None:
    # The old store went on working after the target was sealed, and has other rows than were copied.
    old, new = places.new("sqlite", SHARDS), places.new("sqlite", SHARDS)
    await furnished(old)
    assert await cut_off(old, new, 3, after=True)
    async with open_store(old) as store:
        await store.hold()  # type: ignore[attr-defined]
        seal = await store.seal()  # type: ignore[attr-defined]
        await store.reseal(seal, None)  # type: ignore[attr-defined]
        scenario = Scenario(store, "two")
        await scenario.claim()
        await scenario.applied(
            "dense", 1, {"execution": 2, "journal_events": 1, "custom_status": b"later"}
        )
    assert (await plan(old, new)).step == "begin"
    await move(old, new)
    async with open_store(new) as store:
        (view,) = (await store.query(Units(ids=("dense",)))).items
    assert view.row.custom_status == b"later"
    assert view.version == 2


async def test_a_store_that_moved_on_takes_no_step_back(places: Places) -> None:
    first, second, third = (places.new("sqlite", SHARDS) for _ in range(3))
    there = await furnished(first)
    await move(first, second)
    await move(second, third)
    assert await content(third) == there
    with pytest.raises(UsageError, match="cannot be given up"):
        await give_up(first, second)
    assert (await move(first, second)).already
    with pytest.raises(StoreMoved, match="has moved to"):
        await move(second, first)


async def test_an_unfinished_last_step_is_known_from_the_target_that_moved_on(
    places: Places,
) -> None:
    first, second, third = (places.new("sqlite", SHARDS) for _ in range(3))
    await furnished(first)
    writes = [1_000]
    await move(dying(first, writes, after=True), dying(second, writes, after=True))
    last = 1_000 - writes[0]
    first, second = (places.new("sqlite", SHARDS) for _ in range(2))
    await furnished(first)
    assert await cut_off(first, second, last, after=False)
    # The target is open, and the source says that it is being moved.
    assert await takes_work(second)
    assert not await takes_work(first)
    await move(second, third)
    with pytest.raises(UsageError, match="cannot be given up"):
        await give_up(first, second)
    assert not await takes_work(first)
    # Now the last step.
    assert (await move(first, second)).rows == {}
    assert (await move(first, second)).already


async def test_rows_that_differ_open_nothing(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = places.new("sqlite", SHARDS), places.new("sqlite", SHARDS)
    there = await furnished(old)
    target: Any = open_store(new)
    fill = target.fill

    async def damage(seal: Any, table: str, part: RowPart) -> None:
        if table == "journal":
            at = part.columns.index("events")
            rows = [(*row[:at], b"other", *row[at + 1 :]) for row in part.rows]
            part = replace(part, rows=rows)
        await fill(seal, table, part)

    target.fill = damage
    with pytest.raises(StoreError, match="journal differs after the copy: 2 rows"):
        await move(old, target)
    assert [url for url in (old, new) if await takes_work(url)] == []
    # As it is, it never ends. So it is given up.
    with pytest.raises(StoreError, match="journal differs"):
        await move(old, new)
    await give_up(old, new)
    assert await content(old) == there
    await move(old, new)
    assert await content(new) == there


async def test_a_program_that_is_slow_within_a_transaction_is_not_cut_off(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server ends the sessions of nodes that stand still in a transaction, here after 50 ms.
    old, new = places.new("sqlite", SHARDS), places.new("postgres", SHARDS) + "&lock_ms=50"
    there = await furnished(old)
    insert = postgres._insert

    def slow_insert(*arguments: Any) -> str:
        time.sleep(0.2)
        return insert(*arguments)

    monkeypatch.setattr(postgres, "_insert", slow_insert)
    await move(old, new)
    assert await content(new) == there


# ---------------------------------------------------------------- other processes

PROGRAM = """
import asyncio, os, signal, sys
from perdure.moving import move

left = int(sys.argv[3])

def report(progress):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), getattr(signal, sys.argv[4]))

asyncio.run(move(sys.argv[1], sys.argv[2], report=report))
"""


def moving(old: str, new: str, at: int, end: str = "SIGKILL") -> subprocess.Popen[str]:
    """A process that moves, and is stopped or killed when it reports for the n-th time."""
    command = [sys.executable, "-c", PROGRAM, old, new, str(at), end]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [1, 7, 14, 20])
async def test_a_killed_process_leaves_a_move_that_goes_on(
    places: Places, kind: str, at: int
) -> None:
    old, new = places.new("sqlite", SHARDS), places.new(kind, SHARDS)
    there = await furnished(old)
    process = moving(old, new, at)
    said = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == -signal.SIGKILL, said
    assert [url for url in (old, new) if await takes_work(url)] == []
    assert (await plan(old, new)).step == "continue"
    await move(old, new)
    assert await content(new) == there
    assert (await plan(old, new)).step == "done"


@pytest.mark.parametrize(("source", "target"), [("sqlite", "sqlite"), ("postgres", "postgres")])
async def test_a_process_that_stands_still_keeps_others_out(
    places: Places, source: str, target: str
) -> None:
    old, new = places.new(source, SHARDS), places.new(target, SHARDS)
    there = await furnished(old)
    process = moving(old, new, 5, "SIGSTOP")
    async with AsyncExitStack() as stack:
        stack.callback(process.communicate)
        stack.callback(os.kill, process.pid, signal.SIGCONT)
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        for call in (move(old, new), give_up(old, new), plan(old, new)):
            with pytest.raises(StoreLocked):
                await call
    assert process.returncode == 0
    assert await content(new) == there
