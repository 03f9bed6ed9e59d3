"""Pins: which member should own a scope of units that are not at home.

A pin is a wish for its unit, and never a reason to wait: while no member fits, another one that
serves the group of the unit has it. That member cannot run code that it lacks, and says so in the
row of the unit.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from perdure.kernel.data.definition import RESERVED_PREFIX, version_key
from perdure.kernel.data.placement import Pin, code_of, group_of
from perdure.kernel.placement.rendezvous import score

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perdure.kernel.data.commit import UnitRow
    from perdure.ports.cluster import Member


_SCOPE_MAX = 1_000
"""The longest name of a pin. Databases index it."""


def able(members: Iterable[Member]) -> list[Member]:
    """The members that may own scopes."""
    found: list[Member] = []
    for member in members:
        # One that leaves lives on until it has released what it owns, and gets nothing more.
        if member.state == "leaving":
            continue
        if member.weight > 0:
            found.append(member)
    return found


def fits(member: Member, pin: Pin) -> bool:
    """Whether a member is what the units of a pin need."""
    match pin.kind:
        case "node":
            return member.incarnation.node == pin.wanted
        case "label":
            key, _, value = pin.wanted.partition("=")
            return member.labels.get(key) == value
        case "code":
            return pin.group in member.groups and parts_of(pin) <= set(member.code)


def parts_of(pin: Pin) -> set[str]:
    """The code that the units of a pin need."""
    if pin.kind != "code":
        return set()
    return set(pin.wanted.split("+"))


def place_pins(scopes: Iterable[str], members: Iterable[Member]) -> dict[str, str]:
    """The incarnation that should own each pin. Pins that nobody can own are left out."""
    present = able(members)
    placed: dict[str, str] = {}
    for scope in scopes:
        pin = Pin.read(scope)
        if pin is None:
            continue  # a later release has made it
        chosen = [member for member in present if fits(member, pin)]
        if not chosen:
            # None of them can run it. One that may own it says so in its row.
            chosen = _serving(present, pin.group)
        if chosen:
            placed[scope] = max(chosen, key=lambda member: _lot(member, scope)).incarnation.id
    return placed


def _serving(members: Iterable[Member], group: str) -> list[Member]:
    """The members that serve a group."""
    found: list[Member] = []
    for member in members:
        if group in member.groups:
            found.append(member)  # noqa: PERF401 - as in `able`
    return found


def _lot(member: Member, scope: str) -> tuple[float, str]:
    digest = blake2b(f"{member.incarnation.node}\0{scope}".encode(), digest_size=8).digest()
    # In one order, because a tie must have the same winner on each node.
    return score(member, int.from_bytes(digest)), member.incarnation.id


def pin_for_code(row: UnitRow, lacks: str, members: Iterable[Member]) -> Pin | None:
    """The pin for a unit whose owner lacks some code. None: no member has all that it needs."""
    group = group_of(row.scope)
    present = _serving(able(members), group)
    if lacks.endswith("@"):  # any version
        lacks = _newest(lacks, present)
        parts = {lacks}
    else:
        parts = set(lacks.split("+"))
    if row.type_version and not row.type.startswith(RESERVED_PREFIX):  # every app has those
        parts.add(code_of(row.type, row.type_version))
    # The workflow first, for people who read it.
    wanted = sorted(parts, key=lambda code: (code.endswith("()"), code))
    pin = Pin(group, "code", "+".join(wanted))
    if len(pin.scope) <= _SCOPE_MAX and any(fits(member, pin) for member in present):
        return pin
    return None


def _newest(workflow: str, members: Iterable[Member]) -> str:
    """The newest version of a workflow that members have, or the name alone."""
    known = {code for member in members for code in member.code if code.startswith(workflow)}
    return max(known, key=lambda code: version_key(code.removeprefix(workflow)), default=workflow)


def everyone_fits(pin: Pin, members: Iterable[Member]) -> bool:
    """Whether all members that could own a unit of this pin have its code, so that it can go home.

    Pins that were made by hand stay.
    """
    if pin.kind != "code":
        return False
    serving = _serving(able(members), pin.group)
    if not serving:
        return False
    return all(fits(member, pin) for member in serving)
