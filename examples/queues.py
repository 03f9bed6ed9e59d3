"""A shared queue: two workers render frames, never more than three at once, and urgent ones first."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

from perdure import App, NodeOptions, activity

app = App("films")
app.queue("gpu", concurrency=3)

at_work: Counter[str] = Counter()


@app.activity(queue="gpu", heartbeat_timeout=10)
async def render(frame: int) -> int:
    at_work["now"] += 1
    at_work["most"] = max(at_work["most"], at_work["now"])
    activity.heartbeat({"frame": frame})
    await asyncio.sleep(0.01)
    at_work["now"] -= 1
    return frame


@app.workflow
async def film(frames: int) -> list[int]:
    urgent = render.with_options(priority=0)  # the poster, ahead of all that wait
    return list(await asyncio.gather(*(render(n) for n in range(frames)), urgent(1_000)))


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'films.db'}"
        owner = NodeOptions(serves=())  # it owns the instances, and renders nothing
        worker = NodeOptions(serves=("gpu",), worker_only=True)  # it renders, and owns nothing
        async with (
            app.node(url, options=owner) as node,
            app.node(url, options=worker),
            app.node(url, options=worker),
        ):
            frames = await node.client.workflow(film, id="film-1").run(20)
    assert frames == [*range(20), 1_000]
    assert at_work["most"] == 3
    print(f"{len(frames)} frames, at most {at_work['most']} at once")


if __name__ == "__main__":
    asyncio.run(main())
