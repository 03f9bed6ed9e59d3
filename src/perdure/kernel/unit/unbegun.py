"""An execution whose start is stored and whose code has not run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perdure.kernel.data import events as ev
    from perdure.kernel.data.commit import KvEntry


class Unbegun(NamedTuple):
    """What its code begins with: its journal, which may have a start only, and its variables."""

    journal: Sequence[ev.Event]
    kv: Iterable[KvEntry]
