"""Members in processes of their own, which are killed."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest
from engine import until
from postgres_server import server_url

from perdure.cluster.postgres import PostgresCluster
from perdure.cluster.sqlite import SQLiteCluster
from perdure.kernel.placement.observer import Observer
from perdure.ports.cluster import Cluster
from perdure.testing.conformance.clusters import LEASE_MS, A, beats, members

CHILD = """
import asyncio
from perdure.cluster.postgres import PostgresCluster
from perdure.cluster.sqlite import SQLiteCluster
from perdure.testing.conformance.clusters import A

async def live():
    async with {made} as cluster:
        await cluster.join(A)
        print("joined", flush=True)
        while await cluster.renew(A) is not None:
            await asyncio.sleep(0.01)

asyncio.run(live())
"""
Made = Callable[[Path], tuple[Cluster, str]]


def in_file(folder: Path) -> tuple[Cluster, str]:
    path = str(folder / "cluster.db")
    return SQLiteCluster(path), f"SQLiteCluster({path!r})"


def in_database(_: Path) -> tuple[Cluster, str]:
    schema = f"members_{uuid.uuid4().hex[:12]}"
    return PostgresCluster(server_url(), schema), f"PostgresCluster({server_url()!r}, {schema!r})"


@pytest.mark.parametrize("made", [in_file, in_database])
async def test_a_process_that_is_killed_stays_a_member_until_it_is_judged(
    tmp_path: Path, made: Made
) -> None:
    watching, text = made(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(made=text)], stdout=subprocess.PIPE
    )
    try:
        async with watching:

            async def has_joined() -> bool:
                return members(await watching.view()) == [A]

            async def has_moved() -> bool:
                return beats(await watching.view())[A.incarnation.id] > 3

            await until(has_joined, "the join of the process")
            await until(has_moved, "its renewals")
            child.kill()
            child.wait()
            killed_s = monotonic()
            (seen,) = (await watching.view()).members
            assert seen.member == A
            if isinstance(watching, PostgresCluster):

                async def has_ended() -> bool:
                    return (await watching.view()).members[0].is_connected is False

                await until(has_ended, "the end of its session")
                assert monotonic() - killed_s < LEASE_MS / 1000 / 5
            observer = Observer()
            for now_ms in range(0, LEASE_MS + 1, LEASE_MS // 4):
                dead = observer.look(await watching.view(), now_ms)
            assert [one.member for one in dead] == [A]
            assert await watching.remove(A.incarnation, dead[0].beat)
    finally:
        child.kill()
        child.communicate()
