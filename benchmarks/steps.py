"""The way of one message, in steps: `python -m benchmarks.steps [--show]`.

Sends a message to an instance in memory that waits for it, on a SQLite file, and counts what happens on the node's
thread until the sender has its answer: calls of Perdure's functions (a coroutine that goes on is one, too), stays in a
file, and returns to a file that was left before. The figures do not depend on how busy the machine is.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from types import FrameType

import perdure
from perdure import App, workflow

ROOT = str(Path(perdure.__file__).parent) + "/"

app = App("steps")
number = workflow.Channel[int]("number")


@app.workflow
async def adding(count: int) -> int:
    return sum([await number.receive() for _ in range(count)])


class Steps:
    """The calls between `begin` and `end`."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []
        self._stays: list[str] = []
        self._depth = 0

    def begin(self) -> None:
        sys.setprofile(self._note)

    def end(self) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(ROOT):
            return
        if event == "return":
            self._depth -= 1
        elif event == "call":
            file = code.co_filename.removeprefix(ROOT)
            self.calls.append((self._depth, f"{file}:{code.co_firstlineno} {code.co_name}"))
            self._depth += 1
            if not self._stays or self._stays[-1] != file:
                self._stays.append(file)

    @property
    def files(self) -> int:
        return len(set(self._stays))

    @property
    def returns(self) -> int:
        """How often the way comes back to a file that it has left."""
        return len(self._stays) - self.files


async def send() -> Steps:
    """The steps of one message, when all that is done once has been done."""
    steps = Steps()
    with tempfile.TemporaryDirectory() as folder:
        async with app.node(f"sqlite:///{folder}/steps.db") as node:
            handle = node.client.workflow(adding, id="one")
            await handle.start(100)
            for _ in range(5):
                await handle.send(number, 1)
            await asyncio.sleep(0.2)  # what follows an answer on the node's thread is over
            steps.begin()
            await handle.send(number, 1)
            steps.end()
    return steps


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--show", action="store_true", help="print each call, too")
    steps = asyncio.run(send())
    if arguments.parse_args().show:
        for depth, call in steps.calls:
            print("  " * depth + call)
    print(
        f"one send to an instance in memory: {len(steps.calls)} calls (at most 90), "
        f"{steps.files} files, {steps.returns} returns to a file already left (at most 15)"
    )


if __name__ == "__main__":
    main()
