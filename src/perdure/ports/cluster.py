"""The cluster port: the scopes that a node should own.

A cluster adapter gives its opinion, and the store decides: a claim raises the epoch of a scope, and
only commits with the newest epoch are accepted. So a cluster that is wrong costs time, never work.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

import msgspec

from perdure.ports.store import Incarnation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Assignment(msgspec.Struct, frozen=True):
    """The scopes that a node should own.

    `living` are the ids of the incarnations that are alive. The node waits a while for them to
    release a scope that was theirs. None: that is not known, and the node claims at once.
    """

    scopes: frozenset[str]
    living: frozenset[str] | None = None


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node, as it describes itself to the others."""

    incarnation: Incarnation
    address: str | None = None
    lease_ms: int = 10_000
    weight: int = 100
    groups: tuple[str, ...] = ("default",)
    labels: dict[str, str] = {}
    queues: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    formats: tuple[int, int] = (1, 1)
    state: Literal["serving", "leaving"] = "serving"


class Seen(msgspec.Struct, frozen=True):
    """A member as the cluster has it."""

    member: Member
    beat: int
    is_connected: bool | None = None


class View(msgspec.Struct, frozen=True):
    """All members at one moment."""

    revision: int
    members: tuple[Seen, ...]


class Cluster(Protocol):
    """Who is alive."""

    @property
    def shares_loop(self) -> bool:
        """Whether it works on the event loop of its nodes. Others have a thread for each node."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    async def join(self, member: Member) -> View: ...
    async def renew(self, member: Member) -> View | None: ...
    async def leave(self, incarnation: Incarnation) -> None: ...
    async def remove(self, incarnation: Incarnation, beat: int) -> bool: ...
    async def view(self) -> View: ...
    async def changed(self, revision: int, within_ms: int) -> View: ...


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
