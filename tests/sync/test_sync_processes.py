"""Whole programs on a portal: Ctrl-C, forgotten closes, errors and forks leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from blocking_shop import add, app

PROGRAMS = Path(__file__).with_name("blocking_shop.py")
DEADLINE_S = 40


def start(name: str, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", PROGRAMS, name, url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(name: str, url: str) -> tuple[int, str, str]:
    with start(name, url) as program:
        out, errors = program.communicate(timeout=DEADLINE_S)
    return program.returncode, out, errors


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shop.db'}"


def test_ctrl_c_ends_a_call_at_once_and_leaves_the_node_usable(url: str) -> None:
    with start("interrupted", url) as program:
        assert program.stdout is not None
        for _ in range(2):
            assert program.stdout.readline() == "waiting\n"
            program.send_signal(signal.SIGINT)
            assert program.stdout.readline() == "interrupted\n"
        out, errors = program.communicate(timeout=DEADLINE_S)
    assert (program.returncode, out, errors) == (0, "Ada: yes\n", "")


def test_ctrl_c_that_nobody_catches_stops_the_node_in_order(url: str) -> None:
    with start("not_caught", url) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "waiting\n"
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=DEADLINE_S)
    assert program.returncode in {-signal.SIGINT, 130}
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "Task" not in errors
    with app.node(url).sync() as node:
        assert node.client.get("ask-1").status() == "running"


@pytest.mark.parametrize(("program", "code"), [("left_open", 0), ("left_open_by_an_error", 1)])
def test_a_node_that_nobody_closes_is_stopped_at_the_end_of_the_process(
    program: str, code: int, url: str
) -> None:
    ended, out, errors = run(program, url)
    assert (ended, out) == (code, "7\n"), errors
    assert errors == "" if code == 0 else errors.rstrip().endswith("LookupError: nobody catches it")
    with app.node(url).sync() as node:  # its owner has let go of it
        assert node.client.workflow(add, id="add-1").result() == 7


def test_a_forked_process_is_refused_and_the_parent_goes_on(url: str) -> None:
    code, out, errors = run("forked", url)
    first, second = out.splitlines()
    assert code == 0, errors
    assert "was forked from it: the event loop is not here. Open it after the fork" in first
    assert second == "7"


def test_ctrl_c_while_the_node_stops_waits_until_it_has(url: str) -> None:
    assert run("closed_twice", url) == (0, "stopped: [True] 1\n", "")


def test_a_client_alone(url: str) -> None:
    with app.node(url).sync():
        pass
    code, out, errors = run("client_alone", url)
    assert (code, errors) == (0, "")
    assert out.startswith("'add-1' has not ended within 0.05 s; it is not there yet")
    assert out.endswith("True\n")
    with app.node(url).sync() as node:
        assert node.client.workflow(add, id="add-1").result(timeout=DEADLINE_S) == 10
