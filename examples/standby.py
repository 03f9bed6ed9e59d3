"""A standby: a second node waits for the file, and takes over at once when the process that owns it is killed."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from perdure import App, Client, workflow

app = App("standby")


@app.workflow
async def patient() -> str:
    return await workflow.receive("word", str)


async def owner(url: str) -> None:
    async with app.node(url) as node:
        await node.client.workflow(patient, id="patient-1").start()
        print("ready", flush=True)
        await asyncio.Event().wait()


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'shared.db'}"
        first = await asyncio.create_subprocess_exec(
            sys.executable, __file__, url, stdout=asyncio.subprocess.PIPE
        )
        assert first.stdout is not None
        assert await first.stdout.readline() == b"ready\n"

        second = app.node(f"{url}?standby=true")
        starting = asyncio.create_task(second.start())  # returns when the file is ours
        async with Client.open(url) as client:
            await client.get("patient-1").pause()  # the first one is at work
        assert not starting.done()
        first.kill()
        await first.wait()
        await asyncio.wait_for(starting, 5)
        patient_1 = second.client.get("patient-1")
        await patient_1.resume()
        await patient_1.send("word", "hello")
        print(
            "process", first.pid, "began it, this one ended it:", await patient_1.result(timeout=5)
        )
        await second.stop()


if __name__ == "__main__":
    asyncio.run(owner(sys.argv[1]) if len(sys.argv) > 1 else main())
