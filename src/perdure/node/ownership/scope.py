"""A scope: a part of the store's units. One node owns it at a time.

    claimed ──▶ serving ◀──▶ frozen        each of them ──▶ draining ──▶ released
                                           each of them ──▶ lost

`claimed`: the store has accepted the claim, and nothing has been loaded. `serving`: the node takes
messages and turns. `frozen`: the store does not answer, so nothing is done and nothing is
forgotten. `draining`: the node takes no more messages, finishes the turns under way, and then gives
the scope up. `lost`: another node owns the scope, so this one may write nothing more of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, Protocol

from perdure.kernel.data.placement import GROUP

if TYPE_CHECKING:
    from perdure.kernel.data.commit import Fence
    from perdure.node.loop.residents import Resident
    from perdure.ports.store import Loaded

Batch = list[tuple["Resident", "Loaded"]]
"""Residents, each with all that the store has of its unit."""

State = Literal["claimed", "serving", "frozen", "draining", "lost"]

_BEFORE: dict[State, tuple[State, ...]] = {
    "serving": ("claimed", "frozen"),
    "frozen": ("serving",),
    "draining": ("claimed", "serving", "frozen"),
    "lost": ("claimed", "serving", "frozen", "draining"),
}
"""The states from which each state is reached."""


class Moved(Exception):
    """The unit is not this node's any more, and nothing was done. Its message goes by the store.

    It never reaches a caller of the client.
    """


class Admission(Protocol):
    """Decides which loaded units may run now."""

    async def admit(self, batch: Batch) -> Batch:
        """Give the part of a batch that may run now."""
        ...


class Horizon(Protocol):
    """Finds the deadlines that are too far away to be held in memory."""

    def leave(self, at: int) -> None:
        """A unit has a deadline at `at` (ms) that is not held in memory."""
        ...


class Scope:
    """A scope that this node has claimed. Only the methods of a scope write its state."""

    __slots__ = (
        "_empty",
        "admission",
        "fence",
        "horizon",
        "is_counted",
        "is_crashed",
        "is_home",
        "is_scanned",
        "leads_home",
        "name",
        "number",
        "residents",
        "since_ms",
        "state",
        "takes_messages",
        "takes_turns",
    )

    def __init__(self, fence: Fence, number: int, *, crashed: bool) -> None:
        """A scope that the store has just given this node, by the claim of this number.

        `crashed`: its last owner did not release it.
        """
        self.fence = fence
        self.number = number
        self.name = fence.scope
        # Whether the ids of its units lead to it. Units of groups and pins are looked for.
        self.is_home = self.name.startswith(f"{GROUP}/")
        # Whether its units go home at their next turn, because their code is there by now.
        self.leads_home = False
        self.is_crashed = crashed
        # Whether all units that were at work at the crash have been counted in their rows.
        self.is_counted = not crashed
        # Whether all messages that waited in the store at the claim have been found.
        self.is_scanned = False
        self.state: State = "claimed"
        # Attributes and no properties: each message and each turn asks.
        self.takes_messages = False
        self.takes_turns = False
        self.residents: dict[str, Resident] = {}
        # When it began to be served (boot time).
        self.since_ms = 0
        self.admission: Admission | None = None
        self.horizon: Horizon | None = None
        self._empty = asyncio.Event()

    # ------------------------------------------------------------ states

    def serve(self, admission: Admission, horizon: Horizon, boot_ms: int) -> None:
        """Take messages and turns from now on."""
        self.admission = admission
        self.horizon = horizon
        self.since_ms = boot_ms
        self._become("serving")

    def freeze(self) -> None:
        """The store does not answer. A scope that leaves this node goes on leaving."""
        if self.state == "serving":
            self._become("frozen")

    def thaw(self) -> None:
        """The store answers again."""
        if self.state == "frozen":
            self._become("serving")

    def drain(self) -> None:
        """Take no more messages. Turns that are under way are finished."""
        self._become("draining")

    def lose(self) -> None:
        """Another node owns the scope."""
        self._become("lost")

    def _become(self, state: State) -> None:
        assert self.state in _BEFORE[state], f"{self.name}: {self.state} -> {state}"
        self.state = state
        # A frozen scope still takes the results of its activities: they could not be sent again.
        self.takes_messages = state in ("serving", "frozen")
        self.takes_turns = state in ("serving", "draining")

    def lead_home(self, leads: bool) -> None:
        """Whether its units can go home."""
        self.leads_home = leads

    def has_counted(self) -> None:
        """All suspects of the last owner's crash are known by their rows."""
        self.is_counted = True

    def has_been_scanned(self) -> None:
        """All that waited in the store at the claim has been found."""
        self.is_scanned = True

    # ------------------------------------------------------------ residents

    def enter(self, resident: Resident) -> None:
        """A unit of this scope is in memory."""
        self.residents[resident.unit.id] = resident
        self._empty.clear()

    def leave(self, resident: Resident) -> None:
        """A unit of this scope has left memory."""
        del self.residents[resident.unit.id]
        if not self.residents:
            self._empty.set()

    async def emptied(self) -> None:
        """Wait until no unit of this scope is in memory."""
        if self.residents:
            await self._empty.wait()
