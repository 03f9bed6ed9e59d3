"""What a node tells people of the members of its cluster: other code, and groups without a node."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from perdure.kernel.placement.pins import able

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from perdure.ports.cluster import Member

logger = logging.getLogger("perdure.node")

_NAMED = 5
"""Definitions that a log record names."""


class Reports:
    """Says each thing once, and again when it has changed."""

    def __init__(self, node_name: str) -> None:
        """Nothing has been said."""
        self._ids = {"node": node_name}
        self._compared: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._needed: set[str] = set()
        self._unserved: set[str] = set()

    def need(self, groups: Iterable[str]) -> None:
        """The app of this node has workflows of these groups."""
        self._needed = set(groups)

    def see(self, own: Member, members: Collection[Member]) -> None:
        """Compare the members with this node."""
        if own.state == "leaving":
            return
        present = able(members)
        before = self._compared
        self._compared = {}
        for member in present:
            id_ = member.incarnation.id
            # A member that says nothing of its code is of another release, or has too much of it.
            if id_ == own.incarnation.id or not member.code or not own.code:
                continue
            both = (own.code, member.code)
            self._compared[id_] = both
            if before.get(id_) != both:
                self._compare(own, member)
        self._say_unserved(present)

    def _compare(self, own: Member, member: Member) -> None:
        theirs = set(member.code)
        ours = set(own.code)
        if theirs == ours:
            return
        text = (
            "node %s has other definitions: only it has %s, and only this one has %s. Instances go"
            " where their code is"
        )
        only_theirs, only_ours = _named(theirs - ours), _named(ours - theirs)
        logger.warning(text, member.incarnation.node, only_theirs, only_ours, extra=self._ids)

    def _say_unserved(self, present: Iterable[Member]) -> None:
        served = {group for member in present for group in member.groups}
        unserved = self._needed - served
        for group in sorted(unserved - self._unserved):
            text = "no living node serves group %r: its instances wait until one does"
            logger.warning(text, group, extra=self._ids)
        for group in sorted(self._unserved & served):
            logger.warning("group %r is served again", group, extra=self._ids)
        self._unserved = unserved


def _named(code: Collection[str]) -> str:
    """The first few of them, for people."""
    names = sorted(code)
    if not names:
        return "nothing"
    text = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        text += f" and {len(names) - _NAMED} more"
    return text
