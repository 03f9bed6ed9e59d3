"""A store of one's own: a log file. What is written goes to the end of the file; opening it plays the file back.

It passes the conformance suite of the store port (tests/examples/test_own_store.py). It can be this short because
applying a commit is deterministic: the log is all there is, and the tables in memory follow from it.
"""

from __future__ import annotations

import asyncio
import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import msgspec

from perdure import App
from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit, Fence, Verdict
from perdure.kernel.data.message import Message
from perdure.ports.store import (
    Claim,
    Incarnation,
    Posted,
    Swept,
)
from perdure.ports.tasks import Leased, Renewal, SessionHold, TaskHint, TaskRequest
from perdure.store.derived import check_scopes
from perdure.store.limits import DEFAULT_LIMITS, StoreLimits
from perdure.store.memory import MemoryStore


class Created(msgspec.Struct, tag=1):
    id: str
    shards: int


class Claimed(msgspec.Struct, tag=2):
    scopes: Sequence[str]
    owner: Incarnation


class Committed(msgspec.Struct, tag=3):
    batch: Sequence[Commit]


class Sent(msgspec.Struct, tag=4):
    batch: Sequence[Message]


class Requested(msgspec.Struct, tag=5):
    request: TaskRequest


class Renewed(msgspec.Struct, tag=6):
    renewals: Sequence[Renewal]
    at: int


class Sweep(msgspec.Struct, tag=7):
    fences: Sequence[Fence]
    at: int
    limit: int


class Released(msgspec.Struct, tag=8):
    fences: Sequence[Fence]


class Dropped(msgspec.Struct, tag=9):
    letters: Sequence[bytes]


class GivenBack(msgspec.Struct, tag=10):
    leases: Sequence[Renewal]


class Held(msgspec.Struct, tag=11):
    holds: Sequence[SessionHold]
    at: int


Record = (
    Created
    | Claimed
    | Committed
    | Sent
    | Requested
    | Renewed
    | Sweep
    | Released
    | Dropped
    | GivenBack
    | Held
)
LENGTH = struct.Struct(">I")


class LogStore(MemoryStore):
    """The tables of the memory store, and a log from which they can be made again."""

    def __init__(
        self, path: Path, *, shards: int = 1, limits: StoreLimits = DEFAULT_LIMITS
    ) -> None:
        self._path = path
        records = self._read()
        if not records:
            self._append(Created(os.urandom(16).hex(), shards))
            records = self._read()
        created = records[0]
        assert isinstance(created, Created)
        super().__init__(shards=created.shards, limits=limits, id=created.id)
        self.info = msgspec.structs.replace(self.info, capabilities=frozenset({"durable"}))
        self._records = records[1:]

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for record in self._records:
            await self._play(record)
        self._records = []
        return self

    # ------------------------------------------------------------ the log

    def _read(self) -> list[Record]:
        """All whole records. What a crash left half-written was never acknowledged, and is cut off."""
        data = self._path.read_bytes() if self._path.exists() else b""
        decode, records, place = msgspec.msgpack.Decoder(Record).decode, [], 0
        while place + LENGTH.size <= len(data):
            (length,) = LENGTH.unpack_from(data, place)
            end = place + LENGTH.size + length
            if end > len(data):
                break
            records.append(decode(data[place + LENGTH.size : end]))
            place = end
        if place < len(data):
            os.truncate(self._path, place)
        return records

    def _append(self, record: Record) -> None:
        """Durable when this returns. It holds up the whole process, which a store that is no toy would not."""
        data = msgspec.msgpack.encode(record)
        try:
            with self._path.open("ab") as file:
                file.write(LENGTH.pack(len(data)) + data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreUnavailable(f"cannot write to {self._path}: {error}", "unknown") from error

    async def _play(self, record: Record) -> None:
        match record:
            case Dropped(letters):
                await super().drop_letters(letters)
            case Claimed(scopes, owner):
                await super().claim(scopes, owner)
            case Committed(batch):
                await super().commit(batch)
            case Sent(batch):
                await super().post(batch)
            case Requested(request):
                await super().lease(request)
            case GivenBack(leases):
                await super().give_back(leases)
            case Held(holds, at):
                await super().hold_sessions(holds, at)
            case Renewed(renewals, at):
                await super().renew(renewals, at)
            case Sweep(fences, at, limit):
                await super().sweep(fences, at, limit)
            case Released(fences):
                await super().release(fences)

    # ------------------------------------------------------------ what writes: first to the log, then to the tables

    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> dict[str, Claim]:
        self._rows()
        self._append(Claimed(scopes, owner))
        return dict(await super().claim(scopes, owner))

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        self._rows()
        self._append(Released(fences))
        return await super().release(fences)

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        self._rows()
        self._append(Committed(batch))
        return await super().commit(batch)

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        self._rows()
        check_scopes(batch)
        self._append(Sent(batch))
        return await super().post(batch)

    async def lease(self, request: TaskRequest) -> Leased:
        self._rows()
        self._append(Requested(request))
        return await super().lease(request)

    async def give_back(self, leases: Sequence[Renewal]) -> list[TaskHint]:
        self._rows()
        self._append(GivenBack(leases))
        return await super().give_back(leases)

    async def hold_sessions(self, holds: Sequence[SessionHold], at: int) -> list[bool]:
        self._rows()
        self._append(Held(holds, at))
        return await super().hold_sessions(holds, at)

    async def renew(self, renewals: Sequence[Renewal], at: int) -> list[Literal["kept", "lost"]]:
        self._rows()
        self._append(Renewed(renewals, at))
        return await super().renew(renewals, at)

    async def drop_letters(self, letters: Sequence[bytes]) -> int:
        self._rows()
        self._append(Dropped(letters))
        return await super().drop_letters(letters)

    async def sweep(self, fences: Sequence[Fence], at: int, limit: int) -> Swept:
        self._rows()
        self._append(Sweep(fences, at, limit))
        return await super().sweep(fences, at, limit)


app = App("own-store")
greeted: list[str] = []


@app.activity
async def greet(name: str) -> str:
    greeted.append(name)
    return f"Hello, {name}!"


@app.workflow
async def hello(name: str) -> str:
    return await greet(name)


async def main() -> None:
    greeted.clear()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hello.log"
        for _ in range(2):  # the second time, everything comes from the log
            async with LogStore(path) as store, app.node(store) as node:
                result = await node.client.workflow(hello, id="hello-1").run("log")
                assert result == "Hello, log!"
        print(greeted, "was greeted once;", path.stat().st_size, "bytes of log")
    assert greeted == ["log"]


if __name__ == "__main__":
    asyncio.run(main())
