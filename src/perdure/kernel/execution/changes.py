"""Commands that change what an execution remembers.

They set values, KV entries, the custom status, search attributes and patches. Each is recorded, or
found in the journal, before the variables change (`variables.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel.data import events as ev
from perdure.kernel.data.attributes import check_attributes, merged
from perdure.kernel.execution.variables import check_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.kernel.execution.execution import Execution


def record_value(run: Execution, name: str, data: bytes, check: Callable[[], None]) -> bytes:
    """Store a value under a name. Returns the value that counts: in replay the recorded one.

    Raises:
        UsageError: `check` refuses it, or it is too large.
    """

    def check_all() -> None:
        check()
        run.check_size(data, f"the value {name!r}")

    occurrence = run.variables.next_occurrence(name)
    recorded, _ = run.command(ev.ValueRecorded(name, occurrence, data), check_all)
    return recorded.value


def set_kv(run: Execution, key: str, value: bytes) -> None:
    """Write a key.

    Raises:
        UsageError: the key or the value cannot be stored, or would cross a limit.
    """

    def check() -> None:
        run.variables.check(key, value, run.limits)
        run.check_size(value, f"the KV value {key!r}")

    _, new = run.command(ev.KvSet(key, value), check)
    _set(run, key, value, new)


def delete_kv(run: Execution, key: str) -> None:
    """Delete a key."""
    _, new = run.command(ev.KvDeleted(key))
    _set(run, key, None, new)


def clear_kv(run: Execution) -> None:
    """Delete all keys."""
    _, new = run.command(ev.KvCleared())
    for key in list(run.variables):
        _set(run, key, None, new)


def _set(run: Execution, key: str, value: bytes | None, new: bool) -> None:
    run.variables.set(key, value, run.started.execution, run.loop.now_ms, changed=new)


def set_status(run: Execution, value: bytes | None) -> None:
    """Set the custom status, or clear it (None).

    Raises:
        LimitExceeded, PayloadTooLarge: it is too large.
    """

    def check() -> None:
        if value is not None:
            check_status(value, run.limits)
            run.check_size(value, "the custom status")

    recorded, new = run.command(ev.StatusSet(value), check)
    run.variables.set_status(recorded.value, changed=new)


def set_attributes(run: Execution, changes: bytes) -> None:
    """Set search attributes, or remove them (None).

    Raises:
        LimitExceeded, PayloadTooLarge: there are too many, or they are too large.
    """

    def check() -> None:
        check_attributes(merged(run.variables.attributes, changes), run.limits)
        run.check_size(changes, "the search attributes")

    recorded, new = run.command(ev.AttributesSet(changes), check)
    run.variables.set_attributes(recorded.values, changed=new)


def patched(run: Execution, patch: str) -> bool:
    """Whether to take the new side of a change."""
    known = run.variables.patched(patch)
    if known is None:
        # Code that is live takes the new side. Code that passed here before the patch was written
        # has no mark in its journal, and takes the old side to the end.
        known = not run.replaying or _is_marked(run, patch)
        run.variables.pass_patch(patch, patched=known)
        if known:
            run.command(ev.PatchMarked(patch))
    return known


def _is_marked(run: Execution, patch: str) -> bool:
    # Anywhere in the journal: a loop may come by the patch before the command that marked it.
    marks = (event.id for event in run.journal or () if isinstance(event, ev.PatchMarked))
    return patch in marks
