"""`history --export` and `replay`: histories leave a store as files, and code is held against them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from invocation import SHOP, Cli

from perdure import Client


@pytest.fixture
def exported(cli: Cli, folder: Path) -> Path:
    """A folder with histories, made by the commands alone."""
    cli("run", "shop.py:checkout", '{"card": "4242"}', "--id", "o-1")
    cli("run", "shop.py:countdown", "2", "--id", "c-1")
    (folder / "histories").mkdir()
    for name, options in (("o-1", ()), ("c-1", ("--all",))):
        ended = cli("history", name, "--export", f"histories/{name}.json", *options)
        assert (ended.code, ended.stderr) == (0, "")
    return folder / "histories"


def test_an_export_says_what_it_wrote(cli: Cli, exported: Path) -> None:
    again = cli("history", "c-1", "--export", "c.json", "--all")
    assert again.stdout == "wrote the history of c-1 to c.json: 3 executions, 6 events\n"
    one = cli("history", "c-1", "--export", "c.json", "--json")
    assert one.json == {"id": "c-1", "file": "c.json", "executions": 1, "events": 2}
    assert Path("c.json").stat().st_size < (exported / "c-1.json").stat().st_size


def test_an_export_can_go_to_stdout(cli: Cli, exported: Path) -> None:
    ended = cli("history", "c-1", "--export", "-", "--all")
    assert ended.stdout == (exported / "c-1.json").read_text()
    assert not Path("-").exists()


def test_the_same_code_fits(cli: Cli, exported: Path) -> None:
    ended = cli("replay", "shop.py", "histories")
    assert ended.code == 0
    assert ended.stdout.splitlines()[0] == "fits     c-1 (countdown, completed): 6 events"
    assert ended.stdout.splitlines()[1].startswith("fits     o-1 (checkout, completed): ")
    assert ended.stderr.splitlines()[-1] == "2 of 2 histories fit the code"
    single = cli("replay", "shop.py:app", "histories/c-1.json", "--json")
    assert single.json == {
        "fit": [
            {
                "id": "c-1", "workflow": "countdown", "status": "completed", "executions": 3, "events": 6,
                "goes_on": [], "skipped": [],
            }
        ],
        "differ": [],
        "unread": [],
    }  # fmt: skip


def test_other_code_does_not(cli: Cli, exported: Path, folder: Path) -> None:
    (folder / "later.py").write_text(SHOP.replace("n - 1", "n - 2"))
    ended = cli("replay", "later.py", "histories/c-1.json", "histories/o-1.json")
    assert ended.code == 1
    first, second = ended.stdout.split("\nfits     ")
    assert first.startswith(
        "differs  histories/c-1.json: the history of 'c-1' (countdown 1.0.0, execution 1) does not fit"
    )
    assert "later.py:" in first
    assert "Remedy" in first
    assert second.startswith("o-1 ")
    assert ended.stderr.splitlines()[-1] == "1 of 2 histories fit the code"
    told = cli("replay", "later.py", "histories", "--json")
    assert told.code == 1
    assert [one["id"] for one in told.json["differ"]] == ["c-1"]


def test_what_is_open_in_the_store_is_replayed_before_a_deploy(cli: Cli, folder: Path) -> None:
    async def post() -> None:
        async with Client.open("sqlite:///perdure.db") as client:
            await client.workflow("approval", id="open").start("x", 1)

    asyncio.run(post())
    nothing = cli("replay", "shop.py")
    assert (nothing.code, nothing.stdout) == (0, "")
    assert "there is nothing to replay" in nothing.stderr
    cli("run", "shop.py:double", "--id", "d-1")  # its node takes up what waits, too
    ended = cli("replay", "shop.py")
    assert (ended.code, ended.stdout) == (0, "fits     open (approval, running): 3 events\n")
    assert ended.stderr.splitlines()[-1] == "1 of 1 history fits the code"
    assert cli("replay", "shop.py", "--status", "completed", "--type", "double").stdout.startswith(
        "fits     d-1 "
    )
    (folder / "later.py").write_text(
        SHOP.replace("async with asyncio.timeout(days * 86_400):", "if True:")
    )
    refused = cli("replay", "later.py")
    assert refused.code == 1
    assert refused.stdout.startswith(
        "differs  the history of 'open' (approval 1.0.0, execution 1) does not fit"
    )


def test_a_file_that_is_no_history_is_named_and_the_others_are_replayed(
    cli: Cli, exported: Path
) -> None:
    (exported / "rubbish.json").write_text("[]")
    ended = cli("replay", "shop.py", "histories")
    assert ended.code == 2
    assert "\nunread   histories/rubbish.json is no exported history" in ended.stdout
    assert ended.stderr.splitlines()[-1] == "2 of 3 histories fit the code"
    assert "rubbish.json" in cli("replay", "shop.py", "histories", "--json").json["unread"][0]


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        (["replay", "shop.py", "none.json"], 2, ""),
        (["replay", "shop.py", "empty"], 2, "the folder empty has no history in it"),
        (["replay", "none.py", "histories"], 2, "none.py"),
        (
            ["replay", "shop.py", "histories", "--type", "checkout"],
            2,
            "choose instances of a store",
        ),
        (["replay", "shop.py", "--status", "lost"], 2, "lost"),
        (["replay", "shop.py", "--store", "sqlite:///none.db"], 5, "there is no store"),
        (["replay", "shop.py", "--store", "memory://"], 2, "lives in the memory of one process"),
        (["history", "o-1", "--export", "x.json", "--execution", "1"], 2, "leave out --execution"),
        (["history", "o-1", "--all"], 2, "--all goes with --export"),
        (["history", "nobody", "--export", "x.json"], 3, "no instance has the id 'nobody'"),
        (["history", "o-1", "--export", "shop.py"], 2, "shop.py exists, and is not replaced"),
        (["history", "o-1", "--export", "no/x.json"], 2, "cannot write no/x.json"),
    ],
)
def test_bad_input_is_named(
    cli: Cli, exported: Path, command: list[str], code: int, why: str
) -> None:
    Path("empty").mkdir()
    ended = cli(*command)
    assert ended.code == code
    assert why in ended.stderr
    if command[-1] == "none.json":
        assert (
            "unread   cannot read the history none.json: No such file or directory" in ended.stdout
        )
    assert not Path("x.json").exists()
    assert not Path("none.db").exists()
