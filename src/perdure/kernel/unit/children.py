"""The open children of a unit, as its history has them.

Code that is in memory knows the calls that it waits for. A unit that is held may be without its
code: the definition is missing, the code is poison, or it has parted from the history. Its children
run on, and only the history names them. A unit reads them from there when it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from perdure.kernel.data import events as ev
from perdure.kernel.data.commit import OWN_RUN
from perdure.kernel.data.placement import child_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.kernel.data.commit import JournalChunk


class OpenChild(NamedTuple):
    """A child that its parent waits for: its id, its run, and the command that started it."""

    target: str
    run: bytes
    seq: int
    parent_close: ev.ParentClose


def recorded_children(chunks: Sequence[JournalChunk]) -> list[OpenChild]:
    """The open children of a unit's own run, by its journal. None, if that cannot be read."""
    own = [chunk.events for chunk in chunks if chunk.run == OWN_RUN]
    try:
        events = [event for data in own for event in ev.decode_events(data)]
    # As when a unit is loaded: a damaged column may hold a text in place of bytes.
    except (msgspec.MsgspecError, ValueError, TypeError):
        return []
    if not events or not isinstance(events[0], ev.Started):
        return []
    started = events[0]
    children: dict[int, OpenChild] = {}
    for event in events:
        if isinstance(event, ev.CallStarted) and not event.detached:
            run = child_run(started.run, started.execution, event.seq)
            children[event.seq] = OpenChild(event.target, run, event.seq, event.parent_close)
        elif isinstance(event, ev.Replied | ev.CommandCancelled):
            children.pop(event.seq, None)
    return list(children.values())
