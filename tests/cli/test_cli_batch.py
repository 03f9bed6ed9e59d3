"""`perdure start --from`: one instance for each line of a file."""

from __future__ import annotations

import json
from pathlib import Path

from invocation import Cli, Ended


def write(*lines: object) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    Path("orders.jsonl").write_text(text + "\n", encoding="utf-8")


def told(ended: Ended) -> list[str]:
    """What the command said, and not the module."""
    return [line for line in ended.stderr.splitlines() if line.startswith("perdure:")]


def packs(count: int) -> list[object]:
    return [{"id": f"p-{n}", "arguments": [f"item {n}"]} for n in range(count)]


def test_each_line_is_started_once(cli: Cli) -> None:
    write(
        *packs(1_001),
        "",
        {"id": "by-name", "arguments": {"item": "x"}},
        {"id": "it", "arguments": "y"},
    )
    first = cli("start", "shop.py:pack", "--from", "orders.jsonl")
    assert (first.code, first.stdout) == (0, "started 1003, joined 0, failed 0\n")
    again = cli("start", "shop.py:pack", "--from", "orders.jsonl", "--json")
    assert (again.code, again.json) == (0, {"started": 0, "joined": 1_003, "failed": []})
    # Without a node they are listed and counted as what they are.
    listed = cli("ls", "--json", "--limit", "0").json["instances"]
    assert len(listed) == 1_003
    assert {(one["status"], one["reason"]) for one in listed} == {("pending", "posted")}
    assert cli("stats", "--json").json["starts"] == 1_003
    assert "posted starts" in cli("stats").stdout


def test_lines_that_are_wrong_are_told_and_do_not_stop_the_others(cli: Cli) -> None:
    write(
        {"id": "a", "arguments": ["x"]},
        "nonsense",
        {"id": "b", "arguments": {"itm": "x"}},
        {"id": "c", "arguments": ["x"], "dely": 1},
        {"id": "d", "arguments": ["x"], "delay": "soon"},
        {"id": "e\n", "arguments": ["x"]},
        {"arguments": ["x"]},
        {"id": "f", "arguments": ["x"], "delay": "1h", "attributes": {"city": "Berlin"}},
        {"id": "a", "arguments": ["y"]},
    )
    ended = cli("start", "shop.py:pack", "--from", "orders.jsonl", "--json")
    assert ended.code == 6
    assert ended.json["started"] == 2
    failed = [(one["line"], one["id"], one["error"]["type"]) for one in ended.json["failed"]]
    assert failed == [
        (2, None, "DecodeError"),
        (3, "b", "DecodeError"),
        (4, None, "DecodeError"),
        (5, "d", "DecodeError"),
        (6, "e\n", "InvalidId"),
        (7, None, "DecodeError"),
        (9, "a", "AlreadyStarted"),
    ]
    said = told(ended)
    assert len(said) == 7
    assert "line 3 (b)" in said[1]
    assert "argument 'item'" in said[1]
    assert "--if-exists 'replace'" in said[-1]
    [delayed] = [one for one in cli("ls", "--json").json["instances"] if one["id"] == "f"]
    assert delayed["status"] == "pending"


def test_many_failures_are_cut_short_for_people(cli: Cli) -> None:
    write(*["nonsense"] * 25)
    ended = cli("start", "shop.py:pack", "--from", "orders.jsonl")
    assert (ended.code, ended.stdout) == (6, "started 0, joined 0, failed 25\n")
    assert len(told(ended)) == 21
    assert "and 5 others" in ended.stderr


def test_a_bare_name_needs_no_code(cli: Cli) -> None:
    write({"id": "a", "arguments": ["x"]}, {"id": "b", "arguments": {"item": "x"}})
    ended = cli("start", "pack", "--from", "orders.jsonl")
    assert (ended.code, ended.stdout) == (6, "started 1, joined 0, failed 1\n")
    assert "FILE:NAME" in ended.stderr


def test_stdin_and_bytes_that_are_no_text(cli: Cli) -> None:
    line = '{"id": "a", "arguments": ["x"]}'
    piped = cli("start", "shop.py:pack", "--from", "-", stdin=line)
    assert piped.stdout == "started 1, joined 0, failed 0\n"
    Path("orders.jsonl").write_bytes(
        b'{"id": "b", "arguments": ["\xff"]}\n{"id": "c", "arguments": ["x"]}'
    )
    ended = cli("start", "shop.py:pack", "--from", "orders.jsonl")
    assert (ended.code, ended.stdout) == (6, "started 1, joined 0, failed 1\n")
    assert "line 1" in ended.stderr


def test_calls_that_are_wrong_record_nothing(cli: Cli) -> None:
    write(*packs(1))
    for extra in (("--id", "x"), ('["x"]',)):
        ended = cli("start", "shop.py:pack", *extra, "--from", "orders.jsonl")
        assert ended.code == 2
        assert "its own id and arguments" in ended.stderr
    missing = cli("start", "shop.py:pack", "--from", "nowhere.jsonl")
    assert missing.code == 2
    assert "nowhere.jsonl" in missing.stderr
    assert not Path("perdure.db").exists()
