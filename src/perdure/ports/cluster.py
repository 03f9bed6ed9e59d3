"""The cluster port: the scopes that a node should own.

A cluster adapter gives its opinion, and the store decides: a claim raises the epoch of a scope, and
only commits with the newest epoch are accepted. So a cluster that is wrong costs time, never work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from perdure.ports.store import Incarnation


class Cluster(Protocol):
    """Assigns scopes to nodes."""

    # An iterator, because a cluster changes its opinion whenever nodes come and go.
    def assignments(self, node: Incarnation) -> AsyncIterator[Collection[str]]:
        """All scopes that this life of a node should own, now and after each change.

        The node gains those that are new and gives up those that are missing. A scope that the
        store has given to another node since is claimed again only after the next change.
        """
        ...
