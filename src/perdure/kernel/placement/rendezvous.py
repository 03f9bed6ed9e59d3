"""Rendezvous hashing: which member should own which scope.

Each member draws a lot for each scope, and the highest lot wins. So a member that comes takes only
the scopes that it wins, and a member that goes leaves only its own. All nodes that have the same
view come to the same result.
"""

from __future__ import annotations

from hashlib import blake2b
from math import log
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from perdure.ports.cluster import Member

_RANGE = 1 << 64
_DIGEST_BYTES = 64
_LOTS = _DIGEST_BYTES // 8
"""Lots that one hash gives: hashes are most of the cost."""
_unpack = Struct(f">{_LOTS}Q").unpack


def place(scopes: Mapping[str, Sequence[str]], members: Iterable[Member]) -> dict[str, str]:
    """The incarnation that should own each scope. Scopes that no member serves are left out.

    `scopes` has the scopes of each group. Members that leave, or have no weight, get nothing.
    """
    placed: dict[str, str] = {}
    able = [member for member in members if member.state == "serving" and member.weight > 0]
    # In one order, because a tie must have the same winner on each node.
    able.sort(key=lambda member: member.incarnation.id)
    for group, names in scopes.items():
        serving = [member for member in able if group in member.groups]
        if not serving:
            continue
        columns = [_scores(member, group, len(names)) for member in serving]
        ids = [member.incarnation.id for member in serving]
        for name, scores in zip(names, zip(*columns, strict=True), strict=True):
            placed[name] = ids[scores.index(max(scores))]
    return placed


def score(member: Member, lot: int) -> float:
    """The score of a member for a lot of 64 bits.

    With a uniform lot u in (0, 1), -weight / ln(u) is highest as often as the weight says.
    """
    return -float(member.weight) / log((lot + 0.5) / _RANGE)


def _scores(member: Member, group: str, count: int) -> list[float]:
    """The scores of a member for the scopes of a group, in order."""
    seed = f"{member.incarnation.node}\0{group}".encode()
    numbers: list[int] = []
    for start in range(0, count, _LOTS):
        digest = blake2b(b"%d\0%b" % (start, seed), digest_size=_DIGEST_BYTES).digest()
        numbers += _unpack(digest)
    # `score`, written out, because there are thousands.
    weight = -float(member.weight)
    return [weight / log((number + 0.5) / _RANGE) for number in numbers[:count]]
