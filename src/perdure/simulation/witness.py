"""The store of a simulated world, which sees everything that becomes durable, and its order."""

from __future__ import annotations

from collections import defaultdict
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from perdure.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perdure.kernel.data.commit import Commit, Fence, Verdict
    from perdure.kernel.data.message import Message
    from perdure.ports.clock import Clock
    from perdure.ports.store import Claim, Incarnation, Posted

SHARDS = 5
"""Few, so that several instances share each of them."""


class Witness(MemoryStore):
    """Sees that no old owner writes, whatever the store itself believes, and keeps a digest."""

    def __init__(self, clock: Clock) -> None:
        """Nothing was seen yet. The id is fixed, as that of every world is the same."""
        super().__init__(shards=SHARDS, clock=clock, id="simulation")
        self.breaches: list[str] = []
        self._digest = blake2b(digest_size=8)
        self._owners: defaultdict[str, tuple[int, str]] = defaultdict(lambda: (0, ""))
        self._versions: defaultdict[str, int] = defaultdict(int)
        self._seen: set[bytes] = set()

    @property
    def digest(self) -> str:
        """Of all that has happened, in its order."""
        return self._digest.hexdigest()

    def _note(self, what: str, data: object, answer: object) -> None:
        line = (what, self._clock.now_ms(), data, answer)
        self._digest.update(msgspec.msgpack.encode(line))

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        """Commit, and look at what was applied."""
        verdicts = await super().commit(batch)
        self._note("commit", batch, verdicts)
        for commit, verdict in zip(batch, verdicts, strict=True):
            # A commit that is submitted again is applied already, perhaps under another owner.
            if verdict == "applied" and commit.id not in self._seen:
                self._seen.add(commit.id)
                self._check_owner(commit)
                self._check_version(commit)
        return verdicts

    def _check_owner(self, commit: Commit) -> None:
        fence = commit.fence
        newest, owner = self._owners[fence.scope]
        if fence.epoch < newest or (fence.epoch == newest and fence.incarnation != owner):
            self.breaches.append(f"old epoch: a commit of {commit.unit} in {fence.scope}")
        self._owners[fence.scope] = (fence.epoch, fence.incarnation)

    def _check_version(self, commit: Commit) -> None:
        before = self._versions[commit.unit]
        if commit.expect != before:
            text = f"a commit of {commit.unit} follows version {commit.expect}, and not {before}"
            self.breaches.append(f"stale commit: {text}")
        # The next unit of this id begins anew.
        if commit.delete is not None:
            self._versions[commit.unit] = 0
        else:
            self._versions[commit.unit] = commit.expect + 1

    async def post(self, batch: Sequence[Message]) -> list[Posted]:
        """Post."""
        posted = await super().post(batch)
        self._note("post", batch, posted)
        return posted

    async def claim(self, scopes: Sequence[str], owner: Incarnation) -> Mapping[str, Claim]:
        """Claim."""
        claims = await super().claim(scopes, owner)
        # Also of a scope that was released: a commit of the time before may still be on its way.
        for scope, claim in claims.items():
            newest, _ = self._owners[scope]
            if claim.epoch <= newest:
                self.breaches.append(
                    f"old epoch: {owner.node} has claimed {scope} without a new one"
                )
            self._owners[scope] = (claim.epoch, owner.id)
        self._note("claim", scopes, owner)
        return claims

    async def release(self, fences: Sequence[Fence]) -> list[str]:
        """Release."""
        released = await super().release(fences)
        self._note("release", fences, released)
        return released
