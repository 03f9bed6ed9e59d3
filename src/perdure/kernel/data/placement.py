"""Ids and scopes: which ids are allowed, and which scope a new unit belongs to.

The scope of a unit is `group/number`. The number is a stable hash of the id, modulo the store's
shard count. It is written into the unit's row when the unit is created. From then on the row
decides, because a unit may be pinned elsewhere.

Ids that code does not give are derived here from the command that needs them, so that replay gets
the same ones.
"""

from __future__ import annotations

from hashlib import blake2b
from zlib import crc32

from perdure.errors import InvalidId

GROUP = "default"
ID_BYTES_MAX = 512
# Two lives of an id have the same eight digits once in four billion pairs. More would make ids
# unreadable in lists.
_RUN_DIGITS = 8
_CONTROL = frozenset(chr(c) for c in (*range(32), *range(127, 160)))


def check_id(unit: object) -> str:
    """Return the id if it can be one.

    An id is 1 to 512 bytes of text without control characters. It is never used as a path.

    Raises:
        InvalidId: naming the id and what is wrong with it.
    """
    if not isinstance(unit, str):
        msg = f"an id is a string, got {type(unit).__name__}: {unit!r}"
        raise InvalidId(msg)
    # Nearly every id passes here, and nothing below need look at it.
    if unit.isascii() and unit.isprintable() and 0 < len(unit) <= ID_BYTES_MAX:
        return unit
    if not unit:
        msg = "an id must not be empty"
        raise InvalidId(msg)
    if not _CONTROL.isdisjoint(unit):
        msg = f"the id {unit!r} holds a control character; use printable text"
        raise InvalidId(msg)
    try:
        size = len(unit.encode())
    except UnicodeEncodeError:
        msg = f"the id {unit!r} holds a lone surrogate, which is not text; use valid Unicode"
        raise InvalidId(msg) from None
    if size > ID_BYTES_MAX:
        msg = f"the id {unit[:40]!r}... has {size} bytes; at most {ID_BYTES_MAX} are allowed"
        raise InvalidId(msg)
    return unit


def scope_of(unit: str, shards: int, group: str = GROUP) -> str:
    """The scope of a new unit: its group and the shard that its id hashes to."""
    # CRC-32, because it is the same in each language and on each machine, and is fast.
    return f"{group}/{crc32(unit.encode()) % shards}"


def scopes_of(shards: int, group: str = GROUP) -> list[str]:
    """All scopes of a group."""
    return [f"{group}/{n}" for n in range(shards)]


def derived_id(run: bytes, execution: int, seq: int, purpose: bytes) -> bytes:
    """A 128-bit id that the same command always gets, so that its messages are sent once."""
    return blake2b(b"%b%d.%d" % (run, execution, seq), digest_size=16, person=purpose[:16]).digest()


def child_run(parent_run: bytes, execution: int, seq: int) -> bytes:
    """The run of the child that a command of its parent starts."""
    return derived_id(parent_run, execution, seq, b"child")


def child_id(parent: str, run: bytes, execution: int, seq: int) -> str:
    """The id of a child for which the code gives none.

    It names the parent and the command that started the child. It has a part of the parent's run
    id, because an id can be used again: the children of the next `order-1` are not those of the
    first. A parent's id that is too long for this is cut, with a hash of all of it.
    """
    end = f"/{run.hex()[:_RUN_DIGITS]}.{execution}.{seq}"
    start = parent.encode()
    if len(start) + len(end) <= ID_BYTES_MAX:
        return parent + end
    mark = "~" + blake2b(start, digest_size=8).hexdigest()
    kept = start[: ID_BYTES_MAX - len(end) - len(mark)]
    # A character that is cut in two is left out.
    return kept.decode(errors="ignore") + mark + end
