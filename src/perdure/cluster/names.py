"""Names of nodes: two living nodes cannot have the same."""

from __future__ import annotations

from perdure.errors import UsageError


def name_taken(name: str) -> UsageError:
    """The error of a node that cannot join."""
    return UsageError(
        f"the cluster has a member named {name!r}; if another node runs under this name, give this"
        " one another name, and if that one has ended, try again when its lease is over"
    )
