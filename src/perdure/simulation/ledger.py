"""The ledger: the promises that customers were given, and what came of them."""

from __future__ import annotations

from collections import Counter, defaultdict

from perdure.simulation import programs
from perdure.simulation.letters import Letters


class Ledger:
    """Notes what was acknowledged while things happen, and holds it against what came of it."""

    def __init__(self) -> None:
        """Nothing was promised yet."""
        self.breaches: list[str] = []
        self.letters: dict[str, Letters] = defaultdict(Letters)
        self.operations: Counter[str] = Counter()
        self._silent: set[str] = set()
        self._ended_after: dict[str, int] = {}

    def breach(self, what: str) -> None:
        """Note a broken promise."""
        self.breaches.append(what)

    def expect(self, found: object, expected: object, what: str) -> None:
        """Note a broken promise, if the two differ."""
        if found != expected:
            self.breach(f"{what}: {found!r} instead of {expected!r}")

    def must_never_run(self, tag: str) -> None:
        """Its start was cancelled, and that was acknowledged, long before it was due."""
        self._silent.add(tag)

    def has_ended(self, tag: str) -> None:
        """It was seen to have ended: it has begun its last activity."""
        # The first time counts: whoever sees the end later has seen more attempts begin.
        self._ended_after.setdefault(tag, len(programs.RAN))

    def check_code(self, *, late_attempts: bool) -> None:
        """Hold what was run against what was allowed.

        `late_attempts`: an owner that was overtaken, and does not know it yet, may begin one.
        Nothing of it is recorded.
        """
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for index, tag in enumerate(programs.RAN):
            first.setdefault(tag, index)
            last[tag] = index
        # Sorted, because a set of texts has another order in each process.
        for tag in sorted(self._silent & first.keys()):
            self.breach(f"cancelled code ran: {tag}")
        if late_attempts:
            return
        for tag, length in self._ended_after.items():
            if tag not in self._silent and last.get(tag, -1) >= length:
                self.breach(f"work began after its end: {tag}")
