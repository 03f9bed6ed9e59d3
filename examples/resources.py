"""Resources: a connection is made when the node starts, shared by all activities, and closed when the node stops."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator

from perdure import App, activity

app = App("resources")
events: list[str] = []


@app.resources
async def database() -> AsyncIterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE users (name TEXT)")
    events.append("opened")
    yield connection
    connection.close()
    events.append("closed")


@app.activity
async def add(name: str) -> int:
    users = activity.resources(sqlite3.Connection)
    users.execute("INSERT INTO users VALUES (?)", (name,))
    return int(users.execute("SELECT count(*) FROM users").fetchone()[0])


@app.workflow
async def register(names: list[str]) -> int:
    return max([await add(name) for name in names])


async def main() -> None:
    events.clear()
    async with app.node("memory://") as node:
        count = await node.client.workflow(register, id="register-1").run(["Ada", "Grace"])
        assert events == ["opened"]
    assert events == ["opened", "closed"]
    assert count == 2
    print(count, "users;", events)


if __name__ == "__main__":
    asyncio.run(main())
