"""The profile of a node: how it describes itself to the other members of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.node.deploys import advertised, release
from perdure.ports.cluster import Member

if TYPE_CHECKING:
    from perdure.app import App
    from perdure.node.options import NodeOptions
    from perdure.ports.store import Incarnation


def profile_of(
    app: App,
    options: NodeOptions,
    incarnation: Incarnation,
    address: str | None,
    started_at: int,
) -> Member:
    """What the others learn of a node. `started_at` is the time of its start (ms)."""
    return Member(
        incarnation=incarnation,
        lease_ms=options.lease_ms,
        address=address,
        weight=options.weight,
        groups=groups_of(app, options),
        labels=dict(options.labels),
        code=advertised(app, incarnation.node),
        release=release(),
        started_at=started_at,
    )


def groups_of(app: App, options: NodeOptions) -> tuple[str, ...]:
    """The groups that a node serves: those of its options, or all of its app."""
    if options.groups:
        return options.groups
    return tuple(app.groups())
