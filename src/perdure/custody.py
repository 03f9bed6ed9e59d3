"""Custody: owning a store that no node owns, for as long as somebody removes things from it.

Nothing else is done there: no code runs, no timer fires, no message is delivered. So a store can be tidied while its
app is down, and the next node finds everything else as it was, including whether the last one ended in order.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from perdure.app import App
from perdure.errors import Failure, StoreUnavailable
from perdure.gateway import StoreGateway
from perdure.kernel import message as msg
from perdure.kernel.commit import Commit, Fence
from perdure.kernel.limits import Limits
from perdure.kernel.placement import scope_of, scopes_of
from perdure.kernel.turn import Outcome
from perdure.kernel.unit import Unit
from perdure.ports.clock import Clock
from perdure.ports.store import Incarnation, Loaded, Store

_UNTOUCHED = Failure("Untouched", "it is not run here", retryable=False)
"""Why a unit in custody is not replayed."""

_TRIES = 3
"""Times that a removal is decided anew because a message changed the unit meanwhile."""


class Custodian(StoreGateway):
    """Carries out deletes and prunes itself; everything else is posted."""

    def __init__(self, store: Store, clock: Clock | None, fences: dict[str, Fence]) -> None:
        """Use scopes that were claimed."""
        super().__init__(store, clock)
        self._fences = fences

    async def send(self, message: msg.Message) -> Outcome:
        """Carry it out, or post it."""
        if not isinstance(message.body, msg.ADMIN):
            return await super().send(message)
        for _ in range(_TRIES):
            loaded = (await self.store.load([message.to]))[0]
            commit, outcome = self._decide(loaded, message)
            if commit is None:
                return outcome
            verdict = (await self.store.commit([commit]))[0]
            if verdict == "applied":
                return outcome
            if verdict != "stale":
                break
        text = f"{message.to!r} was not changed: the store refused the commit; try again"
        raise StoreUnavailable(text)

    def _decide(self, loaded: Loaded, message: msg.Message) -> tuple[Commit | None, Outcome]:
        now = self.clock.now_ms()
        row = loaded.row
        scope = row.scope if row is not None else scope_of(loaded.id, self.store.info.shards)
        fence, commit_id = self._fences[scope], os.urandom(16)
        if isinstance(message.body, msg.Prune):
            if row is None:
                return None, "missing"
            kept = msgspec.structs.replace(row, updated_at=now)
            return Commit(commit_id, fence, now, row.id, loaded.version, kept, prune=message.body.executions), "ok"
        unit = Unit(loaded.id, App("custody"), Limits(), shards=self.store.info.shards)
        for letter in loaded.inbox:
            letter.posted = True
        if row is not None:
            unit.held = _UNTOUCHED
            unit.load(loaded.version, row, loaded.journal, loaded.kv, loaded.inbox)
            turn = unit.advance([message], now, fence, commit_id)
        else:
            turn = unit.advance([*loaded.inbox, message], now, fence, commit_id)
        outcome = turn.answers.get(message.id, "missing")
        return (turn.commit if turn.deleted else None), outcome


@asynccontextmanager
async def custody(store: Store, clock: Clock | None = None) -> AsyncGenerator[Custodian]:
    """Own an open store, for removals.

    Raises:
        StoreLocked: a node owns it: ask that one, through a client.
    """
    incarnation = Incarnation("custody", os.urandom(8).hex())
    scopes = scopes_of(store.info.shards)
    claims = await store.claim(scopes, incarnation)
    fences = {scope: Fence(scope, claim.epoch, incarnation.id) for scope, claim in claims.items()}
    try:
        yield Custodian(store, clock, fences)
    finally:
        if all(claim.clean for claim in claims.values()):  # else the next node must learn that the last one crashed
            await store.release(list(fences.values()))
