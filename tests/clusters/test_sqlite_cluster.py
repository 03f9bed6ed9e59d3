"""A cluster in a SQLite file: damaged rows, other files, and files that go."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from perdure.cluster.sqlite import SQLiteCluster
from perdure.errors import StoreUnavailable
from perdure.kernel.placement.rendezvous import place
from perdure.ports.cluster import NameTaken
from perdure.testing.conformance.clusters import A, B, beats, member, members

# SQLite keeps a value of any type in any column.
GARBAGE = [
    "'garbage'",
    "5",
    "1.5",
    "x'fffe'",
    "CAST('{\"incarnation\":{\"node\":\"' || x'ff' || '\"}}' AS BLOB)",
    "CAST(replace(hex(zeroblob(50000)), '0', '[') AS BLOB)",
    # The records of others, of an impossible lease, and of a state that nobody knows yet.
    "(SELECT record FROM members WHERE node = 'b')",
    "CAST(replace(record, '10000', '-1') AS BLOB)",
    "CAST(replace(record, 'serving', 'warming') AS BLOB)",
]


def change(path: str, statement: str) -> None:
    other = apsw.Connection(path)
    other.execute(statement)
    other.close()


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_a_record_that_cannot_be_read_harms_no_other_member(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, garbage: str
) -> None:
    path = str(tmp_path / "cluster.db")
    async with SQLiteCluster(path) as cluster:
        await cluster.join(A)
        await cluster.join(B)
        change(path, f"UPDATE members SET record = {garbage} WHERE node = 'a'")
        for _ in range(3):
            view = await cluster.view()
        assert [one.incarnation for one in members(view)] == [A.incarnation, B.incarnation]
        assert set(place({"default": ["default/0"]}, members(view)).values()) == {"b-1"}
        assert len(caplog.records) == 1
        # The name is not lost: the others see that nobody renews it, and remove it.
        again = member("a", "2")
        with pytest.raises(NameTaken):
            await cluster.join(again)
        assert await cluster.remove(A.incarnation, beats(view)["a-1"])
        assert members(await cluster.join(again)) == [again, B]


async def test_a_record_of_a_later_release_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "cluster.db")
    async with SQLiteCluster(path) as cluster:
        await cluster.join(A)
        later = "json_set(CAST(record AS TEXT), '$.wings', 2)"
        change(path, f"UPDATE members SET record = CAST({later} AS BLOB)")
        assert members(await cluster.view()) == [A]


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_member_follows_the_name_of_the_file(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "cluster.db"
    async with SQLiteCluster(str(path)) as one:
        await one.join(A)
        path.rename(tmp_path / "gone.db")
        if replaced:
            async with SQLiteCluster(str(path)) as two:
                await two.join(B)
        # It learns that it is no member there, and would come back as another incarnation.
        assert await one.renew(A) is None
        again = member("a", "2")
        await one.join(again)
        async with SQLiteCluster(str(path)) as three:
            assert members(await three.view()) == ([again, B] if replaced else [again])


async def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cluster.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnavailable, match=r"cluster\.db does not answer"):
        async with SQLiteCluster(str(path)):
            pass


async def test_a_closed_cluster_says_so(tmp_path: Path) -> None:
    cluster = SQLiteCluster(str(tmp_path / "cluster.db"))
    async with cluster:
        pass
    with pytest.raises(StoreUnavailable, match="not open"):
        await cluster.view()
