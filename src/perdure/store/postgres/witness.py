"""Whether a server still has what it has acknowledged.

A standby that became the primary may lack the last commits of the old one, if these were not
replicated before they were acknowledged. A node that goes on with it would do twice what it has
done, and clients have seen results that are gone. The log of a server has one order. So the last
acknowledged commit is a witness: if it is there, all before it are there.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from perdure.errors import StoreUnavailable
from perdure.kernel.data.commit import Commit
from perdure.store.postgres.connection import Connection
from perdure.store.postgres.writes import Decided
from perdure.store.statements import statements

_SQL = statements("perdure.store.postgres", "witness")


class Found(msgspec.Struct, frozen=True):
    """What a server has of the unit of a witness. None: no such row."""

    epoch: int | None
    version: int | None
    run: bytes | None
    was_deleted: bool


class Witness(msgspec.Struct, frozen=True):
    """A commit that a server has acknowledged. `version` is that of the unit behind it."""

    # Not the commit itself, which may be large, and whose row its unit changes later.
    unit: str
    run: bytes
    version: int
    is_deletion: bool
    scope: str
    epoch: int

    def is_missing(self, found: Found) -> bool:
        """Whether the commit is gone."""
        if found.epoch is None or found.epoch < self.epoch:
            return True
        # Another owner may have done anything to the unit since.
        if found.epoch > self.epoch:
            return False
        if found.version is None:
            # A later commit, whose answer did not come, may have deleted it.
            return not self.is_deletion and not found.was_deleted
        # A version counts up within a run. Another run has versions of its own.
        if found.run != self.run:
            return False
        return self.is_deletion or found.version < self.version


def last_applied(commits: Sequence[Commit], decided: Sequence[Decided]) -> Witness | None:
    """The last of these commits that was applied."""
    for commit, (verdict, _) in zip(reversed(commits), reversed(decided), strict=True):
        if verdict == "applied":
            return Witness(
                commit.unit,
                commit.row.run,
                commit.expect + 1,
                commit.delete is not None,
                commit.fence.scope,
                commit.fence.epoch,
            )
    return None


async def check(connection: Connection, witness: Witness, name: str) -> None:
    """Look for the last acknowledged commit.

    Raises:
        StoreUnavailable: it is gone. No later try can succeed.
    """
    row = await connection.fetchrow(_SQL["find"], witness.scope, witness.unit)
    assert row is not None
    if witness.is_missing(Found(*row)):
        msg = (
            f"{name} went back in time: it has acknowledged a commit of {witness.unit!r} (version "
            f"{witness.version}) and does not have it any more. A standby has likely become the "
            "primary without the last commits, or a backup was restored. This node stops, so that "
            "you can look for the server that has them; started again, nodes go on from what is "
            "there"
        )
        raise StoreUnavailable(msg, "unknown", permanent=True)
