"""`ls`, `show`, `history`, `wait`: what another process sees in a store, with a node or without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from invocation import Cli

INSTANCES = (
    ("checkout", '[{"card": "c"}]', "done-1", 0),
    ("approval", '["o"]', "open-1", 4),
    ("approval", '["o"]', "open-2", 4),
    ("broken", "[]", "bad-1", 1),
    ("stuck", "[]", "stuck-1", 7),
    ("countdown", "[2]", "count-1", 0),
)
made: dict[str, bytes] = {}


@pytest.fixture
def store(cli: Cli, folder: Path) -> None:
    """A store with one instance in each state that a node leaves behind; made once, then copied."""
    if not made:
        for workflow, arguments, name, code in INSTANCES:
            waiting = ["--timeout", "0"] if code == 4 else []
            assert (
                cli("run", f"shop.py:{workflow}", arguments, "--id", name, "-q", *waiting).code
                == code
            )
        made.update({file.name: file.read_bytes() for file in folder.glob("perdure.db*")})
    for name, content in made.items():
        (folder / name).write_bytes(content)


def ids(cli: Cli, *args: str) -> list[str]:
    return [one["id"] for one in cli("ls", "--json", *args).json["instances"]]


@pytest.mark.usefixtures("store")
def test_ls_filters(cli: Cli) -> None:
    assert ids(cli, "--status", "failed") == ["bad-1"]
    assert set(ids(cli, "--status", "running")) == {"open-1", "open-2"}
    assert set(ids(cli, "--status", "failed", "--status", "suspended")) == {"bad-1", "stuck-1"}
    assert ids(cli, "--type", "stuck") == ["stuck-1"]
    assert ids(cli, "--type", "stuck", "--version", "1") == ["stuck-1"]
    assert ids(cli, "--type", "stuck", "--version", "2") == []
    assert ids(cli, "--reason", "stuck") == ["stuck-1"]
    assert set(ids(cli, "--prefix", "open-")) == {"open-1", "open-2"}
    [child] = ids(cli, "--parent", "done-1")
    assert re.fullmatch(r"done-1/[0-9a-f]{8}\.1\.2", child)


@pytest.mark.usefixtures("store")
def test_ls_pages(cli: Cli) -> None:
    everything = ids(cli, "--limit", "0")
    assert len(everything) == len(set(everything)) >= 7
    pages: list[str] = []
    after: list[str] = []
    while True:
        page = cli("ls", "--json", "--limit", "3", *after).json
        pages += [one["id"] for one in page["instances"]]
        if page["next"] is None:
            break
        after = ["--after", page["next"]]
    assert pages == everything
    assert "--after" in cli("ls", "--limit", "3").stderr


@pytest.mark.usefixtures("store")
def test_ls_for_people(cli: Cli) -> None:
    ended = cli("ls")
    rows = {line.split()[0]: line for line in ended.stdout.splitlines()}
    assert rows["bad-1"].split()[1:4] == ["broken", "1.0.0", "failed"]
    assert "ValueError: no stock is left" in rows["bad-1"]
    assert "stuck: 'stuck-1' waits at" in rows["stuck-1"]
    assert "\x1b" not in ended.stdout
    assert "nothing fits these filters" in cli("ls", "--prefix", "zzz").stderr


@pytest.mark.usefixtures("store")
def test_ls_on_a_terminal_cuts_the_reason_and_no_id(cli: Cli) -> None:
    screen = cli("ls", columns=80).stdout.splitlines()
    assert max(map(len, screen)) <= 80
    assert screen[0].split() == ["id", "workflow", "version", "status", "age", "changed", "why"]
    rows = {line.split()[0]: line for line in screen[1:]}
    assert {name for _, _, name, _ in INSTANCES} <= set(rows)
    assert rows["bad-1"].split()[1:4] == ["broken", "1.0.0", "failed"]
    assert "  ValueError: " in rows["bad-1"]
    assert rows["stuck-1"].rstrip().endswith("…")


def test_ls_on_a_terminal_folds_an_id_that_is_too_long(cli: Cli) -> None:
    name = "order-" + "0123456789" * 8
    assert cli("run", "shop.py:broken", "--id", name, "-q").code == 1
    first, *rest = cli("ls", columns=80).stdout.splitlines()[1:]
    assert first.split()[1:4] == ["broken", "1.0.0", "failed"]
    assert "".join(line.split()[0] for line in (first, *rest)) == name


def test_ls_of_an_empty_store_mentions_what_waits(cli: Cli) -> None:
    cli("start", "double", "--id", "d")
    ended = cli("ls")
    assert (ended.code, ended.stdout) == (0, "")
    assert "no instances; 1 message waits for a node: perdure serve" in ended.stderr
    shown = cli("show", "d")
    assert shown.code == 3
    assert "'d' has been posted and has not begun" in shown.stderr


@pytest.mark.usefixtures("store")
def test_show_has_all_that_is_known(cli: Cli) -> None:
    shown = cli("show", "done-1", "--json").json
    assert shown["result"] == {"paid": "c-100", "packed": "HAT", "token": "t"}
    assert shown["custom_status"] == {"phase": "paying"}
    assert shown["kv"] == {"card": "c"}
    assert [(s["kind"], s["name"], s["outcome"], s["attempts"]) for s in shown["steps"]] == [
        ("activity", "charge", "completed", 2),
        ("child", "pack", "completed", 1),
        ("timer", "cool down", "completed", 1),
        ("checkpoint", "token", "completed", 1),
    ]
    text = cli("show", "done-1").stdout
    for part in (
        'input       [{"card":"c","cents":100}]',
        'set status  {"phase":"paying"}',
        'kv card     "c"',
        "━",
    ):
        assert part in text


@pytest.mark.usefixtures("store")
def test_show_of_a_failure_has_its_traceback(cli: Cli) -> None:
    text = cli("show", "bad-1").stdout
    assert "ValueError: no stock" in text
    assert "shop.py" in text
    assert "in broken" in text


@pytest.mark.usefixtures("store")
def test_history_decodes_payloads(cli: Cli) -> None:
    events = cli("history", "done-1", "--json").json["events"]
    assert [e["number"] for e in events] == list(range(1, len(events) + 1))
    assert events[0]["event"] == "Started"
    assert events[0]["input"] == [{"card": "c", "cents": 100}]
    scheduled = next(e for e in events if e["event"] == "ActivityScheduled")
    assert (scheduled["name"], scheduled["input"]) == ("charge", ["c", 100])
    failed = next(e for e in events if e["event"] == "AttemptFailed")
    assert failed["failure"]["message"] == "the bank is away"
    text = cli("history", "done-1").stdout
    assert 'name=charge  input=["c",100]' in text
    assert "ConnectionError: the bank is away" in text


@pytest.mark.usefixtures("store")
def test_history_of_each_execution(cli: Cli) -> None:
    assert cli("show", "count-1", "--json").json["executions"] == [1, 2, 3]
    for number, left, last in (
        (1, 2, "ContinuedAsNew"),
        (2, 1, "ContinuedAsNew"),
        (3, 0, "Completed"),
    ):
        history = cli("history", "count-1", "--execution", str(number), "--json").json
        assert history["execution"] == number
        assert history["events"][0]["input"] == [left]
        assert history["events"][-1]["event"] == last
    assert cli("history", "count-1", "--json").json["execution"] == 3


@pytest.mark.usefixtures("store")
def test_wait_for_what_has_ended(cli: Cli) -> None:
    assert cli("wait", "done-1").json["paid"] == "c-100"
    ended = cli("wait", "bad-1", "--json")
    assert (ended.code, ended.json["status"]) == (1, "failed")
    assert cli("wait", "stuck-1").code == 7
    late = cli("wait", "open-1", "--timeout", "0.01")
    assert late.code == 4
    assert "'open-1' has not ended within 0.01 s; it is running (timer)" in late.stderr


@pytest.mark.usefixtures("store")
def test_reading_writes_nothing(cli: Cli, folder: Path) -> None:
    before = (folder / "perdure.db").read_bytes()
    for command in (["ls"], ["show", "done-1"], ["history", "done-1"], ["wait", "done-1"]):
        assert cli(*command).code == 0
    assert (folder / "perdure.db").read_bytes() == before


@pytest.mark.usefixtures("store")
def test_colours_only_for_a_terminal(cli: Cli) -> None:
    assert "\x1b[31m" in cli("ls", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[31m" not in cli("ls", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert "\x1b" not in cli("ls").stdout


def test_a_wait_for_what_no_node_has_taken_says_so(cli: Cli) -> None:
    cli("start", "double", "--id", "d")
    late = cli("wait", "d", "--timeout", "0.01")
    assert late.code == 4
    assert "'d' has not ended within 0.01 s; it has not begun: no node has taken it" in late.stderr


@pytest.mark.usefixtures("store")
def test_stats_counts(cli: Cli) -> None:
    stats = cli("stats", "--json").json
    assert stats["instances"]["running"] == 2
    assert stats["instances"]["suspended"] == 1
    assert stats["executions"] == sum(stats["instances"].values()) + 2
    assert stats["format"] == 3
    assert (stats["messages"], stats["queues"]) == (0, {})
    shown = cli("stats")
    assert shown.code == 0
    words = [line.split() for line in shown.stdout.splitlines()]
    assert ["running", "2"] in words
    assert ["executions", str(stats["executions"])] in words


@pytest.mark.usefixtures("store")
def test_ls_filters_by_time(cli: Cli) -> None:
    everything = ids(cli)
    assert ids(cli, "--created-after", "1h") == everything
    assert ids(cli, "--created-before", "1h") == []
    ended = ids(cli, "--ended-after", "1h")
    assert set(everything) - set(ended) == {"open-1", "open-2", "stuck-1"}
    assert ids(cli, "--ended-before", "2020-01-31") == []
