"""Tables on screens of 40 to 200 columns, as pictures of text: ids, names and statuses are whole on each of them."""

from __future__ import annotations

import asyncio
import io
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest
from invocation import SHOP, Cli
from rich.console import Console
from test_cli_letters import lose

from perdure import HistoryEvent
from perdure.cli.timeline import render
from perdure.errors import Failure
from perdure.kernel.data import events as ev

WIDTHS = (40, 50, 60, 72, 80, 100, 120, 160, 200)
T0 = 1_700_000_000_000
LONG = "checkout-of-the-order-4f57c0de-9f1b"
WAITS = "message approved, timer in 30 s"
LOSS = "no stock is left in any of the four warehouses of this country, says the clerk of the day"


@pytest.fixture
def store(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that failed and one that waits. Their ages stand still."""
    (folder / "shop.py").write_text(SHOP.replace("no stock\\nis left", LOSS))
    for workflow, arguments, name in (
        ("broken", "[]", "order-2"),
        ("broken", "[]", "order-3"),
        ("approval", '["o"]', LONG),
    ):
        cli("run", f"shop.py:{workflow}", arguments, "--id", name, "-q", "--timeout", "0")
    with closing(sqlite3.connect("perdure.db")) as connection:
        connection.execute("UPDATE units SET created_at = ?, updated_at = ?", (T0, T0 + 30_000))
        connection.execute("UPDATE units SET wake_at = ? WHERE id = ?", (T0 + 120_000, LONG))
        connection.commit()
    monkeypatch.setattr(time, "time_ns", lambda: (T0 + 90_000) * 1_000_000)


LISTS = {
    40: """
        id
          workflow  version  status      age
          changed
        order-3
          broken    1.0.0    failed   1m 30s
               1m
          ValueError: no stock is left in any o…
        order-2
          broken    1.0.0    failed   1m 30s
               1m
          ValueError: no stock is left in any o…
        checkout-of-the-order-4f57c0de-9f1b
          approval  1.0.0    running  1m 30s
               1m
          TIMER
        """,
    60: """
        id
          workflow  version  status      age  changed
        order-3
          broken    1.0.0    failed   1m 30s       1m
          ValueError: no stock is left in any of the four warehouse…
        order-2
          broken    1.0.0    failed   1m 30s       1m
          ValueError: no stock is left in any of the four warehouse…
        checkout-of-the-order-4f57c0de-9f1b
          approval  1.0.0    running  1m 30s       1m
          TIMER
        """,
    80: """
        id                                   workflow  version  status      age  changed
        order-3                              broken    1.0.0    failed   1m 30s       1m
          ValueError: no stock is left in any of the four warehouses of this country, s…
        order-2                              broken    1.0.0    failed   1m 30s       1m
          ValueError: no stock is left in any of the four warehouses of this country, s…
        checkout-of-the-order-4f57c0de-9f1b  approval  1.0.0    running  1m 30s       1m
          TIMER
        """,
}
WITHOUT_LONG = """
        id       workflow  version  status     age  changed  why
        order-3  broken    1.0.0    failed  1m 30s       1m  ValueError: no stock is left in any of the fou…
        order-2  broken    1.0.0    failed  1m 30s       1m  ValueError: no stock is left in any of the fou…
        """


def picture(text: str) -> str:
    return dedent(text).lstrip("\n")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("width", LISTS)
def test_ls_is_this_picture(cli: Cli, width: int) -> None:
    assert cli("ls", columns=width).stdout == picture(LISTS[width]).replace("TIMER", WAITS)


@pytest.mark.usefixtures("store")
def test_a_reason_shrinks_before_it_moves_below_its_row(cli: Cli) -> None:
    assert cli("ls", "--prefix", "order", columns=100).stdout == picture(WITHOUT_LONG)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("width", WIDTHS)
def test_ls_keeps_each_word_whole(cli: Cli, width: int) -> None:
    lines = cli("ls", columns=width).stdout.splitlines()
    words = " ".join(lines).split()
    expected = {"order-2": 1, "order-3": 1, LONG: 1, "broken": 2, "approval": 1, "failed": 2}
    assert {word: words.count(word) for word in expected} == expected
    assert words.count("running") == 1
    assert max(map(len, lines)) <= width


@pytest.mark.usefixtures("store")
def test_wide_and_a_pipe_cut_nothing(cli: Cli) -> None:
    for shown in (cli("ls", "--wide", columns=40), cli("ls")):
        header, *rows = shown.stdout.splitlines()
        assert header.split() == "id workflow version status age changed why".split()
        assert len(rows) == 3
        assert rows[0].endswith(LOSS)


def test_other_lists_keep_ids_whole(cli: Cli) -> None:
    name = "b" * 60
    asyncio.run(lose(name, "a"))
    for width in WIDTHS:
        assert name in cli("letters", "ls", columns=width).stdout
    assert len(cli("letters", "ls", "--wide", columns=40).stdout.splitlines()) == 3


# ---------------------------------------------------------------- timelines


AWAY = Failure(
    "ConnectionError", "the bank is away, and its sister in the next town is away as well, today"
)


def history(*events: ev.AnyEvent) -> list[HistoryEvent]:
    started = ev.Started(T0, "checkout", "1.0.0", b"\x01\x90", b"r" * 16, 1, "3.11")
    return [HistoryEvent(number, 1, event) for number, event in enumerate([started, *events], 1)]


STORY = history(
    ev.ActivityScheduled(1, "download_invoice_of_the_month", b"\x01\x90"),
    ev.ActivityFailed(1, T0 + 40_000, AWAY, 3),
    ev.CallStarted(2, f"{LONG}/1.2", "pack", None, b""),
    ev.Replied(2, T0 + 60_000, b"\x01\xc0"),
    ev.TimerStarted(3, T0 + 90_000),
)


def drawn(width: int, *, wide: bool = False) -> str:
    out = io.StringIO()
    timeline = render(STORY, now_ms=T0 + 80_000, wide=wide)
    Console(file=out, width=width).print(timeline, crop=False)
    return out.getvalue()


TIMELINES = {
    40: """
        kind      step
             at  took  tries  outcome
        activity  download_invoice_of_the_month
          +0 ms  40 s      3  ✗ failed
          ConnectionError: the bank is away, an…
        child     pack
          +40 s  20 s         ✓ completed
          checkout-of-the-order-4f57c0de-9f1b/1.
        2
        timer     30 s
            +1m  20 s         … open
        """,
    80: """
        kind      step                              at  took  tries  outcome
        activity  download_invoice_of_the_month  +0 ms  40 s      3  ✗ failed
          ConnectionError: the bank is away, and its sister in the next town is away as…
        child     pack                           +40 s  20 s         ✓ completed
          checkout-of-the-order-4f57c0de-9f1b/1.2
        timer     30 s                             +1m  20 s         … open
        """,
    100: """
        kind      step                                                          at  took  tries  outcome
        activity  download_invoice_of_the_month  ━━━━━━━━━━━━━               +0 ms  40 s      3  ✗ failed
          ConnectionError: the bank is away, and its sister in the next town is away as well, today
        child     pack                                        ━━━━━━         +40 s  20 s         ✓ completed
          checkout-of-the-order-4f57c0de-9f1b/1.2
        timer     30 s                                              ━━━━━━     +1m  20 s         … open
        """,
}


@pytest.mark.parametrize("width", TIMELINES)
def test_a_timeline_is_this_picture(width: int) -> None:
    assert drawn(width) == picture(TIMELINES[width])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_timeline_keeps_steps_times_and_outcomes(width: int) -> None:
    lines = drawn(width).splitlines()
    words = " ".join(lines).split()
    for word in ("activity", "download_invoice_of_the_month", "+0", "40", "✗", "failed", "pack"):
        assert word in words
    # An id is folded where not even a line of its own has room for it.
    assert f"{LONG}/1.2" in "".join(drawn(width).split())
    assert max(map(len, lines)) <= width


def test_a_wide_timeline_cuts_nothing() -> None:
    _, first, *_ = drawn(40, wide=True).splitlines()
    assert first.endswith(AWAY.message)


def test_codes_for_the_terminal_are_not_carried_out() -> None:
    failure = Failure("ValueError", "red \x1b[31m and \x07 loud")
    story = history(
        ev.ActivityScheduled(1, "charge", b"\x01\x90"), ev.ActivityFailed(1, T0, failure, 1)
    )
    out = io.StringIO()
    Console(file=out, width=200).print(render(story))
    assert "\x1b" not in out.getvalue()
    assert "red �[31m and � loud" in out.getvalue()
