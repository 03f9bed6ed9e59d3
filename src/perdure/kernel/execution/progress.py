"""The requests of workflow code in a turn, which the unit takes at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from perdure.kernel.data import events as ev
from perdure.kernel.loop.call import Call


class Progress(NamedTuple):
    """The requests of the code in a turn.

    `opened` calls are new, or want another attempt. `outgoing` are commands for other units.
    `cancelled` calls are not wanted any more.
    """

    opened: Sequence[Call]
    outgoing: Sequence[ev.Event]
    cancelled: Sequence[Call]
