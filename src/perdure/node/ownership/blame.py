"""Blame: the part of an instance in crashes of the process, as its row says it (`UnitRow.suspect`).

The row has it as one number. Zero means no suspicion. The kernel sets it to zero in every turn that
makes progress.
"""

from __future__ import annotations

from typing import Literal, Self

import msgspec

State = Literal["free", "trial", "held"]

_STATES: tuple[State, ...] = ("free", "trial", "held")
_MOST = 999
"""Three digits for each count. More crashes than that change nothing."""


class Blame(msgspec.Struct, frozen=True):
    """The part that an instance had in crashes, as far as it is known.

    `crashes` is how many crashes in a row found it at work. `alone` is how many of them came when
    it was the only one on trial. `state` says whether it ran on trial, or was held back so that the
    others could be watched without it.
    """

    crashes: int = 0
    alone: int = 0
    state: State = "free"

    @classmethod
    def read(cls, number: int) -> Self:
        """From the number in a row.

        Read it in decimal: the state, three digits for `alone`, three for `crashes`.
        """
        place, counts = divmod(number, 1_000_000)
        alone, crashes = divmod(counts, 1_000)
        state: State = "free"
        if place < len(_STATES):  # a row of another release may have more of them
            state = _STATES[place]
        return cls(crashes, alone, state)

    @property
    def number(self) -> int:
        """The number for the row."""
        counts = min(self.alone, _MOST) * 1_000 + min(self.crashes, _MOST)
        return _STATES.index(self.state) * 1_000_000 + counts

    def after_crash(self) -> Blame:
        """After a crash that it was present at."""
        if self.state == "held":
            return Blame()  # it did not run, so the cause was another one, or came from outside
        if self.state == "trial":
            return self  # the search decides, by how many were on trial with it
        return Blame(self.crashes + 1, self.alone)

    def on_trial(self) -> Blame:
        """While it runs on trial."""
        return Blame(self.crashes, self.alone, "trial")

    def waiting(self) -> Blame:
        """While others are on trial."""
        return Blame(self.crashes, self.alone, "held")

    def held_back(self) -> Blame:
        """After a crash while it was the only one on trial."""
        return Blame(self.crashes, self.alone + 1, "held")

    def freed(self) -> Blame:
        """After a trial without a crash.

        The crashes stay counted until it makes progress: the next trial may have to last longer.
        """
        return Blame(self.crashes)


def free(number: int) -> int:
    """The number in the row of an instance that is not on trial any more."""
    return Blame.read(number).freed().number
