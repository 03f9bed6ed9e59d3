"""Custody: owning a store that no node owns, to remove instances from it.

Nothing else is done there: no code runs, no timer fires, no message is delivered. So a store can be
tidied while its app is down. The next node finds the rest as it was, including whether the last
node ended in order.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec

from perdure.app import App
from perdure.client.gateway import StoreGateway
from perdure.client.pins import find_scopes
from perdure.cluster.nodes import living_nodes
from perdure.errors import Failure, StoreLocked, StoreUnavailable
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import Commit, Fence
from perdure.kernel.data.limits import Limits
from perdure.kernel.data.placement import scope_of, scopes_of
from perdure.kernel.unit.mailbox import Mailbox
from perdure.kernel.unit.turn import Outcome
from perdure.kernel.unit.workflow_unit import WorkflowUnit
from perdure.ports.clock import Clock
from perdure.ports.store import Incarnation, Loaded, Store

_UNTOUCHED = Failure("Untouched", "it is not run here", retryable=False)
"""Why a unit in custody is not replayed."""

# A message may change the unit between its load and its commit. Then the removal is decided anew.
_TRIES = 3


class Custodian(StoreGateway):
    """A gateway that carries out deletes and prunes itself. It posts all other messages."""

    def __init__(self, store: Store, clock: Clock | None, fences: dict[str, Fence]) -> None:
        """Use scopes that were claimed."""
        super().__init__(store, clock)
        self._fences = fences

    async def send(self, message: msg.Message) -> Outcome:
        """Carry it out, or post it."""
        if not isinstance(message.body, msg.ADMIN):
            return await super().send(message)
        for _ in range(_TRIES):
            outcome = await self._remove(message)
            if outcome is not None:
                return outcome
        text = f"{message.to!r} was not changed: the store refused the commit; try again"
        raise StoreUnavailable(text)

    async def _remove(self, message: msg.Message) -> Outcome | None:
        """Carry the removal out on the stored unit. None: the unit has changed meanwhile."""
        loaded = (await self.store.load([message.to]))[0]
        if isinstance(message.body, msg.Prune):
            return await self._prune(loaded, message.body)
        return await self._delete(loaded, message)

    async def _prune(self, loaded: Loaded, body: msg.Prune) -> Outcome | None:
        row = loaded.row
        if row is None:
            return "missing"
        now = self.clock.now_ms()
        pruning = Commit(
            os.urandom(16),
            self._fences[row.scope],
            now,
            row.id,
            loaded.version,
            msgspec.structs.replace(row, updated_at=now),
            prune=body.executions,
        )
        if await self._commit(pruning):
            return "ok"
        return None

    async def _delete(self, loaded: Loaded, message: msg.Message) -> Outcome | None:
        info = self.store.info
        unit = WorkflowUnit(
            loaded.id, App("custody"), Limits(), shards=info.shards, dedupe_ms=info.dedupe_ms
        )
        # The row names the scope in which the unit is stored. An id without a row has none yet.
        scope = scope_of(loaded.id, info.shards)
        if loaded.row is not None:
            scope = loaded.row.scope
            unit.hold(_UNTOUCHED)
            unit.load(loaded)
        mailbox = Mailbox()
        mailbox.reload(loaded.inbox)
        mailbox.put(message)
        # A start that waits in the inbox came before the removal, so it takes its turn first.
        while True:
            turn = unit.advance(mailbox, self.clock.now_ms(), self._fences[scope], os.urandom(16))
            outcome = turn.answers.get(message.id)
            # A refusal needs no commit: the unit stays as it is.
            if outcome is not None and not turn.deleted:
                return outcome
            consumed: Sequence[bytes] = ()
            if turn.commit is not None:
                if not await self._commit(turn.commit):
                    return None
                consumed = turn.commit.consume
            if outcome is not None:
                return outcome
            mailbox.settle(turn.kept, consumed)

    async def _commit(self, commit: Commit) -> bool:
        verdict = (await self.store.commit([commit]))[0]
        # A node that has claimed the store meanwhile fences this process out for good. Only `stale`
        # can be decided anew.
        if verdict in ("fenced", "invalid"):
            text = (
                f"{commit.unit!r} was not changed: the store refused the commit ({verdict}); "
                "try again"
            )
            raise StoreUnavailable(text)
        return verdict == "applied"


async def _check_no_node(store: Store) -> None:
    """Refuse while nodes run. A node that starts meanwhile fences the custodian."""
    living = await living_nodes(store)
    if living:
        msg = f"nodes run on this store: {', '.join(living)}"
        raise StoreLocked(msg)


@asynccontextmanager
async def custody(store: Store, clock: Clock | None = None) -> AsyncGenerator[Custodian]:
    """Own an open store, for removals.

    Raises:
        StoreLocked: a node owns it. Ask that node, through a client.
    """
    await _check_no_node(store)
    incarnation = Incarnation("custody", os.urandom(8).hex())
    shards = scopes_of(store.info.shards)
    # A cluster on this store has made others: groups, and pins.
    scopes = [*shards, *sorted(set(await find_scopes(store)).difference(shards))]
    claims = await store.claim(scopes, incarnation)
    fences = {scope: Fence(scope, claim.epoch, incarnation.id) for scope, claim in claims.items()}
    try:
        yield Custodian(store, clock, fences)
    finally:
        # Releasing means that the last owner ended in order. If the node before has crashed, the
        # next node must learn that, so the scopes stay unreleased.
        if all(claim.clean for claim in claims.values()):
            await store.release(list(fences.values()))
