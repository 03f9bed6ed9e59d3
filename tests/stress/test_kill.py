"""`kill -9` in the middle of large payloads: the next process finishes everything, each result recorded once."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from perdure import Client

sys.path.insert(0, str(Path(__file__).parent))

import payloads
from outcomes import activities_recorded

INSTANCES = 6
PATIENCE_S = 30


async def started(url: str) -> Process:
    script = str(payloads.__file__)
    return await asyncio.create_subprocess_exec(
        sys.executable, script, url, str(INSTANCES), stdout=PIPE
    )


async def test_a_killed_payload_run_is_finished_by_the_next_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/stress.db"
    each = payloads.SHAPE.per_instance
    async with asyncio.timeout(PATIENCE_S):
        first = await started(url)
        assert first.stdout is not None
        for _ in range(INSTANCES * each // 2):
            assert await first.stdout.readline() == b"step\n"
        first.kill()
        await first.communicate()
        async with Client.open(f"{url}?read_only=true") as client:
            left = await client.list(status="running", id_prefix="payload-", limit=None)
        assert left, "it was killed too late"
        second = await started(url)
        said, _ = await second.communicate()
    assert second.returncode == 0
    lines = said.splitlines()
    assert lines[-1] == b"done"
    assert 0 < lines.count(b"step") < INSTANCES * each, "what had a result ran again"
    async with Client.open(f"{url}?read_only=true") as client:
        assert await activities_recorded(client, "payload-") == INSTANCES * each
