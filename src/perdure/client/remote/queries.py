"""Queries of the store port, as they travel."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from perdure.client.remote.protocol import UNREADABLE, Ask
from perdure.errors import UsageError
from perdure.kernel.data.commit import ExecutionRow, JournalChunk, Task
from perdure.kernel.data.message import Message
from perdure.ports.store import (
    Counts,
    DeadLetter,
    DeadLetters,
    Executions,
    Inbox,
    Journal,
    KvEntries,
    Page,
    Query,
    QueueDepth,
    Queues,
    Scopes,
    ScopeView,
    Starts,
    Tasks,
    Totals,
    Units,
    UnitView,
    Waiting,
)
from perdure.ports.where import Where

T = TypeVar("T")

LIMIT_MAX = 10_000
"""The largest page that a node reads for a client."""

_PLAIN: dict[str, type[Query[Any]]] = {
    kind.__name__: kind
    for kind in (
        Journal,
        Executions,
        KvEntries,
        DeadLetters,
        Inbox,
        Starts,
        Scopes,
        Counts,
        Totals,
        Queues,
        Waiting,
        Tasks,
    )
}
_pages: dict[str, msgspec.msgpack.Decoder[Any]] = {
    "Units": msgspec.msgpack.Decoder(Page[UnitView]),
    "Journal": msgspec.msgpack.Decoder(Page[JournalChunk]),
    "Executions": msgspec.msgpack.Decoder(Page[ExecutionRow]),
    "KvEntries": msgspec.msgpack.Decoder(Page[tuple[str, bytes]]),
    "DeadLetters": msgspec.msgpack.Decoder(Page[DeadLetter]),
    "Inbox": msgspec.msgpack.Decoder(Page[Message]),
    "Starts": msgspec.msgpack.Decoder(Page[Message]),
    "Scopes": msgspec.msgpack.Decoder(Page[ScopeView]),
    "Counts": msgspec.msgpack.Decoder(Page[tuple[str, int]]),
    "Totals": msgspec.msgpack.Decoder(Page[tuple[str, int]]),
    "Waiting": msgspec.msgpack.Decoder(Page[str]),
    "Tasks": msgspec.msgpack.Decoder(Page[Task]),
    "Queues": msgspec.msgpack.Decoder(Page[QueueDepth]),
}
# A condition has a value of many types, which msgspec cannot tell apart by itself. So its three
# parts travel alone, and `Where` checks them again.
_Units = msgspec.defstruct(
    "_Units",
    [
        *(
            (one.name, one.type, one.default)
            for one in msgspec.structs.fields(Units)
            if one.name not in ("where", "limit")
        ),
        ("limit", int, 100),
        ("where", list[tuple[str, str, Any]], []),
    ],
    kw_only=True,
)
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {
    name: msgspec.msgpack.Decoder(kind) for name, kind in (*_PLAIN.items(), ("Units", _Units))
}


def ask(query: Query[T]) -> Ask:
    """A query, as it travels."""
    fields = msgspec.structs.asdict(query)
    if isinstance(query, Units):
        fields["where"] = [(one.name, one.op, one.value) for one in query.where]
    return Ask(type(query).__name__, msgspec.Raw(_encoder.encode(fields)))


def page_decoder(query: Query[T]) -> msgspec.msgpack.Decoder[Page[T]]:
    """What reads the answer to a query."""
    return _pages[type(query).__name__]


def query_of(ask: Ask) -> Query[Any]:
    """The query that a client asks.

    Raises:
        UsageError: this release knows no such query, or it is damaged, or asks for too much.
    """
    decoder = _decoders.get(ask.name)
    if decoder is None:
        msg = f"a node of this release knows no query {ask.name!r}; upgrade it, or the client"
        raise UsageError(msg)
    try:
        found = decoder.decode(ask.query)
    except UNREADABLE as error:
        msg = f"a query {ask.name!r} cannot be read: {error}"
        raise UsageError(msg) from error
    if not 1 <= found.limit <= LIMIT_MAX:
        msg = f"a query asks for {found.limit:,} items; ask for 1 to {LIMIT_MAX:,} at a time"
        raise UsageError(msg)
    if ask.name != "Units":
        query: Query[Any] = found
        return query
    fields = msgspec.structs.asdict(found)
    conditions: list[Where] = []
    for name, op, value in fields.pop("where"):
        conditions.append(Where(name, op, value))
    return Units(**fields, where=tuple(conditions))
