"""Key-value stores in workflow code: that of its own instance, and those of others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeVar

from perdure.activity import client
from perdure.codec import TypeCodec, decode, encode
from perdure.errors import NotFound, UsageError
from perdure.kernel.data.placement import check_id
from perdure.kernel.execution import changes, commands
from perdure.workflow.caller import caller

T = TypeVar("T")

_EPOCH = datetime.fromtimestamp(0, UTC)


class Kv:
    """The instance's key-value store.

    Reads see earlier writes at once. Writes are durable with the turn. Entries are kept over
    executions, and clients can read them.
    """

    def get(self, key: str, as_type: type[T], default: T | None = None) -> T | None:
        """The value of a key, or the default."""
        data = caller("kv").variables.get(key)
        codec: TypeCodec[T] = TypeCodec(as_type, f"KV value {key!r}")
        if data is None:
            return default
        return codec.decode(data)

    def set(self, key: str, value: object) -> None:
        """Write a key.

        Raises:
            LimitExceeded: too many keys, or a value that is too large.
            UsageError: the key is no text that can be stored.
        """
        changes.set_kv(caller("kv"), key, encode(value))

    def delete(self, key: str) -> None:
        """Remove a key. Nothing happens if there is none."""
        run = caller("kv")
        if run.variables.get(key) is not None:  # otherwise nothing has to be journaled
            changes.delete_kv(run, key)

    def clear(self) -> None:
        """Remove all keys."""
        changes.clear_kv(caller("kv"))

    def updated_at(self, key: str) -> datetime | None:
        """The time at which the value of a key was written, in UTC. None if it has none."""
        variables = caller("kv").variables
        if variables.get(key) is None:
            return None
        return datetime.fromtimestamp(variables.updated_at(key) / 1000, UTC)

    def prune(self, before: datetime) -> int:
        """Remove the keys whose values were written before a time. Returns their number.

        `workflow.kv.prune(workflow.now() - timedelta(days=30))`. Values keep their times over
        executions.

        Raises:
            UsageError: it is no datetime with a timezone.
        """
        run = caller("kv")
        limit_ms = _exact_ms(before)
        old = [key for key in run.variables if run.variables.updated_at(key) < limit_ms]
        for key in old:
            changes.delete_kv(run, key)
        return len(old)

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return list(caller("kv").variables)

    def __len__(self) -> int:
        """The number of keys."""
        return len(self.keys())

    def __contains__(self, key: str) -> bool:
        """Whether a key has a value."""
        return caller("kv").variables.get(key) is not None


def _exact_ms(at: object) -> float:
    # A time without a zone would mean another time on another machine, and replay may run there.
    if not isinstance(at, datetime) or at.utcoffset() is None:
        msg = f"kv.prune() needs a datetime with a timezone, as workflow.now() gives; got {at!r}"
        raise UsageError(msg)
    return (at - _EPOCH) / timedelta(milliseconds=1)


kv = Kv()
"""The key-value store of the running instance."""


class _Payloads:
    """Leaves a value as it was recorded. Only the caller knows its type."""

    def decode(self, data: bytes) -> bytes:
        return data


class OtherKv:
    """The key-value store of another instance, for reading.

    Each read is recorded and does not change in replay.
    """

    def __init__(self, id: str) -> None:
        """Made by `workflow.kv_of`."""
        self.id = check_id(id)

    async def get(self, key: str, as_type: type[T], default: T | None = None) -> T | None:
        """The durable value of a key.

        The default is returned if there is no such key or instance, or if the value is None.

        Raises:
            DecodeError: the value is not of this type.
        """

        async def read() -> object:
            # This runs on the node, after the turn is durable.
            try:
                return await client().get(self.id).kv_get(key, object)
            except NotFound:
                return None

        run = caller("kv_of()")
        data: bytes = await commands.start_checkpoint(
            run, f"kv_of {self.id!r} {key!r}", read, encode, _Payloads()
        )
        if decode(data) is None:
            return default
        codec: TypeCodec[T] = TypeCodec(as_type, f"KV value {key!r} of {self.id!r}")
        return codec.decode(data)


def kv_of(id: str, /) -> OtherKv:
    """The key-value store of another instance: `await workflow.kv_of("settings").get("rate",
    float)`.
    """
    caller("kv_of()")
    return OtherKv(id)
