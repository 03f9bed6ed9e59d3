"""What a run remembers besides its journal: KV entries, custom status, search attributes, patches and the occurrences
of names.

KV entries outlive executions. Replay must read them as they were when the execution began, so an entry keeps that
value as `base` from its first change on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from perdure.errors import LimitExceeded
from perdure.kernel.data.attributes import merged
from perdure.kernel.data.commit import KvEntry
from perdure.kernel.data.definition import check_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from perdure.kernel.data.limits import Limits


def check_status(value: bytes, limits: Limits) -> None:
    """Refuse a custom status that is too large.

    Raises:
        LimitExceeded: naming the limit and the option.
    """
    if len(value) > limits.status_bytes:
        msg = (
            f"the custom status has {len(value)} bytes; the limit is {limits.status_bytes} "
            "(Limits.status_bytes): keep large data in the KV store or outside"
        )
        raise LimitExceeded(msg)


class Changes(NamedTuple):
    """What a turn has changed."""

    kv: list[KvEntry]
    has_status: bool
    has_attributes: bool


class Variables(msgspec.Struct, gc=False, eq=False):
    """The named values of a run.

    It holds data only, so that no cycle can go through it, and the garbage collector need not look.
    """

    status: bytes | None = None
    attributes: bytes | None = None
    # Whether this turn has changed something.
    is_changed: bool = False
    _patches: dict[str, bool] | None = None
    _entries: dict[str, KvEntry] | None = None
    _occurrences: dict[str, int] | None = None
    _changed: set[str] | None = None
    _status_changed: bool = False
    _attributes_changed: bool = False

    def begin(self, status: bytes | None, attributes: bytes | None) -> None:
        """Take over what the execution begins with."""
        self.status = status
        self.attributes = attributes

    def load(self, entries: Iterable[KvEntry], execution: int) -> None:
        """Take over stored entries, as of the beginning of `execution`."""
        for entry in entries:
            if entry.execution == execution:
                base, at = entry.base, entry.base_at
            else:
                base, at = entry.value, entry.updated_at
            if base is None:
                at = 0  # a key that does not exist has no time, whoever remembers that it did
            if self._entries is None:
                self._entries = {}
            self._entries[entry.key] = KvEntry(entry.key, base, base, execution, at, at)

    def patched(self, patch: str) -> bool | None:
        """Which way the code has taken at this patch. None: it has not come by it."""
        return self._patches.get(patch) if self._patches is not None else None

    def pass_patch(self, patch: str, *, patched: bool) -> None:
        """The code takes this way, now and whenever it comes by the patch again."""
        if self._patches is None:
            self._patches = {}
        self._patches[patch] = patched

    def next_occurrence(self, name: str) -> int:
        """How often this name was used before, counting from 0."""
        if self._occurrences is None:
            self._occurrences = {}
        count = self._occurrences.get(name, 0)
        self._occurrences[name] = count + 1
        return count

    def __iter__(self) -> Iterator[str]:
        """The keys that have a value, sorted: the order must not depend on whether the run is warm."""
        return iter(sorted(k for k, e in (self._entries or {}).items() if e.value is not None))

    def get(self, key: str) -> bytes | None:
        """The value of a key."""
        entry = self._entries.get(key) if self._entries is not None else None
        return entry.value if entry is not None else None

    def updated_at(self, key: str) -> int:
        """When a key that has a value was written, in ms of the journal's time."""
        entry = self._entries.get(key) if self._entries is not None else None
        return entry.updated_at if entry is not None else 0

    def set(self, key: str, value: bytes | None, execution: int, at: int, *, changed: bool) -> None:
        """Change or delete a key in this execution; `changed` is false in replay, where the store has it already."""
        if self._entries is None:
            self._entries = {}
        entry = self._entries.get(key)
        base, base_at = (entry.base, entry.base_at) if entry is not None else (None, 0)
        self._entries[key] = KvEntry(key, value, base, execution, at, base_at)
        if changed:
            self.is_changed = True
            self._changed = self._changed or set()
            self._changed.add(key)

    def check(self, key: str, value: bytes, limits: Limits) -> None:
        """Refuse what would cross a limit, and a key that not every store takes.

        Raises:
            LimitExceeded: naming the limit and the option.
            UsageError: the key is no text that can be stored.
        """
        check_text(key, "a KV key")
        if len(key.encode()) > limits.kv_key_bytes:
            msg = f"the KV key {key[:40]!r} is longer than {limits.kv_key_bytes} bytes (Limits.kv_key_bytes)"
            raise LimitExceeded(msg)
        if len(value) > limits.kv_value_bytes:
            msg = (
                f"the value of KV key {key!r} has {len(value)} bytes; the limit is {limits.kv_value_bytes} "
                "(Limits.kv_value_bytes): store it elsewhere and keep a reference"
            )
            raise LimitExceeded(msg)
        if self.get(key) is None and sum(1 for _ in self) >= limits.kv_keys:
            msg = (
                f"the KV store has {limits.kv_keys} keys already (Limits.kv_keys), "
                f"so {key!r} does not fit; delete some"
            )
            raise LimitExceeded(msg)

    def set_status(self, value: bytes | None, *, changed: bool) -> None:
        """Set the custom status; `changed` as in `set`."""
        self.status = value
        self._status_changed = self._status_changed or changed
        self.is_changed = self.is_changed or changed

    def set_attributes(self, changes: bytes, *, changed: bool) -> None:
        """Merge changes into the search attributes; `changed` as in `set`."""
        self.attributes = merged(self.attributes, changes)
        self._attributes_changed = self._attributes_changed or changed
        self.is_changed = self.is_changed or changed

    def take_changes(self, *, last: bool) -> Changes:
        """What this turn has changed. The last turn of an execution removes deleted entries."""
        taken = Changes(
            self._take_entries(last=last), self._status_changed, self._attributes_changed
        )
        self._status_changed = self._attributes_changed = self.is_changed = False
        return taken

    def _take_entries(self, *, last: bool) -> list[KvEntry]:
        """The rows to store, in the order of their keys."""
        entries = self._entries
        if entries is None:
            return []
        changed = self._changed or set()
        self._changed = None
        if last:
            gone = {key for key, entry in entries.items() if entry.value is None}
            for key in gone:
                entries[key] = KvEntry(key, None, None, entries[key].execution)
            changed = changed | gone
        return [entries[key] for key in sorted(changed)]

    def entries(self) -> list[KvEntry]:
        """All entries as they would be stored."""
        return [] if self._entries is None else [self._entries[k] for k in sorted(self._entries)]
