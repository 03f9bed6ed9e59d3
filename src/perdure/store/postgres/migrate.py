"""The format of a PostgreSQL store: how a schema gets it, and how an older one comes up to date.

Old and new nodes run side by side while a new release is rolled out. So the way to a format has two
halves. The files `sql/format_2_before_*.sql` only add to the schema, and nodes of format 1 go on
with it. They run before the first new node starts. The files `sql/format_2_after_*.sql` remove what
no node of the new release needs. They run when the last old node has gone. The first format has the
first half only, which makes the tables of a new store.

`meta` says how far a schema has come: `format` is the last one that is complete, and `prepared` the
last one whose first half was run. An advisory lock lets one process at a time change a schema. A
file of statements that was released is never changed afterwards.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Literal

import msgspec

from perdure.errors import StoreError, StoreFormat, StoreUnavailable
from perdure.ports.store import StoreInfo
from perdure.store.postgres.address import Address
from perdure.store.postgres.connection import Connection, close, connect, turn
from perdure.store.postgres.errors import DRIVER_ERRORS, Meaning, explain, meaning_of
from perdure.store.seal import KEY, decode
from perdure.store.statements import read_sql

Half = Literal["before", "after"]

DEFAULT_SHARDS = 2_048
"""Shards of a new store. Several nodes share them, and each can be moved by itself."""
SERVER_VERSION_MIN = 14
"""The oldest server. 13 is out of support, and has no SQL functions with a checked body."""
_PACKAGE = "perdure.store.postgres"
_FILE = re.compile(r"(format_(\d+)_(before|after)_\w+)\.sql")


class Step(msgspec.Struct, frozen=True):
    """Half of the way to a format."""

    format: int
    half: Half
    sql: str

    @property
    def name(self) -> str:
        """For people."""
        return f"format {self.format} ({self.half} the nodes)"


def steps() -> list[Step]:
    """All halves, in order."""
    found: dict[tuple[int, Half], list[str]] = {}
    for file in sorted((files(_PACKAGE) / "sql").iterdir(), key=lambda file: file.name):
        match = _FILE.fullmatch(file.name)
        if match is not None:
            half: Half = "after"
            if match[3] == "before":
                half = "before"
            found.setdefault((int(match[2]), half), []).append(read_sql(_PACKAGE, match[1]))
    # "before" stands in front of "after", unlike in the alphabet.
    order = sorted(found, key=lambda key: (key[0], key[1] == "after"))
    return [Step(*key, "\n".join(found[key])) for key in order]


FORMAT = max(step.format for step in steps())
"""The store format that this release writes and the newest that it reads."""


class Found(msgspec.Struct, frozen=True):
    """How far a schema has come. Zeros: it has no store yet."""

    format: int
    prepared: int
    info: StoreInfo | None = None

    def pending(self, known: list[Step]) -> list[Step]:
        """The halves that have not run."""
        return [
            step
            for step in known
            if (step.half == "before" and step.format > self.prepared)
            or (step.half == "after" and step.format > self.format)
        ]


class Upgraded(msgspec.Struct, frozen=True):
    """The result of `upgrade`: the format now, the halves that have run, and those still to run."""

    format: int
    applied: list[str]
    pending: list[str]


async def open_schema(connection: Connection, address: Address) -> StoreInfo:
    """Create a store, or look at what it is.

    Raises:
        StoreError: naming the store, what is wrong, and the remedy.
    """
    async with turn(connection, address):
        await _check_server(connection, address)
        found = await _look(connection, address)
    if not found.prepared:
        if not address.options.create:
            msg = (
                f"there is no store in {address.name}; name yours with --store or PERDURE_STORE, "
                "or make this one a store: `perdure run`, `serve` and `start` do"
            )
            raise StoreUnavailable(msg)
        found, _ = await _apply(connection, address, steps(), {"before"})
    return _info(found, address)


async def made_strict(connection: Connection, address: Address) -> Address:
    """The address with which a commit that is acknowledged is on the disk of the server.

    A database, or a role, may have it otherwise. Replicas are left to its administrator.
    """
    async with turn(connection, address):
        waits = await connection.fetchval("SELECT current_setting('synchronous_commit')")
    if waits != "off":
        return address
    # Behind a pooler each transaction brings the setting along.
    if not address.options.pooled:
        await connection.execute("SET synchronous_commit = on")
    return msgspec.structs.replace(address, is_lax=True)


async def upgrade(
    address: Address, *, check: bool, finish: bool = False, known: list[Step] | None = None
) -> Upgraded:
    """Run the first half of all newer formats, and with `finish` the second half as well.

    `check` changes nothing.

    Raises:
        StoreError: as `open_schema`.
    """
    if known is None:
        known = steps()
    halves: set[Half] = {"before"}
    if finish:
        halves.add("after")
    async with connected(address) as connection:
        async with turn(connection, address):
            await _check_server(connection, address)
            found = await _look(connection, address)
        applied: list[Step] = []
        if not check:
            found, applied = await _apply(connection, address, known, halves)
        await close(connection)
    pending = [step.name for step in found.pending(known)]
    return Upgraded(found.format, [step.name for step in applied], pending)


@asynccontextmanager
async def connected(address: Address) -> AsyncGenerator[Connection]:
    """A connection that is ended after an error. Errors of the server are put in words."""
    try:
        connection = await connect(address)
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
    except DRIVER_ERRORS as error:
        if meaning_of(error) is Meaning.CONTENT:
            msg = f"{address.name} refused a statement, so nothing was changed: {error}"
            raise StoreError(msg) from error
        raise explain(error, address.name) from error


async def _check_server(connection: Connection, address: Address) -> None:
    version = connection.get_server_version()[0]
    if version < SERVER_VERSION_MIN:
        msg = (
            f"{address.name} is PostgreSQL {version}; a store needs {SERVER_VERSION_MIN} or newer: "
            "upgrade the server"
        )
        raise StoreError(msg)
    encoding = await connection.fetchval("SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        msg = (
            f"{address.name} has the encoding {encoding}, which cannot hold all text; create a "
            "database with the encoding UTF8"
        )
        raise StoreError(msg)


async def _look(connection: Connection, address: Address) -> Found:
    schema = address.options.schema
    tables = await connection.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", schema
    )
    names = [table for (table,) in tables]
    if not names:
        return Found(0, 0)
    if "meta" not in names or "units" not in names:
        msg = (
            f"{address.name} has other tables ({', '.join(names[:3])}) and is no Perdure store; "
            "name another schema with ?schema="
        )
        raise StoreFormat(msg)
    query = f"SELECT key, value FROM {address.quoted_schema}.meta"  # noqa: S608 - quoted
    rows = await connection.fetch(query)
    meta: dict[str, str] = {key: value for key, value in rows}  # noqa: C416 - rows are no pairs
    try:
        number, prepared = int(meta["format"]), int(meta["prepared"])
        seal = decode(meta.get(KEY))
        durable = frozenset({"durable"})
        info = StoreInfo(meta["id"], number, int(meta["shards"]), durable, seal=seal)
    except (KeyError, ValueError) as error:
        msg = (
            f"{address.name} does not say what store it is ({error!r} in its table `meta`); "
            "restore a backup"
        )
        raise StoreFormat(msg) from error
    return Found(number, prepared, info)


def _info(found: Found, address: Address) -> StoreInfo:
    """What a store is, if this release can use it."""
    if found.format > FORMAT:
        msg = (
            f"{address.name} has the store format {found.format}; this release reads up to "
            f"{FORMAT}: upgrade perdure"
        )
        raise StoreFormat(msg)
    if found.prepared < FORMAT or found.info is None:
        msg = (
            f"{address.name} has the store format {found.prepared}; this release needs {FORMAT}: "
            "run `perdure migrate` before its first node starts"
        )
        raise StoreFormat(msg)
    wanted = address.options.shards
    if wanted is not None and wanted != found.info.shards:
        msg = (
            f"{address.name} has {found.info.shards} shards, not {wanted}; "
            "the number is fixed when a store is created: leave ?shards= out"
        )
        raise StoreFormat(msg)
    return found.info


async def _apply(
    connection: Connection, address: Address, known: list[Step], halves: set[Half]
) -> tuple[Found, list[Step]]:
    """Run the halves that are wanted, in one transaction."""
    schema = address.options.schema
    async with turn(connection, address, "transaction"):
        # A second process waits here, and then finds that there is nothing left to do. No statement
        # may give up meanwhile: an index of a large table takes its time.
        await connection.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await connection.fetchval(
            "SELECT pg_advisory_xact_lock(hashtextextended($1, 7304))", schema
        )
        there = await connection.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1", schema)
        # Asked before, because CREATE ... IF NOT EXISTS needs the right also when it is there.
        if there is None:
            await connection.execute(f"CREATE SCHEMA {address.quoted_schema}")
        await connection.execute(f"SET LOCAL search_path = {address.quoted_schema}")
        found = await _look(connection, address)
        todo = [step for step in found.pending(known) if step.half in halves]
        for step in todo:
            await connection.execute(step.sql)
            await _note(connection, step, address.options.shards or DEFAULT_SHARDS)
        found = await _look(connection, address)
    return found, todo


async def _note(connection: Connection, step: Step, shards: int) -> None:
    """Write down that a half has run."""
    noted: dict[str, str] = {}
    if step.half == "before":
        noted["prepared"] = str(step.format)
    # The first format has one half only.
    if step.half == "after" or step.format == 1:
        noted["format"] = str(step.format)
    if step.format == 1:
        noted["id"] = uuid.uuid4().hex
        noted["shards"] = str(shards)
    for key, value in noted.items():
        await connection.execute(
            "INSERT INTO meta (key, value) VALUES ($1, $2)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            key,
            value,
        )
