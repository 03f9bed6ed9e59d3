"""Payload instances on a file: `python payloads.py URL COUNT`. It says `step` for each activity that it begins, and
`done` when all instances have ended with the right result. Started again on the same file, it goes on.
"""

from __future__ import annotations

import asyncio
import sys

from perdure import Interceptor
from perdure.bench.shapes import Payload, app
from perdure.interceptor import ActivityInfo, NextActivity

SHAPE = Payload(outstanding=1, results=((2, 10), (2, 50), (2, 100)), children=2, activities=3)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Saying(Interceptor):
    async def activity(self, info: ActivityInfo, next: NextActivity) -> object:
        say("step")
        return await next()


async def main(url: str, count: int) -> None:
    calls = {f"payload-{number}": SHAPE.call(number) for number in range(count)}
    async with app.node(url, interceptors=[Saying()]) as node:
        runs = [
            node.client.workflow(c.workflow, id=name).run(*c.arguments) for name, c in calls.items()
        ]
        results = await asyncio.gather(*runs)
    assert results == [call.expected for call in calls.values()]
    say("done")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
