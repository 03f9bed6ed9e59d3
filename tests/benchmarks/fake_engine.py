"""An engine that keeps nothing on disk: enough to check what the workloads ask for and what they compute."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from benchmarks.engine import Calls, Result


class FakeEngine:
    """Runs the shapes as plain coroutines. A file keeps what was started, so that a second life can go on with it."""

    def __init__(self, *, wrong: bool = False, stall_after: int = sys.maxsize) -> None:
        self.calls = Calls()
        self.lost: list[str] = []
        self.result_concurrency = 50
        self.wrong = wrong
        self.stall_after = stall_after
        self.tasks: dict[str, asyncio.Task[object]] = {}
        self.messages: dict[str, asyncio.Future[str]] = {}
        self.opened = self.closed = 0
        self.file = Path()

    async def open(self, folder: Path) -> None:
        self.opened += 1
        self.file = folder / "started.json"
        if self.file.exists():
            for key, (shape, arguments) in json.loads(self.file.read_text()).items():
                self.create(shape, key, *arguments)

    async def close(self) -> None:
        self.closed += 1
        for task in self.tasks.values():
            task.cancel()

    def create(self, shape: str, id: str, *arguments: object) -> Result:
        self.tasks[id] = asyncio.create_task(self.work(shape, id, *arguments))
        return self.attach(shape, id)

    async def start(self, shape: str, id: str, *arguments: object) -> Result:
        known = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.file.write_text(json.dumps(known | {id: (shape, arguments)}))
        return self.create(shape, id, *arguments)

    async def run(self, shape: str, id: str, *arguments: object) -> object:
        return await (await self.start(shape, id, *arguments))()

    def attach(self, shape: str, id: str) -> Result:
        async def result() -> object:
            return await self.tasks[id]

        return result

    async def send(self, shape: str, id: str, value: str) -> None:
        self.message(id).set_result(value)

    def message(self, id: str) -> asyncio.Future[str]:
        return self.messages.setdefault(id, asyncio.get_running_loop().create_future())

    def about(self) -> dict[str, str]:
        return {"engine": "fake 1"}

    async def work(self, shape: str, id: str, *arguments: object) -> object:
        if shape == "nap":
            return "slept"
        if shape == "wait":
            return await self.message(id)
        n, payload = int(str(arguments[0])), str(arguments[1])
        for _ in range(n):
            self.calls.note(payload)
            if shape.startswith("slow"):
                await self.calls.pass_gate()
                if len(self.calls.payloads) > self.stall_after:
                    await asyncio.Event().wait()
            await asyncio.sleep(0)
        return n if shape in {"fan", "slow_fan"} else "nonsense" if self.wrong else payload
