"""`nodes`, `shards`, `scale`, and the health port and the end of a served node."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invocation import Cli
from postgres_server import server_url
from postgres_stores import FreshStore, Schemas, administrator

from perdure import App, Client
from perdure.cluster.postgres import PostgresCluster
from perdure.cluster.sqlite import SQLiteCluster
from perdure.ports.cluster import Load, Member, QueueLoad
from perdure.ports.store import Incarnation

PROGRAM = "from perdure.cli import main; main()"
LEASE_MS = 10_000


def member(name: str, **more: Any) -> Member:
    return Member(incarnation=Incarnation(name, f"{name}-life-1"), lease_ms=LEASE_MS, **more)


@pytest.fixture
def schema() -> Iterator[str]:
    schemas = Schemas()
    yield schemas.take()
    schemas.give_back()


@pytest.fixture
def url(schema: str) -> str:
    return f"{server_url()}?schema={schema}"


async def populate(schema: str) -> None:
    """A store with three members, of which one leaves and one is dead, and a scope of a fourth."""
    async with FreshStore(schema, 12) as store:
        async with PostgresCluster(server_url(), schema, has_session=False) as cluster:
            for standing in await cluster.standings():
                await cluster.leave(standing.seen.member.incarnation)
            one = member("checkout-of-the-north-eu-1", address="10.0.0.1:7000", release="0.2.0")
            two = member("b", weight=0, groups=("default", "gpu"), started_at=1_000)
            three = member("c")
            for each in (one, two, three):
                await cluster.join(each)
            await cluster.renew(one, Load(10, 3, 1, {"gpu": QueueLoad(2, 1, 1)}))
            leaving = member("b", weight=0, groups=("default", "gpu"), state="leaving")
            await cluster.renew(leaving, Load(5, 0, 0))
        await store.claim([f"default/{number}" for number in range(8)], one.incarnation)
        await store.claim(["default/8"], three.incarnation)
        await store.claim(["default/9", "default/10"], Incarnation("d", "d-life-1"))
    async with administrator(schema) as connection:
        await connection.execute(
            "UPDATE members SET heard_at = clock_timestamp() - interval '1 minute' WHERE node = 'c'"
        )


def test_nodes_are_shown_with_what_they_own_and_whether_they_live(
    cli: Cli, schema: str, url: str
) -> None:
    asyncio.run(populate(schema))
    lines = cli("nodes", "--store", url, "--json").json["nodes"]
    assert [(one["node"], one["state"], one["scopes"]) for one in lines] == [
        ("b", "leaving", 0),
        ("c", "dead", 1),
        ("checkout-of-the-north-eu-1", "serving", 8),
        ("d", "gone", 2),
    ]
    b, c, checkout, d = lines
    assert (checkout["busy"], checkout["slots"], checkout["waiting"]) == (3, 10, 1)
    assert (checkout["address"], checkout["release"]) == ("10.0.0.1:7000", "0.2.0")
    assert checkout["id"] == "checkout-of-the-north-eu-1-life-1"
    assert 0 <= checkout["silent_ms"] < LEASE_MS < 60_000 <= c["silent_ms"]
    assert (b["groups"], b["weight"], c["busy"]) == (["default", "gpu"], 0, None)
    assert (d["lease_ms"], d["silent_ms"]) == (None, None)
    for columns in (0, 40, 60, 80, 120, 200):
        shown = cli("nodes", "--store", url, columns=columns).stdout
        for text in ("checkout-of-the-north-eu-1-life-1", "10.0.0.1:7000", "default,gpu", "3/10"):
            assert text in shown, shown
        if columns:
            assert max(map(len, shown.splitlines())) <= columns


def test_an_instance_whose_group_no_living_node_serves_says_so(
    cli: Cli, schema: str, url: str
) -> None:
    asyncio.run(populate(schema))

    async def post() -> None:
        app = App("groups")

        @app.workflow(group="billing")
        async def bill() -> None: ...

        @app.workflow(group="gpu")
        async def render() -> None: ...

        async with Client.open(url) as client:
            await client.workflow(bill, id="bill").start()
            await client.workflow(render, id="render").start()

    asyncio.run(post())
    note = "no living node serves group 'billing'; it waits until one does"
    assert cli("show", "bill", "--store", url, "--json").json["unserved"] == note
    assert note in cli("show", "bill", "--store", url, columns=200).stdout
    # The only node of this group is about to leave, and lives.
    assert cli("show", "render", "--store", url, "--json").json["unserved"] is None

    async def silence() -> None:
        async with administrator(schema) as connection:
            await connection.execute(
                "UPDATE members SET heard_at = clock_timestamp() - interval '1 minute'"
            )

    asyncio.run(silence())
    assert cli("show", "render", "--store", url, "--json").json["unserved"] is not None


def test_shards_are_shown_with_their_owners(cli: Cli, schema: str, url: str) -> None:
    asyncio.run(populate(schema))
    found = cli("shards", "--store", url, "--json").json["shards"]
    names = [f"default/{number}" for number in range(11)]
    assert [one["scope"] for one in found] == names, "2 comes before 10"
    assert [one["node"] for one in found][-3:] == ["c", "d", "d"]
    assert {one["epoch"] for one in found} == {1}
    for columns in (40, 80, 200):
        shown = cli("shards", "--store", url, columns=columns).stdout
        assert "checkout-of-the-north-eu-1-life-1" in shown


def test_the_scale_counts_living_nodes_once(cli: Cli, schema: str, url: str) -> None:
    asyncio.run(populate(schema))
    for _ in range(2):
        assert cli("start", "shop.py:double", "[1]", "--store", url).code == 0
    found = cli("scale", "--store", url, "--json").json
    assert (found["instances"], found["attempts"], found["backlog"]) == (2, 1, 3)
    assert (found["busy"], found["slots"], found["load"], found["living"]) == (3, 15, 6, 2)
    assert found["queues"] == {
        "gpu": {"backlog": 1, "busy": 1, "slots": 2, "oldest_ms": 0, "load": 2}
    }
    may_stop = {one["node"]: (one["state"], one["may_stop"]) for one in found["nodes"]}
    assert may_stop == {
        "b": ("leaving", True),
        "c": ("dead", False),
        "checkout-of-the-north-eu-1": ("serving", False),
    }
    shown = cli("scale", "--store", url).stdout
    assert shown.startswith("backlog 3: 2 instances without a node, 0 tasks without a worker")
    assert "busy 3 of 15 slots on 2 living nodes" in shown


def test_a_store_that_no_node_has_opened_is_left_alone(cli: Cli, schema: str, url: str) -> None:
    async def make() -> None:
        async with FreshStore(schema, 4):
            pass
        async with administrator(schema) as connection:
            await connection.execute("DROP TABLE IF EXISTS members, member_revisions CASCADE")
            await connection.execute("DROP SEQUENCE IF EXISTS member_locks")

    asyncio.run(make())
    assert cli("nodes", "--store", url).stdout.startswith("no node has this store open")
    assert cli("nodes", "--store", url, "--json").json == {"nodes": []}
    assert cli("shards", "--store", url).stdout.startswith("no scope of this store was ever")
    assert cli("scale", "--store", url, "--json").json["living"] == 0

    async def is_there() -> object:
        async with administrator(schema) as connection:
            return await connection.fetchval("SELECT to_regclass('members')")

    assert asyncio.run(is_there()) is None, "looking makes no table"


def test_a_cluster_in_a_file_is_named(cli: Cli, folder: Path) -> None:
    async def join() -> None:
        async with SQLiteCluster(str(folder / "cluster.db")) as cluster:
            await cluster.join(member("a"))

    asyncio.run(join())
    assert cli("run", "shop.py:double", "[1]").code == 0
    (line,) = cli("nodes", "--cluster", "sqlite:///cluster.db", "--json").json["nodes"]
    assert (line["node"], line["state"], line["scopes"]) == ("a", "serving", 0)
    assert cli("scale", "--cluster", "sqlite:///cluster.db", "--json").json["living"] == 1
    missing = cli("nodes", "--cluster", "sqlite:///nowhere.db")
    assert (missing.code, "there is no cluster file nowhere.db" in missing.stderr) == (5, True)
    assert not (folder / "nowhere.db").exists()
    for bad in ("cluster.db", "sqlite:///", "redis://x"):
        refused = cli("scale", "--cluster", bad)
        assert refused.code == 2
        assert "names no file of a cluster" in refused.stderr


# ---------------------------------------------------------------- processes


class Served:
    """A served node in a process of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "serve", *args, "--json"],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        found: dict[str, Any] = json.loads(line)
        return found

    def ended(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture
def serve(folder: Path) -> Iterator[Any]:
    started: list[Served] = []

    def start(*args: str) -> Served:
        started.append(Served(folder, *args))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def asked(address: str, path: str, method: str = "GET") -> tuple[int, Any]:
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_one_node_on_a_file_is_shown_while_it_lives(cli: Cli, serve: Any) -> None:
    served = serve("shop.py", "--name", "n-1")
    served.ready()
    (line,) = cli("nodes", "--json").json["nodes"]
    assert (line["node"], line["state"], line["scopes"]) == ("n-1", "serving", 1)
    assert cli("scale", "--json").json["backlog"] == 0
    served.process.kill()
    served.process.wait()
    (line,) = cli("nodes", "--json").json["nodes"]
    assert (line["node"], line["state"]) == ("n-1", "gone")


def test_a_served_node_answers_probes_and_drains(cli: Cli, serve: Any) -> None:
    served = serve("shop.py", "--health", "127.0.0.1:0")
    address = served.ready()["health"]
    assert asked(address, "/healthz")[0] == asked(address, "/readyz")[0] == 200
    status, scale = asked(address, "/scale")
    assert (status, scale["living"], scale["slots"]) == (200, 1, 1_000)
    assert asked(address, "/scale/a%2Fb%20c")[1] == {
        "backlog": 0,
        "busy": 0,
        "slots": 0,
        "oldest_ms": 0,
        "load": 0,
    }
    assert asked(address, "/drain")[0] == 405
    assert asked(address, "/drain", "POST")[0] == 202
    code, errors = served.ended()
    assert code == 0, errors
    assert f"health port: http://{address}" in errors


def test_a_signal_behind_a_drain_is_the_first_one(cli: Cli, serve: Any) -> None:
    # Kubernetes sends SIGTERM behind a preStop hook that has asked for the drain.
    cli("start", "shop.py:forever", "--id", "f")
    served = serve("shop.py", "--health", "127.0.0.1:0", "--grace", "2")
    address = served.ready()["health"]
    deadline = time.monotonic() + 30
    while asked(address, "/scale")[1]["busy"] == 0:
        assert time.monotonic() < deadline, "the activity did not begin"
    assert asked(address, "/drain", "POST")[0] == 202
    status, ready = asked(address, "/readyz")
    assert (status, ready["why_not"]) == (503, ["it is draining"])
    served.process.send_signal(signal.SIGTERM)
    code, errors = served.ended()
    assert code == 0, errors


def test_a_bad_health_port_is_refused_before_anything_runs(
    cli: Cli, serve: Any, folder: Path
) -> None:
    first = serve("shop.py", "--health", "127.0.0.1:0")
    address = first.ready()["health"]
    taken = cli("serve", "shop.py", "--store", "sqlite:///other.db", "--health", address)
    assert taken.code == 2
    assert f"the health port cannot listen on {address}" in taken.stderr
    assert not (folder / "other.db").exists()
    assert cli("serve", "shop.py", "--health", "8080").code == 2


def test_a_signal_during_the_start_ends_it(cli: Cli, serve: Any) -> None:
    first = serve("shop.py")
    pid = first.ready()["pid"]
    standby = serve(
        "shop.py", "--store", "sqlite:///perdure.db?standby=true", "--health", "127.0.0.1:0"
    )
    address = ""
    for line in standby.process.stderr:
        if line.startswith("health port: http://"):
            address = line.strip().removeprefix("health port: http://")
        if f"is owned by process {pid}" in line:
            break
    assert asked(address, "/healthz")[0] == 200
    assert asked(address, "/readyz") == (503, asked(address, "/readyz")[1])
    assert asked(address, "/readyz")[1]["why_not"] == ["it starts"]
    assert asked(address, "/scale")[0] == 503
    standby.process.send_signal(signal.SIGTERM)
    code, errors = standby.ended()
    assert code == 0, errors


def test_a_job_ends_when_nothing_is_left(cli: Cli, serve: Any) -> None:
    for number in range(20):
        cli("start", "shop.py:countdown", "[3]", "--id", f"c-{number}")
    cli("start", "shop.py:approval", '["o"]', "--id", "waits")
    cli("send", "waits", "other", "true")  # kept for ever: nobody waits for it
    cli("start", "shop.py:double", "--id", "later", "--delay", "1h")
    served = serve("shop.py", "--until-idle=0.5")
    served.ready()
    code, errors = served.ended()
    assert code == 0, errors
    assert "stopping: nothing was to be done for 0.5 s" in errors
    statuses = {one["id"]: one["status"] for one in cli("ls", "--json").json["instances"]}
    assert {statuses[f"c-{number}"] for number in range(20)} == {"completed"}
    assert statuses["waits"] == "running"


def test_a_job_waits_for_what_runs_and_for_timers_that_are_near(
    cli: Cli, serve: Any, folder: Path
) -> None:
    (folder / "naps.py").write_text(NAPS)
    cli("start", "naps.py:naps", "[1.0]", "--id", "n")
    cli("start", "naps.py:works", "[1.5]", "--id", "w")
    served = serve("naps.py", "--until-idle=2")
    served.ready()
    code, errors = served.ended()
    assert code == 0, errors
    assert {one["status"] for one in cli("ls", "--json").json["instances"]} == {"completed"}


NAPS = """
import asyncio
from perdure import App

app = App("naps")


@app.activity
async def work(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.workflow
async def works(seconds: float) -> None:
    await work(seconds)


@app.workflow
async def naps(seconds: float) -> None:
    for _ in range(3):
        await asyncio.sleep(seconds)
"""


def test_the_time_of_a_job_may_be_left_out(cli: Cli) -> None:
    from perdure.cli.idling import with_idle_time

    assert with_idle_time(["serve", "a.py", "--until-idle", "--live"]) == [
        "serve",
        "a.py",
        "--until-idle=10",
        "--live",
    ]
    assert with_idle_time(["--until-idle=3", "--", "--until-idle"]) == [
        "--until-idle=3",
        "--",
        "--until-idle",
    ]
    assert cli("serve", "shop.py", "--until-idle=0").code == 2
    assert cli("serve", "shop.py", "--until-idle=soon").code == 2


def test_a_job_does_not_leave_the_work_of_a_member_that_may_be_dead(
    cli: Cli, serve: Any, schema: str, url: str
) -> None:
    async def join() -> None:
        async with FreshStore(schema, 4) as store:
            async with PostgresCluster(server_url(), schema, has_session=False) as cluster:
                for standing in await cluster.standings():
                    await cluster.leave(standing.seen.member.incarnation)
                dead = Member(incarnation=Incarnation("dead", "dead-1"), lease_ms=3_000)
                await cluster.join(dead)
            await store.claim([f"default/{number}" for number in range(4)], dead.incarnation)

    asyncio.run(join())
    cli("start", "shop.py:double", "[4]", "--store", url, "--id", "d")
    served = serve("shop.py", "--store", url, "--until-idle=0.3")
    served.ready()
    code, errors = served.ended()
    assert code == 0, errors
    assert "node dead has not renewed its lease" in errors
    found = cli("show", "d", "--store", url, "--json")
    assert (found.json["status"], found.json["result"]) == ("completed", 8), errors
