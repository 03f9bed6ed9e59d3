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
from perdure.kernel.mailbox import Mailbox
from perdure.kernel.placement import scope_of, scopes_of
from perdure.kernel.turn import Outcome
from perdure.kernel.unit import Unit
from perdure.ports.clock import Clock
from perdure.ports.store import Incarnation, Store

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
            outcome = await self._remove(message)
            if outcome is not None:
                return outcome
        text = f"{message.to!r} was not changed: the store refused the commit; try again"
        raise StoreUnavailable(text)

    async def _remove(self, message: msg.Message) -> Outcome | None:
        """Carry the removal out on what is stored now. None: that has changed meanwhile."""
        loaded = (await self.store.load([message.to]))[0]
        row = loaded.row
        if row is not None:
            scope = row.scope
        else:
            scope = scope_of(loaded.id, self.store.info.shards)
        if isinstance(message.body, msg.Prune):
            if row is None:
                return "missing"
            now = self.clock.now_ms()
            kept = msgspec.structs.replace(row, updated_at=now)
            pruning = Commit(
                os.urandom(16),
                self._fences[scope],
                now,
                row.id,
                loaded.version,
                kept,
                prune=message.body.executions,
            )
            if await self._commit(pruning):
                return "ok"
            return None
        info = self.store.info
        unit = Unit(
            loaded.id, App("custody"), Limits(), shards=info.shards, dedupe_ms=info.dedupe_ms
        )
        if row is not None:
            unit.hold(_UNTOUCHED)
            unit.load(loaded.version, row, loaded.journal, loaded.kv)
        mailbox = Mailbox()
        mailbox.reload(loaded.inbox)
        mailbox.put(message)
        # A start that waits in the inbox came before the removal, so it takes its turn first.
        while True:
            turn = unit.advance(mailbox, self.clock.now_ms(), self._fences[scope], os.urandom(16))
            outcome = turn.answers.get(message.id)
            if outcome is not None and not turn.deleted:
                return outcome  # it was refused
            if turn.commit is not None and not await self._commit(turn.commit):
                return None
            if outcome is not None:
                return outcome
            mailbox.settle(turn.kept, turn.commit.consume if turn.commit is not None else ())

    async def _commit(self, commit: Commit) -> bool:
        verdict = (await self.store.commit([commit]))[0]
        if verdict in ("fenced", "invalid"):
            text = f"{commit.unit!r} was not changed: the store refused the commit ({verdict}); try again"
            raise StoreUnavailable(text)
        return verdict == "applied"


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
        if all(
            claim.clean for claim in claims.values()
        ):  # else the next node must learn that the last one crashed
            await store.release(list(fences.values()))
