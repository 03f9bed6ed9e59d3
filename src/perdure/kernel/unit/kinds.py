"""Kinds of units: the methods that each unit has, and the registry that makes units by kind.

A unit is a workflow run, an entity with all its runs, or a process. The `kind` of its row says
which. The owner of a unit, which is a node, knows none of the kinds. It makes a unit by the
registry when the unit comes into memory, and then calls only the methods of `Unit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from perdure.kernel.unit.unknown_unit import UnknownUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from logging import LogRecord

    from perdure.errors import Failure
    from perdure.kernel.data.commit import Commit, Fence, UnitRow
    from perdure.kernel.data.loaded import Loaded
    from perdure.kernel.unit.mailbox import Mailbox
    from perdure.kernel.unit.turn import Turn

# It stands in rows of the store, so it never changes.
WORKFLOW = "workflow"
"""The kind of a unit that begins with a `Start`."""


class Working(Protocol):
    """A turn with work that must end before its commit, such as a method of an entity."""

    async def finish(self) -> Turn:
        """Do the work, and give the turn with its commit."""
        ...


class Unit(Protocol):
    """A unit in memory, as its owner sees it."""

    id: str
    kind: str
    version: int
    row: UnitRow | None
    held: Failure | None
    # The code for the lack of which it is held, as pins name it. Empty: another reason, or none.
    lacks: str

    def load(self, found: Loaded, *, released: bool = False) -> None:
        """Take over the unit as stored. An error that prevents it ends up in `held`."""
        ...

    def advance(
        self,
        mailbox: Mailbox,
        now: int,
        fence: Fence,
        commit_id: bytes,
        is_spent: Callable[[], bool],
    ) -> Turn | Working:
        """Take messages and timers that are due at `now` (ms), as far as the turn's budget goes."""
        ...

    def follow(self, commit: Commit) -> None:
        """Advance by a commit of another owner, so that this copy can take over without a load."""
        ...

    def hold(self, why: Failure) -> None:
        """The code cannot go on until people change something."""
        ...

    def suspect_of(self, crashes: int) -> None:
        """Note in the row how many crashes the unit may have caused. The next turn stores it."""
        ...

    def close_memory(self) -> None:
        """Leave memory. The code is not run."""
        ...

    @property
    def idle(self) -> bool:
        """Whether the unit could leave memory, because no work of its own is open."""
        ...

    @property
    def only_sleeps(self) -> bool:
        """Whether the unit waits for nothing but its deadline."""
        ...

    @property
    def is_poison(self) -> bool:
        """Whether the code is not to be run, because it stops its node."""
        ...

    @property
    def keeps_messages(self) -> bool:
        """Whether messages wait in the store for a unit that does not exist."""
        ...

    def take_logs(self) -> Sequence[LogRecord]:
        """The log records of the code since the last turn."""
        ...

    def where(self) -> str | None:
        """The line of code at which the unit waits, for people."""
        ...


class Kinds:
    """The registry of kinds, which makes units."""

    def __init__(
        self, kinds: Mapping[str, Callable[[str], Unit]], bodies: Mapping[type, str]
    ) -> None:
        """`kinds` make a unit by its id. `bodies` give the kind that a first message makes."""
        self._kinds = kinds
        self._bodies = bodies

    def make(self, kind: str, unit: str) -> Unit:
        """A unit of which nothing is known but its id and its kind."""
        make = self._kinds.get(kind)
        if make is None:
            # A unit all the same, so that its messages wait and its row says why it stands still.
            return UnknownUnit(unit, kind)
        return make(unit)

    def kind_of(self, found: Loaded) -> str | None:
        """The kind of a stored unit, or of one that its first message will make. None: any kind."""
        if found.row is not None:
            return found.row.kind
        # Messages to an id that nothing has made yet may stand before the one that makes it.
        for message in found.inbox:
            kind = self.kind_for(type(message.body))
            if kind is not None:
                return kind
        return None

    def kind_for(self, body: type) -> str | None:
        """The kind of the unit that a message of this body makes."""
        return self._bodies.get(body)
