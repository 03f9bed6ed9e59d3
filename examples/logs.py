"""Log formats of your own, and handlers of your own: each record knows its instance; replay is silent."""

from __future__ import annotations

import asyncio
import io
import json
import logging

from perdure import App, workflow

app = App("logs")
FIELDS = ("instance", "execution", "workflow")


class Compact(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        pairs = " ".join(f"{field}={getattr(record, field, '-')}" for field in FIELDS)
        return f"{record.levelname} {pairs} {record.getMessage()}"


class Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {field: getattr(record, field, None) for field in FIELDS}
        return json.dumps({"level": record.levelname, **line, "message": record.getMessage()})


PRETTY = logging.Formatter("{levelname:7} {instance}: {message}", style="{")


@app.workflow
async def noisy(name: str) -> str:
    workflow.logger.info("hello %s", name)
    return name


async def main() -> None:
    logger = logging.getLogger("perdure.workflow")
    logger.setLevel(logging.INFO)
    streams = [io.StringIO() for _ in range(3)]
    for stream, formatter in zip(streams, (PRETTY, Compact(), Json()), strict=True):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    async with app.node("memory://") as node:
        await node.client.workflow(noisy, id="noisy-1").run("world")
    logger.handlers.clear()
    pretty, compact, as_json = (stream.getvalue().strip() for stream in streams)
    assert pretty == "INFO    noisy-1: hello world"
    assert compact == "INFO instance=noisy-1 execution=1 workflow=noisy hello world"
    assert json.loads(as_json)["instance"] == "noisy-1"
    print(pretty, compact, as_json, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
