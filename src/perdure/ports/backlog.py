"""Queries of a store about what needs a node: for people and for autoscalers."""

from __future__ import annotations

import msgspec

from perdure.ports.store import Incarnation, Query


class ShardView(msgspec.Struct, frozen=True):
    """A scope, its owner, and what is in it.

    `open` are instances that have not ended. `busy` of them have activities under way on their
    owner, and `due` of them have a timer whose time has come. Those that are suspended are in
    `open` only.
    """

    scope: str
    epoch: int
    owner: Incarnation | None
    open: int
    busy: int
    due: int


class Shards(Query[ShardView], frozen=True, kw_only=True):
    """Scopes that were claimed at least once, by name. It reads the rows of open instances.

    `at` decides what is due.
    """

    at: int


class Backlog(msgspec.Struct, frozen=True):
    """The instances that need a node now. Each is counted once, and suspended ones are not.

    `due` have a timer whose time has come. `with_messages` have a message that they can take.
    `orphaned` have activities under way on an owner that is dead, and `busy` on one that lives.
    `oldest_at` is since when the first of `due` and `with_messages` waits (ms). None: none does.
    """

    due: int
    with_messages: int
    orphaned: int
    busy: int
    oldest_at: int | None = None


class Backlogs(Query[Backlog], frozen=True, kw_only=True):
    """One item: the backlog of the store at the time `at`.

    `living` are the ids of the incarnations that are alive. None: all owners of scopes are. A
    message counts if its instance would take it. One that an instance keeps for later does not,
    because it can wait for months. A store may stop counting the instances of a kind at `limit`.
    """

    at: int
    living: tuple[str, ...] | None = None
    limit: int = 100_000
