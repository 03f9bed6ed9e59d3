"""Elders: objects that have come to stay, out of the sight of Python's garbage collector.

The collector of CPython goes through all objects of the process, the older ones now and then. With
20,000 instances in memory these are half a million objects, and the event loop stands still for up
to a third of a second. Nearly all of them stay, and what an instance leaves behind when it goes is
freed without the collector. So each time `every` more instances have come into memory, the
collector looks at what is new once, and the rest is set apart for good (`gc.freeze`). From then on
a full collection is one of what is new.

What was set apart and becomes garbage in a circle stays until everything is looked at again, which
is once an hour. That one collection takes as long as each full one does without the elders.

This concerns the whole process, so a node does it only if its options say so. See decision 0047.
"""

from __future__ import annotations

import gc
from time import monotonic

_LOOK_AGAIN_S = 3_600.0
"""After so long everything is looked at again."""


class Elders:
    """Sets objects apart as instances come into memory. With `every` 0 it does nothing."""

    def __init__(self, every: int) -> None:
        """Nothing is set apart yet."""
        self._every = every
        self._newcomers = 0
        self._look_again_at_s = 0.0
        self._has_any = False

    def begin(self) -> None:
        """The node starts: what the program has made so far has come to stay."""
        if self._every:
            self._set_apart()
            self._look_again_at_s = monotonic() + _LOOK_AGAIN_S

    def note_newcomer(self) -> None:
        """One more instance has come into memory."""
        self._newcomers += 1
        if self._newcomers != self._every:
            return
        if monotonic() >= self._look_again_at_s:
            self.give_back()
            self._look_again_at_s = monotonic() + _LOOK_AGAIN_S
        self._set_apart()

    def _set_apart(self) -> None:
        # Collected first: what is garbage by now would stay.
        gc.collect()
        gc.freeze()
        self._newcomers = 0
        self._has_any = True

    def give_back(self) -> None:
        """The collector sees everything again. What the program had frozen itself is seen, too."""
        if self._has_any:
            gc.unfreeze()
            self._has_any = False
