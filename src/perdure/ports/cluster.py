"""The cluster port: who is alive, and the scopes that a node should own.

A cluster gives its opinion, and the store decides: a claim raises the epoch of a scope, and only
commits with the newest epoch are accepted. So a cluster that is wrong costs time, never work.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, Self, runtime_checkable

import msgspec

from perdure.errors import UsageError
from perdure.kernel.data.placement import GROUP
from perdure.ports.store import Incarnation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


WEIGHT_MAX = 1_000_000
"""The largest weight of a member."""

CODE_MAX = 2_000
"""The largest number of definitions that a member names. Every node reads those of all others."""


class Assignment(msgspec.Struct, frozen=True):
    """The scopes that a node should own.

    `living` are the ids of the incarnations that are alive. The node waits a while for them to
    release a scope that was theirs. None: that is not known, and the node claims at once.
    """

    scopes: frozenset[str]
    living: frozenset[str] | None = None


class NameTaken(UsageError):
    """A cluster has a member of this name already. It may be dead: its beat tells."""

    def __init__(self, name: str) -> None:
        """Tell people what to do, once the member is known to live."""
        super().__init__(
            f"the cluster has a living member named {name!r}; give this node another name"
        )


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node, as it describes itself to the others.

    Incarnations own scopes, and addresses do not: a node that comes back has the address of the one
    before, and none of its rights.
    """

    incarnation: Incarnation
    # Where other nodes and clients reach it, as host:port. None: they cannot.
    address: str | None = None
    lease_ms: Annotated[int, msgspec.Meta(ge=1, le=86_400_000)]
    # Its share of the scopes, in proportion to those of the others. With 0 it owns none.
    weight: Annotated[int, msgspec.Meta(ge=0, le=WEIGHT_MAX)] = 100
    groups: tuple[str, ...] = (GROUP,)
    labels: dict[str, str] = {}
    # What it can run: `checkout@1.0.0`, `charge()`. A node that says nothing, such as one of an
    # older release, is handed nothing for the sake of its code.
    code: tuple[str, ...] = ()
    # A node that leaves is to own nothing from now on, and lives on until it has released all.
    state: Literal["serving", "leaving"] = "serving"


class Seen(msgspec.Struct, frozen=True):
    """A member, as the cluster has it.

    `beat` grows with each renewal. `is_connected` says whether its session is open (None: the
    cluster cannot tell). A member whose process has ended is disconnected at once.
    """

    member: Member
    beat: int
    is_connected: bool | None = None


class View(msgspec.Struct, frozen=True):
    """All members at one moment.

    `revision` changes with every change of the members, and not with their beats.
    """

    revision: int
    members: tuple[Seen, ...]


class Cluster(Protocol):
    """Who is alive. Open it with `async with`.

    Every method may raise `StoreUnavailable`: the cluster does not answer. What was asked may have
    happened then. Each may be asked again.
    """

    @property
    def shares_loop(self) -> bool:
        """Whether it works on the event loop of its nodes. Others have a thread for each node."""
        ...

    async def __aenter__(self) -> Self:
        """Open it. Creates what it needs when it is new."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it. Members stay: a process that ends is no node that leaves."""
        ...

    # The others judge by beats, and never by the clock of this node or of the cluster.
    async def join(self, member: Member) -> View:
        """Become a member. A repeated call of the same incarnation changes nothing.

        Raises:
            NameTaken: another member has this name. The caller looks whether that one lives.
        """
        ...

    async def renew(self, member: Member) -> View | None:
        """Show that a member lives, and record what has changed in it.

        None: it is no member (any more). Its incarnation must not come back, because others act on
        its end already.
        """
        ...

    async def leave(self, incarnation: Incarnation) -> None:
        """End a membership. Unknown incarnations are no error."""
        ...

    # By beat, because the member may have renewed its lease since the caller looked.
    async def remove(self, incarnation: Incarnation, beat: int) -> bool:
        """End the membership of a dead member, unless its beat is another one by now."""
        ...

    async def view(self) -> View:
        """All members, in order of their incarnations."""
        ...

    async def changed(self, revision: int, within_ms: int) -> View:
        """Wait until the revision is another one than `revision`, or the time is up."""
        ...


@runtime_checkable
class Assigner(Protocol):
    """Assigns scopes to nodes."""

    # An iterator, because a cluster changes its opinion whenever nodes come and go.
    def assignments(self, node: Incarnation) -> AsyncIterator[Assignment]:
        """All scopes that this life of a node should own, now and after each change.

        The node gains those that are new and gives up those that are missing. A scope that the
        store has given to another node since is claimed again only after the next change.
        """
        ...
