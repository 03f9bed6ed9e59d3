"""`start`, `send`, `cancel` and the rest: posted without a node, done by the next one."""

from __future__ import annotations

import pytest
from invocation import Cli


def drive(cli: Cli) -> None:
    """A node that takes up what waits, and leaves."""
    assert cli("run", "shop.py:double", "-q").code == 0


@pytest.fixture
def waiting(cli: Cli) -> str:
    """The id of an instance that waits for a message."""
    cli("run", "shop.py:approval", '["o"]', "--id", "a", "--timeout", "0")
    return "a"


def finish(cli: Cli, id: str) -> tuple[int, str]:
    ended = cli("run", "shop.py:approval", '["o"]', "--id", id)
    return ended.code, ended.stderr


def test_start_prints_the_id_and_a_node_does_the_rest(cli: Cli) -> None:
    started = cli("start", "shop.py:double", "21")
    name = started.stdout.strip()
    assert name.startswith("double-")
    assert cli("run", "shop.py:double", "21", "--id", name).json == 42


def test_start_by_name_needs_no_code(cli: Cli, folder) -> None:
    (folder / "shop.py").rename(folder / "hidden")
    assert cli("start", "double", "[4]", "--id", "d", "--json").json == {"id": "d"}
    assert cli("start", "approval", '"o"', "--id", "a").stdout == "a\n"
    (folder / "hidden").rename(folder / "shop.py")
    assert cli("run", "shop.py:double", "[4]", "--id", "d").json == 8


def test_start_again_joins_or_is_refused(cli: Cli, waiting: str) -> None:
    assert cli("start", "approval", '["o", 1]', "--id", waiting).code == 0
    assert cli("start", "approval", '["other", 1]', "--id", waiting).code == 6
    assert (
        cli("start", "shop.py:approval", '["o"]', "--id", waiting, "--if-exists", "reject").code
        == 6
    )


def test_a_message_is_kept_until_a_node_runs(cli: Cli, waiting: str) -> None:
    assert cli("send", waiting, "approved", "true").stdout == "send: posted to 'approved' of a\n"
    assert cli("run", "shop.py:approval", '["o"]', "--id", waiting).json is True


def test_a_message_from_stdin_as_json(cli: Cli, waiting: str) -> None:
    assert cli("send", waiting, "approved", "-", "--json", stdin="false").json == {
        "id": "a",
        "posted": "send",
    }
    assert cli("run", "shop.py:approval", '["o"]', "--id", waiting).json is False


def test_a_message_with_a_key_is_posted_once(cli: Cli, waiting: str) -> None:
    for value in ("true", "false"):
        assert cli("send", waiting, "other", value, "--key", "evt_1").code == 0
    assert cli("send", waiting, "other", "1", "--key", "evt_2").code == 0
    assert cli("stats", "--json").json["messages"] == 2
    empty = cli("send", waiting, "other", "1", "--key", "")
    assert empty.code == 2
    assert "the key of a message is empty" in empty.stderr


def test_a_message_may_overtake_the_node_that_takes_the_start(cli: Cli) -> None:
    cli("start", "shop.py:approval", '["o"]', "--id", "a")
    assert cli("send", "a", "approved", "true").code == 0
    assert cli("run", "shop.py:approval", '["o"]', "--id", "a").json is True


def test_an_event(cli: Cli) -> None:
    cli("run", "shop.py:event", "go", "--id", "e", "--timeout", "0")
    cli("run", "shop.py:event", '"go"', "--id", "e", "--timeout", "0")
    assert cli("raise-event", "e", "go", '"now"').code == 0
    assert cli("run", "shop.py:event", '"go"', "--id", "e").json == "now"


def test_cancel(cli: Cli, waiting: str) -> None:
    assert cli("cancel", waiting, "--reason", "too late").stdout == "cancel: posted to a\n"
    code, text = finish(cli, waiting)
    assert code == 1
    assert "approval 'a' was cancelled: too late" in text


def test_terminate(cli: Cli, waiting: str) -> None:
    assert cli("terminate", waiting, "--reason", "enough").code == 0
    code, text = finish(cli, waiting)
    assert code == 1
    assert "approval 'a' was terminated: enough" in text


def test_pause_and_resume(cli: Cli, waiting: str) -> None:
    assert cli("pause", waiting).code == 0
    assert cli("send", waiting, "approved", "true").code == 0
    late = cli("run", "shop.py:approval", '["o"]', "--id", waiting, "--timeout", "0")
    assert late.code == 4
    assert "is suspended (paused)" in late.stderr
    assert cli("ls", "--reason", "paused", "--json").json["instances"][0]["paused"] is True
    assert cli("resume", waiting).code == 0
    assert finish(cli, waiting)[0] == 0


def test_retry_one_that_was_set_aside(cli: Cli, folder) -> None:
    assert cli("run", "shop.py:stuck", "--id", "s").code == 7
    assert cli("retry", "s").stdout == "retry: posted to s\n"
    assert (
        cli("run", "shop.py:stuck", "--id", "s").code == 7
    )  # it was tried again, and waits for nothing again


def test_what_has_ended_cannot_be_stopped_nor_go_on(cli: Cli) -> None:
    cli("run", "shop.py:double", "--id", "d")
    for verb in ("cancel", "terminate"):
        ended = cli(verb, "d", "--json")
        assert (ended.code, ended.json) == (0, {"id": "d", "posted": None})
        assert "'d' is completed already; nothing was changed" in ended.stderr
    for verb in ("pause", "resume", "retry"):
        ended = cli(verb, "d")
        assert (ended.code, ended.stdout) == (6, "")
        assert f"'d' is completed already, so there is nothing to {verb}" in ended.stderr
    sent = cli("send", "d", "c", "1")
    assert (sent.code, sent.stdout) == (6, "")
    assert "'d' has ended; nothing was sent to it" in sent.stderr


def test_a_wait_behind_a_posted_retry_waits_for_its_effect(cli: Cli) -> None:
    assert cli("run", "shop.py:stuck", "--id", "s").code == 7
    assert cli("wait", "s").code == 7
    cli("retry", "s")
    assert cli("wait", "s", "--timeout", "0.2").code == 4
