"""The conformance suite of the cluster port, for adapters of your own.

    class TestMyCluster(ClusterConformance):
        @pytest.fixture
        def cluster_factory(self, tmp_path):
            return lambda: MyCluster(tmp_path / "cluster")

Each call of the factory gives another end of the same cluster, as another process has it.
"""

# ruff: noqa: D102 - the name of a test says what it proves

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic

import msgspec
import pytest

from perdure.kernel.placement.observer import Observer
from perdure.ports.cluster import Cluster, Load, Member, NameTaken, QueueLoad, View
from perdure.ports.store import Incarnation

ClusterFactory = Callable[[], Cluster]

LEASE_MS = 10_000
PATIENCE_MS = 30_000
"""How long a wait lasts that should end at once."""


def member(name: str, life: str = "1", *, address: str | None = None) -> Member:
    """A member for tests."""
    incarnation = Incarnation(name, f"{name}-{life}")
    return Member(incarnation=incarnation, lease_ms=LEASE_MS, address=address)


A, B = member("a"), member("b")


@asynccontextmanager
async def two_ends(factory: ClusterFactory) -> AsyncGenerator[tuple[Cluster, Cluster]]:
    """Two processes of one cluster."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(factory())
        two = await stack.enter_async_context(factory())
        yield one, two


def beats(view: View) -> dict[str, int]:
    """The beat of each member."""
    return {seen.member.incarnation.id: seen.beat for seen in view.members}


def members(view: View) -> list[Member]:
    """The members, without their beats."""
    return [seen.member for seen in view.members]


class ClusterConformance:
    """What each cluster must do."""

    async def test_a_new_cluster_has_no_members(self, cluster_factory: ClusterFactory) -> None:
        async with cluster_factory() as cluster:
            assert (await cluster.view()).members == ()

    async def test_members_see_each_other(self, cluster_factory: ClusterFactory) -> None:
        async with two_ends(cluster_factory) as (one, two):
            assert members(await one.join(A)) == [A]
            assert members(await two.join(B)) == [A, B]
            assert members(await one.view()) == [A, B]

    async def test_all_that_a_member_says_is_seen(self, cluster_factory: ClusterFactory) -> None:
        said = Member(
            incarnation=Incarnation("käse ' \"", "id/1"),
            address="[::1]:7777",
            lease_ms=1_234,
            weight=0,
            groups=("default", "gpu"),
            state="leaving",
        )
        async with two_ends(cluster_factory) as (one, two):
            await one.join(said)
            assert members(await two.view()) == [said]

    async def test_a_name_is_taken_while_its_member_stays(
        self, cluster_factory: ClusterFactory
    ) -> None:
        async with two_ends(cluster_factory) as (one, two):
            await one.join(A)
            again = member("a", "2")
            with pytest.raises(NameTaken, match="member named 'a'"):
                await two.join(again)
            assert members(await two.view()) == [A]
            await one.leave(A.incarnation)
            assert members(await two.join(again)) == [again]

    async def test_a_repeated_join_changes_nothing(self, cluster_factory: ClusterFactory) -> None:
        # The answer to the first one may have been lost.
        async with cluster_factory() as cluster:
            before = await cluster.join(A)
            assert await cluster.join(A) == before

    async def test_a_renewal_moves_the_beat_and_not_the_revision(
        self, cluster_factory: ClusterFactory
    ) -> None:
        async with two_ends(cluster_factory) as (one, two):
            await one.join(A)
            before = await two.join(B)
            after = await one.renew(A)
            assert after is not None
            assert after.revision == before.revision
            assert beats(after)["a-1"] > beats(before)["a-1"]
            assert beats(after)["b-1"] == beats(before)["b-1"]
            assert beats(await two.view()) == beats(after)

    async def test_a_renewal_records_what_has_changed(
        self, cluster_factory: ClusterFactory
    ) -> None:
        async with two_ends(cluster_factory) as (one, two):
            before = await one.join(A)
            leaving = msgspec.structs.replace(A, state="leaving", address="10.0.0.1:5")
            after = await one.renew(leaving)
            assert after is not None
            assert members(after) == members(await two.view()) == [leaving]
            assert after.revision != before.revision

    async def test_a_removed_member_does_not_come_back_by_a_renewal(
        self, cluster_factory: ClusterFactory
    ) -> None:
        async with two_ends(cluster_factory) as (one, two):
            view = await one.join(A)
            assert await two.remove(A.incarnation, beats(view)["a-1"])
            assert await one.renew(A) is None
            assert (await two.view()).members == ()
            again = member("a", "2")
            assert members(await one.join(again)) == [again]
            assert await one.renew(A) is None

    async def test_a_member_that_has_moved_is_not_removed(
        self, cluster_factory: ClusterFactory
    ) -> None:
        async with two_ends(cluster_factory) as (one, two):
            view = await one.join(A)
            await one.renew(A)
            assert not await two.remove(A.incarnation, beats(view)["a-1"])
            assert members(await two.view()) == [A]

    async def test_a_member_is_removed_once(self, cluster_factory: ClusterFactory) -> None:
        async with two_ends(cluster_factory) as (one, two):
            beat = beats(await one.join(A))["a-1"]
            removals = [end.remove(A.incarnation, beat) for end in (one, two, one, two)]
            assert sorted(await asyncio.gather(*removals)) == [False, False, False, True]

    async def test_to_leave_twice_is_no_error(self, cluster_factory: ClusterFactory) -> None:
        async with cluster_factory() as cluster:
            await cluster.join(A)
            await cluster.leave(A.incarnation)
            view = await cluster.view()
            await cluster.leave(A.incarnation)
            assert await cluster.view() == view

    async def test_each_change_of_the_members_is_another_revision(
        self, cluster_factory: ClusterFactory
    ) -> None:
        async with two_ends(cluster_factory) as (one, two):
            revisions = [(await one.view()).revision]
            revisions.append((await one.join(A)).revision)
            view = await two.join(B)
            revisions.append(view.revision)
            await one.remove(B.incarnation, beats(view)["b-1"])
            revisions.append((await two.view()).revision)
            await one.leave(A.incarnation)
            revisions.append((await two.view()).revision)
            assert len(set(revisions)) == 5
            assert revisions == sorted(revisions)

    async def test_a_revision_has_the_same_members_in_each_view(
        self, cluster_factory: ClusterFactory
    ) -> None:
        # A node that has the newest revision with older members would never learn of the others.
        views: list[View] = []

        async def change(end: Cluster, name: str) -> None:
            one = member(name)
            views.append(await end.join(one))
            for port in range(3):
                moved = msgspec.structs.replace(one, address=f"host:{port}")
                view = await end.renew(moved)
                assert view is not None
                views.append(view)
            views.append(await end.view())

        async with two_ends(cluster_factory) as (one, two):
            await asyncio.gather(*(change(one, f"a{n}") for n in range(10)), change(two, "b"))
            views.append(await two.view())
        known: dict[int, list[Member]] = {}
        for view in views:
            assert known.setdefault(view.revision, members(view)) == members(view)

    async def test_a_wait_ends_with_the_next_change(self, cluster_factory: ClusterFactory) -> None:
        async with two_ends(cluster_factory) as (one, two):
            before = await one.join(A)
            waiting = asyncio.ensure_future(one.changed(before.revision, PATIENCE_MS))
            await two.join(B)
            assert members(await waiting) == [A, B]

    async def test_a_wait_for_a_change_that_has_come_ends_at_once(
        self, cluster_factory: ClusterFactory
    ) -> None:
        async with two_ends(cluster_factory) as (one, two):
            before = await one.join(A)
            await two.join(B)
            began_s = monotonic()
            assert members(await one.changed(before.revision, PATIENCE_MS)) == [A, B]
            assert monotonic() - began_s < PATIENCE_MS / 2_000

    async def test_a_wait_without_a_change_has_an_end(
        self, cluster_factory: ClusterFactory
    ) -> None:
        async with cluster_factory() as cluster:
            before = await cluster.join(A)
            assert await cluster.changed(before.revision, 50) == before

    async def test_members_outlive_the_process_that_joined(
        self, cluster_factory: ClusterFactory
    ) -> None:
        # Its lease decides. Otherwise a connection that breaks would end a node that lives.
        async with cluster_factory() as keeps:
            async with cluster_factory() as ends:
                await ends.join(A)
            assert members(await keeps.view()) == [A]

    async def test_a_silent_member_is_found_dead_by_its_beats(
        self, cluster_factory: ClusterFactory
    ) -> None:
        # The times are those of the observer. No clock of the cluster or of the member counts.
        async with two_ends(cluster_factory) as (one, two):
            await one.join(A)
            await two.join(B)
            observer = Observer()
            for now_ms in range(0, 3 * LEASE_MS, LEASE_MS // 4):
                view = await two.renew(B)
                assert view is not None
                dead = [seen.member for seen in observer.look(view, now_ms)]
                expected: list[Member] = []
                if now_ms >= LEASE_MS:
                    expected = [A]
                assert dead == expected

    async def test_hundreds_of_members_come_and_go_at_once(
        self, cluster_factory: ClusterFactory
    ) -> None:
        crowd = [member(f"n{n:03}") for n in range(200)]
        async with two_ends(cluster_factory) as ends:
            await asyncio.gather(*(ends[n % 2].join(one) for n, one in enumerate(crowd)))
            assert members(await ends[0].view()) == crowd
            going = crowd[::2]
            await asyncio.gather(*(ends[0].leave(one.incarnation) for one in going))
            assert members(await ends[1].view()) == crowd[1::2]

    # ------------------------------------------------------------ for people

    async def test_a_load_is_seen_and_changes_nothing_else(
        self, cluster_factory: ClusterFactory
    ) -> None:
        load = Load(1_000, 7, 3, {"gpu": QueueLoad(2, 2, 1), "": QueueLoad(1, 0, 0)})
        async with two_ends(cluster_factory) as (one, two):
            await one.join(A)
            before = await two.join(B)
            assert [standing.load for standing in await two.standings()] == [None, None]
            after = await one.renew(A, load)
            assert after is not None
            assert after.revision == before.revision
            standings = await two.standings()
            assert [standing.load for standing in standings] == [load, None]
            assert [standing.seen for standing in standings] == list((await two.view()).members)
            # A renewal without one takes it back: what is not known is not shown.
            await one.renew(A)
            assert (await two.standings())[0].load is None
            await one.leave(A.incarnation)
            assert len(await two.standings()) == 1

    async def test_a_member_is_silent_since_its_last_renewal(
        self, cluster_factory: ClusterFactory
    ) -> None:
        async with two_ends(cluster_factory) as (one, two):
            await one.join(A)

            async def silent_ms() -> int:
                (standing,) = await two.standings()
                assert standing.silent_ms is not None
                assert standing.state in ("serving", "silent")
                return standing.silent_ms

            deadline_s = monotonic() + PATIENCE_MS / 1000
            while await silent_ms() < 20:
                assert monotonic() < deadline_s, "nobody says how long the member is silent"
                await asyncio.sleep(0.001)
            await one.renew(A)
            assert await silent_ms() < LEASE_MS
