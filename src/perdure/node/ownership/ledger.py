"""The ledger of suspects: their blame, written into their rows by commits of their owner."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from perdure.kernel.data.commit import Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perdure.kernel.data.commit import UnitRow, Verdict
    from perdure.node.loop.patience import Patience
    from perdure.node.ownership.scope import Scope
    from perdure.ports.clock import Clock
    from perdure.ports.store import Store


class Ledger:
    """Writes rows of units in the scopes of one search, as long as the node has them."""

    def __init__(
        self, store: Store, scopes: Mapping[str, Scope], clock: Clock, patience: Patience
    ) -> None:
        """`scopes` are those that the node still has, by name."""
        self._store = store
        self._scopes = scopes
        self._clock = clock
        self._patience = patience

    def commit(self, version: int, row: UnitRow) -> list[Commit]:
        """The commit that writes a row. None if its scope has gone."""
        scope = self._scopes.get(row.scope)
        if scope is None:
            return []
        now = self._clock.now_ms()
        return [Commit(os.urandom(16), scope.fence, now, row.id, version, row)]

    async def write(self, commits: Sequence[Commit]) -> dict[str, UnitRow]:
        """Make these durable, however long it takes. Return the rows that were accepted.

        A commit is refused if another owner has written since. The unit's next turn finds that,
        too.

        Raises:
            Stopped: the node stops.
        """
        if not commits:
            return {}
        verdicts = await self._patience.ask(self._submit, commits)
        applied: dict[str, UnitRow] = {}
        for commit, verdict in zip(commits, verdicts, strict=True):
            if verdict == "applied":
                applied[commit.unit] = commit.row
        return applied

    async def _submit(self, commits: Sequence[Commit]) -> list[Verdict]:
        return [*await self._store.commit(commits)]
