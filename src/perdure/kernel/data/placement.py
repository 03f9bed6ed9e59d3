"""Ids and scopes: which ids are allowed, and which scope a new unit belongs to.

The home of a unit is `group/number`. The number is a stable hash of the id, modulo the store's
shard count. It is written into the unit's row when the unit is created. From then on the row
decides, because a unit may be pinned elsewhere:

    pin/GROUP/node:NAME             by hand, to the node of this name
    pin/GROUP/label:KEY=VALUE       by hand, to nodes with this label
    pin/GROUP/code:NAME@VERSION     because its owner has not got this version of its workflow

All units of a group with the same destination share one pin. So there are as many pins as
destinations, however many units are pinned.

Ids that code does not give are derived here from the command that needs them, so that replay gets
the same ones.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Literal, NamedTuple, Self
from zlib import crc32

from perdure.errors import InvalidId, UsageError

GROUP = "default"
PIN = "pin/"
"""Names of pins begin with this, and no group has this name."""
_GROUP_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
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


def check_group(name: object) -> str:
    """Return the name of a group if it can be one.

    Raises:
        UsageError: naming it and the rule.
    """
    if not isinstance(name, str) or not _GROUP_NAME.fullmatch(name) or f"{name}/" == PIN:
        msg = (
            f"{name!r} cannot be the name of a group: use up to 64 letters, digits, '_', '.' and "
            "'-', and not 'pin'"
        )
        raise UsageError(msg)
    return name


PinKind = Literal["node", "label", "code"]
_KINDS: tuple[PinKind, ...] = ("node", "label", "code")


class Pin(NamedTuple):
    """A scope of units that are not at home: their group, and what they need.

    `wanted` is the name of a node, a label as `key=value`, or code. Code is `name@version` of a
    workflow. An activity that it lacks follows behind a `+`, as `name()`.
    """

    group: str
    kind: PinKind
    wanted: str

    @property
    def scope(self) -> str:
        """The name of the scope."""
        return f"{PIN}{self.group}/{self.kind}:{self.wanted}"

    @classmethod
    def read(cls, scope: str) -> Self | None:
        """The pin of which this is the name. None: it is a shard, or of a later release."""
        if not scope.startswith(PIN):
            return None
        group, _, rest = scope.removeprefix(PIN).partition("/")
        kind, _, wanted = rest.partition(":")
        for known in _KINDS:
            if kind == known:
                return cls(group, known, wanted)
        return None


def code_of(workflow: str, version: str | None) -> str:
    """A workflow's code, as pins and members name it. Without a version it is any version."""
    return f"{workflow}@{version or ''}"


def activity_of(name: str) -> str:
    """An activity's code, as pins and members name it."""
    return f"{name}()"


def group_of(scope: str) -> str:
    """The group of a unit that is in this scope."""
    if scope.startswith(PIN):
        scope = scope.removeprefix(PIN)
    return scope.partition("/")[0]


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
