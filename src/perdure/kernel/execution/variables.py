"""The variables of an execution, beside its journal.

They are KV entries, the custom status, search attributes, patches, and the occurrences of names.
Commands change them (`changes.py`), live and in replay alike. The turn stores what a live command
has changed (`kernel/unit/collect.py`).

KV entries outlive executions. Replay must read them as they were when the execution began, so an
entry keeps that value as `base` from its first change on.
"""

from __future__ import annotations

from hashlib import blake2b
from random import Random
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
    """The changes of a turn."""

    kv: list[KvEntry]
    has_status: bool
    has_attributes: bool


class Variables(msgspec.Struct, gc=False, eq=False):
    """The named values of an execution.

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
        """Take over the values with which the execution begins."""
        self.status = status
        self.attributes = attributes

    def load(self, entries: Iterable[KvEntry], execution: int) -> None:
        """Take over stored entries, as of the beginning of `execution`."""
        for entry in entries:
            # An entry of an earlier execution was not changed since, so its value is the base.
            if entry.execution == execution:
                base, at = entry.base, entry.base_at
            else:
                base, at = entry.value, entry.updated_at
            # A key that does not exist has no time, though a store may remember that it did.
            if base is None:
                at = 0
            if self._entries is None:
                self._entries = {}
            self._entries[entry.key] = KvEntry(entry.key, base, base, execution, at, at)

    def patched(self, patch: str) -> bool | None:
        """Whether the code took the new side of this patch. None: it has not come by it."""
        if self._patches is None:
            return None
        return self._patches.get(patch)

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
        """The keys that have a value, sorted."""
        # The order of a dictionary would depend on whether the execution is warm.
        if self._entries is None:
            return iter(())
        return iter(sorted(k for k, entry in self._entries.items() if entry.value is not None))

    def get(self, key: str) -> bytes | None:
        """The value of a key. None: it has none."""
        if self._entries is None or key not in self._entries:
            return None
        return self._entries[key].value

    def updated_at(self, key: str) -> int:
        """When a key that has a value was written, in ms of the journal's time."""
        if self._entries is None or key not in self._entries:
            return 0
        return self._entries[key].updated_at

    def set(self, key: str, value: bytes | None, execution: int, at: int, *, changed: bool) -> None:
        """Change or delete a key in this execution.

        `changed` is False in replay, where the store has the change already.
        """
        if self._entries is None:
            self._entries = {}
        base: bytes | None = None
        base_at = 0
        entry = self._entries.get(key)
        if entry is not None:
            base = entry.base
            base_at = entry.base_at
        self._entries[key] = KvEntry(key, value, base, execution, at, base_at)
        if changed:
            self.is_changed = True
            if self._changed is None:
                self._changed = set()
            self._changed.add(key)

    def check(self, key: str, value: bytes, limits: Limits) -> None:
        """Refuse a value that would cross a limit, and a key that not every store takes.

        Raises:
            LimitExceeded: naming the limit and the option.
            UsageError: the key is no text that can be stored.
        """
        check_text(key, "a KV key")
        if len(key.encode()) > limits.kv_key_bytes:
            msg = (
                f"the KV key {key[:40]!r} is longer than {limits.kv_key_bytes} bytes "
                "(Limits.kv_key_bytes)"
            )
            raise LimitExceeded(msg)
        if len(value) > limits.kv_value_bytes:
            msg = (
                f"the value of KV key {key!r} has {len(value)} bytes; the limit is "
                f"{limits.kv_value_bytes} (Limits.kv_value_bytes): store it elsewhere and keep a "
                "reference"
            )
            raise LimitExceeded(msg)
        # Deleted keys do not count, though their entries are here until the execution ends.
        if self.get(key) is None and sum(1 for _ in self) >= limits.kv_keys:
            msg = (
                f"the KV store has {limits.kv_keys} keys already (Limits.kv_keys), "
                f"so {key!r} does not fit; delete some"
            )
            raise LimitExceeded(msg)

    def set_status(self, value: bytes | None, *, changed: bool) -> None:
        """Set the custom status. `changed` as in `set`."""
        self.status = value
        if changed:
            self._status_changed = True
            self.is_changed = True

    def set_attributes(self, changes: bytes, *, changed: bool) -> None:
        """Merge changes into the search attributes. `changed` as in `set`."""
        self.attributes = merged(self.attributes, changes)
        if changed:
            self._attributes_changed = True
            self.is_changed = True

    def take_changes(self, *, last: bool) -> Changes:
        """The changes of this turn. The last turn of an execution removes deleted entries."""
        taken = Changes(
            self._take_entries(last=last), self._status_changed, self._attributes_changed
        )
        self._status_changed = False
        self._attributes_changed = False
        self.is_changed = False
        return taken

    def _take_entries(self, *, last: bool) -> list[KvEntry]:
        """The rows to store, in the order of their keys."""
        entries = self._entries
        if entries is None:
            return []
        changed = self._changed or set()
        self._changed = None
        # Until then a deleted key is needed for its base, with which a replay begins.
        if last:
            gone = {key for key, entry in entries.items() if entry.value is None}
            for key in gone:
                entries[key] = KvEntry(key, None, None, entries[key].execution)
            changed = changed | gone
        return [entries[key] for key in sorted(changed)]

    def entries(self) -> list[KvEntry]:
        """All entries as they would be stored."""
        if self._entries is None:
            return []
        return [self._entries[key] for key in sorted(self._entries)]


def new_stream(run: bytes, execution: int, name: bytes) -> Random:
    """The random numbers of this name of an execution, from their beginning."""
    seed = blake2b(b"%b%d" % (run, execution), digest_size=8, person=name).digest()
    return Random(int.from_bytes(seed))
