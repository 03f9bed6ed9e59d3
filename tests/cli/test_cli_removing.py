"""`delete`, `prune` and `tree`: what goes, what stays, and who does it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from invocation import Cli

from perdure import App, Node
from perdure.kernel.data.commit import Commit, Verdict
from perdure.store import open_store
from perdure.testing.mishaps import PassingStore


@pytest.fixture
def waiting(cli: Cli) -> str:
    """The id of an instance that waits for a message."""
    cli("run", "shop.py:approval", '["o"]', "--id", "a", "--timeout", "0")
    return "a"


def ids(cli: Cli) -> list[str]:
    return sorted(row["id"] for row in cli("ls", "--json").json["instances"])


def test_one_that_has_ended_goes(cli: Cli) -> None:
    cli("run", "shop.py:double", "1", "--id", "d")
    assert cli("delete", "d").stdout == "deleted 1 instance\n"
    assert ids(cli) == []
    assert cli("delete", "d").code == 3
    assert cli("run", "shop.py:double", "4", "--id", "d").json == 8


def test_one_that_runs_stays_unless_forced(cli: Cli, waiting: str) -> None:
    refused = cli("delete", waiting)
    assert refused.code == 6
    remedy = "cancel it and wait for its end, or delete with --force (more: perdure explain StillRunning)"
    assert refused.stderr == f"perdure: 'a' is running; {remedy}\n"
    assert cli("show", waiting).code == 0
    assert cli("delete", waiting, "--force", "--json").json == {
        "deleted": ["a"], "instances": 1, "skipped": {}, "more": False,
    }  # fmt: skip
    assert cli("show", waiting).code == 3


def test_a_start_that_no_node_has_taken_goes(cli: Cli) -> None:
    cli("start", "shop.py:double", "1", "--id", "d")
    assert cli("delete", "d").code == 6
    assert cli("delete", "d", "--force").code == 0
    cli("run", "shop.py:double", "1", "--id", "other")
    assert ids(cli) == ["other"]


def test_what_is_left_alone_goes_on(cli: Cli, waiting: str) -> None:
    cli("run", "shop.py:double", "1", "--id", "d")
    cli("send", waiting, "approved", "true")
    cli("delete", "d")
    assert cli("show", waiting, "--json").json["status"] == "running"
    assert cli("run", "shop.py:approval", '["o"]', "--id", waiting).json is True


def test_by_filters_it_wants_a_yes_and_says_what_it_skipped(cli: Cli, waiting: str) -> None:
    cli("run", "shop.py:double", "1", "--id", "d-1")
    cli("run", "shop.py:double", "2", "--id", "d-2")
    asked = cli("delete", "--type", "double")
    assert (asked.code, "give --yes" in asked.stderr) == (2, True)
    assert (
        cli("delete", "--prefix", "d-", "--ended-before", "1h", "--yes").stdout
        == "deleted 0 instances\n"
    )
    assert (
        cli("delete", "--prefix", "d-", "--ended-before", "0s", "--yes").stdout
        == "deleted 2 instances\n"
    )
    some = cli("delete", waiting, "nobody")
    assert some.code == 6
    assert re.search(r"^a: 'a' is running; .* or delete with --force$", some.stderr, re.MULTILINE)
    assert "nobody: no instance fits" in some.stderr


def test_a_tree_is_drawn_and_goes_as_a_whole(cli: Cli) -> None:
    cli("run", "shop.py:checkout", '{"card": "x"}', "--id", "c")
    document = cli("tree", "c", "--json").json
    assert (document["id"], [child["type"] for child in document["children"]]) == ("c", ["pack"])
    child = document["children"][0]["id"]
    drawn = cli("tree", "c").stdout
    assert "c checkout completed" in drawn
    assert child in drawn
    refused = cli("delete", child)
    assert refused.code == 6
    assert "is a child of 'c'" in refused.stderr
    assert "delete the root of its tree, or use --force (" in refused.stderr
    assert cli("delete", "c").stdout == "deleted 2 instances\n"
    assert cli("tree", "c").code == 3


def test_ended_executions_are_pruned(cli: Cli) -> None:
    cli("run", "shop.py:countdown", "5", "--id", "c")
    assert cli("show", "c", "--json").json["executions"] == [1, 2, 3, 4, 5, 6]
    assert cli("prune", "c", "--keep-last", "2").stdout == "pruned 4 executions of 1 instance\n"
    assert cli("show", "c", "--json").json["executions"] == [5, 6]
    assert cli("prune", "--keep-last", "1", "--json").json == {"pruned": {"c": [5]}, "more": False}
    assert cli("prune", "nobody", "--keep-last", "1").code == 3


STEP_S = 0.3
PATIENCE_S = 2.1
MANY = 10
"""The whole takes longer than a client waits for one step, and each step is far within that."""


class Slow(PassingStore):
    """Writes one commit at a time, and each takes a while, once there is something to delete."""

    step_s = 0.0

    async def commit(self, batch: Sequence[Commit]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for commit in batch:
            await asyncio.sleep(self.step_s)
            verdicts += await super().commit([commit])
        return verdicts


@contextmanager
def slow_node(url: str) -> Iterator[None]:
    """A node in a thread, which has run instances `d-0` and so on, and then becomes slow."""
    app = App("slow")

    @app.workflow
    async def nothing() -> None: ...

    ready, over = threading.Event(), threading.Event()

    async def own() -> None:
        async with open_store(url) as opened:
            store = Slow(opened)
            async with Node(app, store) as node:
                for number in range(MANY):
                    await node.client.workflow(nothing, id=f"d-{number}").run()
                store.step_s = STEP_S
                ready.set()
                await asyncio.to_thread(over.wait)
                store.step_s = 0.0

    thread = threading.Thread(target=asyncio.run, args=(own(),))
    thread.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        over.set()
        thread.join()


def test_a_node_that_gets_on_is_waited_for_however_long_the_whole_takes(
    cli: Cli, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/slow.db"
    with slow_node(url):
        deleted = cli(
            "delete", "--type", "nothing", "--yes", "--store", url, "--timeout", str(PATIENCE_S)
        )
        assert deleted.code == 0, deleted.stderr
        assert deleted.stdout == f"deleted {MANY} instances\n"
        assert cli("ls", "--json", "--store", url).json["instances"] == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["delete"], "say what to delete"),
        (
            ["delete", "--ended-before", "soon", "--yes"],
            "--ended-before 'soon' is no time; give an age",
        ),
        (["delete", "--ended-before", "9999999999w", "--yes"], "is no time"),
        (["delete", "--type", "x", "--limit", "0", "--yes"], "--limit"),
        (["delete", "--status", "done", "--yes"], "done"),
        (["delete", "a\nb", "--force"], "control character"),
        (["prune"], "say which executions go"),
        (["prune", "--keep-last", "many"], "'--keep-last'"),
        (["prune", "--keep-last", "-1"], "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    cli: Cli, waiting: str, arguments: list[str], text: str
) -> None:
    refused = cli(*arguments)
    assert refused.code == 2
    assert text in " ".join(refused.stderr.split())
    assert ids(cli) == [waiting]


def test_a_store_that_is_not_there_is_not_made(cli: Cli, tmp_path) -> None:
    for command in (["delete", "x"], ["prune", "x", "--keep-last", "1"], ["tree", "x"]):
        refused = cli(*command, "--store", f"sqlite:///{tmp_path}/none.db")
        assert refused.code == 5
        assert "there is no store" in refused.stderr
    assert not (tmp_path / "none.db").exists()
