"""Placement moves only what must move, and follows the weights."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from perdure.kernel.data.placement import scopes_of
from perdure.kernel.placement.rendezvous import place
from perdure.ports.cluster import Member
from perdure.ports.store import Incarnation

SCOPES = {"default": scopes_of(512)}


def member(name: str, *, weight: int = 100, life: str = "", groups: tuple[str, ...] = ("default",)):
    return Member(
        incarnation=Incarnation(name, f"{name}{life}"), lease_ms=1, weight=weight, groups=groups
    )


names = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=6, unique=True)


@given(names)
def test_every_scope_has_one_owner_whatever_the_order(given_names: list[str]) -> None:
    members = [member(name) for name in given_names]
    placed = place(SCOPES, members)
    assert sorted(placed) == sorted(SCOPES["default"])
    assert place(SCOPES, reversed(members)) == placed


@given(names, st.text("xyz", min_size=1, max_size=4), st.integers(1, 300))
def test_a_member_that_comes_or_goes_moves_only_its_own(
    given_names: list[str], name: str, weight: int
) -> None:
    before = place(SCOPES, [member(one) for one in given_names])
    after = place(SCOPES, [*(member(one) for one in given_names), member(name, weight=weight)])
    moved = {scope for scope in before if before[scope] != after[scope]}
    assert moved == {scope for scope, owner in after.items() if owner == name}


def test_shares_follow_the_weights() -> None:
    scopes = {"default": scopes_of(20_000)}
    counts = Counter(place(scopes, [member("a", weight=100), member("b", weight=300)]).values())
    assert 0.24 < counts["a"] / 20_000 < 0.26


def test_a_change_of_weight_moves_nothing_between_the_others() -> None:
    before = place(SCOPES, [member(name) for name in "abc"])
    after = place(SCOPES, [member("a"), member("b"), member("c", weight=50)])
    moved = {(before[scope], after[scope]) for scope in before if before[scope] != after[scope]}
    assert moved == {("c", "a"), ("c", "b")}


def test_members_that_leave_or_have_no_weight_get_nothing() -> None:
    leaving = msgspec.structs.replace(member("a"), state="leaving")
    assert set(place(SCOPES, [leaving, member("b"), member("c", weight=0)]).values()) == {"b"}
    assert place(SCOPES, [leaving]) == {}
    assert place(SCOPES, []) == {}


def test_the_next_life_of_a_node_gets_the_scopes_of_the_one_before() -> None:
    # So that a restart moves each scope twice at most.
    before = place(SCOPES, [member("a", life="1"), member("b")])
    after = place(SCOPES, [member("a", life="2"), member("b")])
    assert {scope for scope, owner in before.items() if owner == "a1"} == {
        scope for scope, owner in after.items() if owner == "a2"
    }


def test_a_group_is_served_by_its_members_only() -> None:
    scopes = {"default": scopes_of(64), "gpu": scopes_of(64, "gpu"), "none": scopes_of(1, "none")}
    members = [member("a"), member("b", groups=("gpu",)), member("c", groups=("default", "gpu"))]
    placed = place(scopes, members)
    owners: dict[str, set[str]] = {}
    for scope, owner in placed.items():
        owners.setdefault(scope.split("/")[0], set()).add(owner)
    assert owners == {"default": {"a", "c"}, "gpu": {"b", "c"}}


def test_the_placement_is_the_same_in_each_release() -> None:
    # Nodes of two releases run together, and must come to the same result.
    placed = place({"default": scopes_of(10)}, [member("a"), member("b"), member("c", weight=50)])
    assert "".join(placed[f"default/{n}"] for n in range(10)) == "bbcbbcbaba"
