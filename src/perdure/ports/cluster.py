"""The cluster port: the scopes that a node should own.

A cluster adapter gives its opinion, and the store decides: a claim raises the epoch of a scope, and
only commits with the newest epoch are accepted. So a cluster that is wrong costs time, never work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from perdure.ports.store import Incarnation


class Assignment(msgspec.Struct, frozen=True):
    """The scopes that a node should own.

    `living` are the ids of the incarnations that are alive. The node waits a while for them to
    release a scope that was theirs. None: that is not known, and the node claims at once.
    """

    scopes: frozenset[str]
    living: frozenset[str] | None = None


class Assigner(Protocol):
    """Assigns scopes to nodes."""

    # An iterator, because a cluster changes its opinion whenever nodes come and go.
    def assignments(self, node: Incarnation) -> AsyncIterator[Assignment]:
        """All scopes that this life of a node should own, now and after each change.

        The node gains those that are new and gives up those that are missing. A scope that the
        store has given to another node since is claimed again only after the next change.
        """
        ...
