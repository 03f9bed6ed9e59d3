"""A turn's outcome: the Commit, and what follows once it is durable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from logging import LogRecord

    from perdure.kernel.call import Call
    from perdure.kernel.commit import Commit, UnitRow

Outcome = Literal["ok", "started", "joined", "exists", "closed", "missing", "full", "open"]
"""What the sender of a message is told once the turn is durable."""


@dataclass(slots=True)
class Milestones:
    """What happens once in the life of an instance, and happened in this turn.

    `set_aside`: it is suspended and was not before, or for another reason. `replaced` are the last states of the
    runs that had the id until now, in order: one turn may take several starts that replace.
    """

    started: bool = False
    ended: bool = False
    set_aside: bool = False
    replaced: tuple[UnitRow, ...] = ()


@dataclass(slots=True)
class Turn:
    """What a turn did. Everything but `commit` happens only after the commit is durable (at once when there is none).

    `answers` go to the senders of messages. `calls` are activities and checkpoints to run, and
    `cancelled` those to give up. `kept` are the ids of messages that the commit puts into the
    unit's own inbox because the unit could not take them yet. `wake_at` is when the unit wants its
    next turn (0: at once, it has work of its own). `again` asks for another turn now. `closed` says
    that the unit has ended, now or before, `deleted` that it is gone with all it owned.
    `milestones` are rare: None in most turns. `logs` is what the code logged.
    """

    commit: Commit | None
    answers: dict[bytes, Outcome] = field(default_factory=dict[bytes, "Outcome"])
    calls: list[Call] = field(default_factory=list["Call"])
    cancelled: list[Call] = field(default_factory=list["Call"])
    wake_at: int | None = None
    again: bool = False
    closed: bool = False
    deleted: bool = False
    kept: Collection[bytes] = ()
    warning: str | None = None
    milestones: Milestones | None = None
    logs: Sequence[LogRecord] = ()
