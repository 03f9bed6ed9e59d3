"""`ls`, `show`, `history`, `wait`: what another process sees in a store, with a node or without."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from invocation import Cli

from perdure import Client

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


def test_ls_of_an_empty_store_mentions_what_waits(cli: Cli) -> None:
    cli("send", "nobody", "go", "1")
    cli("start", "double", "--id", "d")
    ended = cli("ls", "--status", "completed")
    assert (ended.code, ended.stdout) == (0, "")
    assert "no instances; 1 message waits for a node: perdure serve" in ended.stderr


def test_a_posted_start_is_seen_everywhere(cli: Cli) -> None:
    cli("start", "double", "[3]", "--id", "d-1")
    cli("start", "double", "--id", "d-2")
    for chosen in ((), ("--status", "pending"), ("--type", "double"), ("--prefix", "d-")):
        rows = cli("ls", *chosen).stdout.splitlines()[1:]
        assert sorted(row.split()[0] for row in rows) == ["d-1", "d-2"]
        assert "pending" in rows[0]
        assert rows[0].endswith("posted: no node has taken it")
        assert set(ids(cli, *chosen)) == {"d-1", "d-2"}
    for other in (("--status", "running"), ("--type", "x"), ("--prefix", "e"), ("--reason", "x")):
        assert ids(cli, *other) == []
    assert ids(cli, "--limit", "1") == ["d-2"]
    shown = cli("show", "d-1")
    assert shown.code == 0
    assert (
        "pending (posted: no node has taken it yet; run one with `perdure serve`)" in shown.stdout
    )
    assert cli("show", "d-1", "--json").json["reason"] == "posted"

    async def seen() -> set[tuple[str, str, str | None]]:
        async with Client.open("sqlite:///perdure.db") as client:
            listed = await client.list(status="pending")
            return {(one.id, one.status, one.reason) for one in listed}

    assert asyncio.run(seen()) == {(name, "pending", "posted") for name in ("d-1", "d-2")}
    cli("run", "shop.py:double", "--id", "d-3", "-q")  # a node takes all of them
    assert ids(cli, "--reason", "posted") == []
    assert set(ids(cli)) == {"d-1", "d-2", "d-3"}


@pytest.mark.usefixtures("store")
def test_a_wait_under_a_deadline_is_shown_as_what_it_is(cli: Cli) -> None:
    row = next(line for line in cli("ls").stdout.splitlines() if line.startswith("open-1"))
    assert re.search(r"message approved, timer in 23h 59m$", row)
    assert set(ids(cli, "--reason", "message approved")) == {"open-1", "open-2"}
    text = cli("show", "open-1").stdout
    assert re.search(r"^waits for +timer 1d, until \S+Z, in 23h 59m *$", text, re.MULTILINE)
    assert re.search(r"^ +message approved *$", text, re.MULTILINE)


@pytest.mark.usefixtures("store")
def test_show_has_the_inbox(cli: Cli) -> None:
    cli("send", "open-1", "aproved", "true")
    for number in range(12):
        cli("send", "open-2", "approved", f'{{"n": {number}}}')
    text = cli("show", "open-1").stdout
    assert re.search(r"^inbox +aproved true, \S+ \S+ ago *$", text, re.MULTILINE)
    text = cli("show", "open-2").stdout
    assert text.count("approved {") == 10
    assert "and 2 others" in text
    inbox = cli("show", "open-2", "--json").json["inbox"]
    assert [one["value"] for one in inbox] == [{"n": number} for number in range(12)]
    assert {(one["kind"], one["channel"], one["sender"]) for one in inbox} == {
        ("Send", "approved", None)
    }


@pytest.mark.usefixtures("store")
def test_send_doubts_a_channel_that_the_code_has_not_used(cli: Cli) -> None:
    wrong = cli("send", "open-1", "aproved", "true")
    assert wrong.code == 0
    assert wrong.stderr == (
        "'open-1' waits for a message of 'approved', and has not used 'aproved' so far; "
        "the message is kept until it does. A typing error?\n"
    )
    assert cli("send", "open-1", "approved", "true").stderr == ""
    assert cli("send", "stuck-1", "whatever", "true").stderr == ""


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
    assert "'open-1' has not ended within 0.01 s; it is running (message approved)" in late.stderr


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


FAN_OUT = """
import asyncio
from perdure import App, RetryPolicy

app = App("fan")

@app.activity(retry=RetryPolicy(maximum_attempts=3, initial_interval=0.001))
async def fetch(name: str, pages: int) -> str:
    if name == "b":
        raise ValueError("no file b")
    return name

@app.activity
async def note() -> None:
    pass

@app.workflow
async def fan() -> None:
    await note()
    await asyncio.gather(*(fetch(name, 20) for name in ("a", "b")))

@app.workflow
async def bad_result() -> str:
    return object()
"""


def test_calls_of_one_name_are_told_apart_by_their_arguments(cli: Cli, folder: Path) -> None:
    (folder / "fan.py").write_text(FAN_OUT)
    cli("run", "fan.py:fan", "--id", "f", "-q")
    text = cli("show", "f").stdout
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("activity")}
    assert set(rows) == {"note", 'fetch("a",', 'fetch("b",'}
    assert 'fetch("b", 20)' in rows['fetch("b",']
    assert re.search(r" 3  ✗ failed", rows['fetch("b",'])
    inputs = {step["name"]: step["input"] for step in cli("show", "f", "--json").json["steps"]}
    assert inputs["note"] == []


def test_a_failure_is_told_once_with_the_frames_of_the_user(cli: Cli, folder: Path) -> None:
    (folder / "fan.py").write_text(FAN_OUT)
    cli("run", "fan.py:fan", "--id", "f", "-q")
    facts, _ = cli("show", "f").stdout.split("\nkind ")
    assert facts.count("no file b") == 2  # the sentence, and the line of the code that raised it
    assert "caused by" not in facts
    assert re.search(r'fan.py", +line 10, in fetch', " ".join(facts.split()))
    cli("run", "fan.py:bad_result", "--id", "r", "-q")
    for name in ("f", "r"):
        shown = "".join(cli("show", name).stdout.split())
        assert "perdure/kernel" not in shown
        assert "perdure/codec" not in shown


@pytest.mark.usefixtures("store")
def test_a_list_that_is_watched(folder: Path) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "perdure", "ls", "--watch", "--status", "pending"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    try:
        assert watching.stderr is not None
        assert watching.stdout is not None
        assert watching.stderr.readline().startswith("nothing fits these filters")
        start = [sys.executable, "-m", "perdure", "start", "double", "--id", "late"]
        subprocess.run(start, cwd=folder, check=True, capture_output=True)
        assert watching.stdout.readline().split()[0] == "id"
        assert watching.stdout.readline().split()[0] == "late"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0
    finally:
        watching.kill()
        watching.communicate()


def test_a_watched_list_is_no_document(cli: Cli) -> None:
    for other in (("--json",), ("--limit", "0")):
        ended = cli("ls", "--watch", *other)
        assert ended.code == 2
        assert "--watch goes with neither --json nor --limit 0" in ended.stderr
