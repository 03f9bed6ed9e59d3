"""`run`: the answer on stdout, the steps on stderr, and an exit code that says how it ended."""

from __future__ import annotations

import pytest
from invocation import Cli

CART = '{"cart": {"card": "c", "cents": 5}}'
RESULT = {"paid": "c-5", "packed": "HAT", "token": "t"}


def test_the_result_is_all_that_goes_to_stdout(cli: Cli) -> None:
    ended = cli("run", "shop.py:checkout", CART, "--id", "o-1")
    assert ended.code == 0, ended.stderr
    assert ended.json == RESULT
    assert "the module was imported" in ended.stderr
    assert "checkout o-1 completed after" in ended.stderr


def test_the_timeline_shows_every_step_once(cli: Cli) -> None:
    lines = cli("run", "shop.py:checkout", CART).stderr.splitlines()
    steps = [line.split()[:2] for line in lines if "━" in line]
    assert steps == [
        ["activity", "charge"],
        ["child", "pack"],
        ["timer", "cool"],
        ["checkpoint", "token"],
    ]
    assert (
        next(line for line in lines if "charge" in line and "━" in line).split("━")[-1].split()[-3]
        == "2"
    )  # tries


def test_on_a_terminal_the_steps_are_shown_while_they_happen(cli: Cli) -> None:
    ended = cli("run", "shop.py:checkout", CART, env={"FORCE_COLOR": "1"})
    assert ended.json == RESULT
    assert "\x1b[?25l" in ended.stderr  # the live display hides the cursor
    assert ended.stderr.rstrip().splitlines()[-1].startswith("checkout checkout-")


def test_json_is_one_document(cli: Cli) -> None:
    ended = cli("run", "shop.py:checkout", CART, "--id", "o-1", "--json")
    assert ended.json == {
        "id": "o-1",
        "type": "checkout",
        "status": "completed",
        "reason": None,
        "result": RESULT,
        "failure": None,
    }


def test_quiet_leaves_only_the_result(cli: Cli) -> None:
    ended = cli("run", "shop.py:double", "21", "-q")
    assert (ended.stdout, ended.stderr) == ("42\n", "the module was imported\n")


@pytest.mark.parametrize("arguments", ['{"order": "o", "days": 2}', '["o", 2]', '["o"]', '"o"'])
def test_arguments_by_name_by_position_or_the_only_one(cli: Cli, arguments: str) -> None:
    assert cli("run", "shop.py:approval", arguments, "--id", "a", "--timeout", "0").code == 4
    assert cli("history", "a", "--json").json["events"][0]["input"][0] == "o"


def test_arguments_from_stdin(cli: Cli) -> None:
    assert cli("run", "shop.py:double", "-", stdin="[4]").json == 8


def test_no_arguments_at_all(cli: Cli) -> None:
    assert cli("run", "shop.py:double").json == 2


@pytest.mark.parametrize("target", ["shop:double", "./shop.py:double", "shop.py:double"])
def test_a_file_or_a_module(cli: Cli, target: str) -> None:
    assert cli("run", target).json == 2


def test_a_module_with_one_workflow_needs_no_name(cli: Cli, folder) -> None:
    (folder / "tiny.py").write_text(
        "from perdure import App\napp = App('tiny')\n@app.workflow\nasync def one() -> int:\n    return 1\n"
    )
    assert cli("run", "tiny.py").json == 1


def test_a_file_in_a_package_is_imported_with_it(cli: Cli, folder) -> None:
    package = folder / "firm" / "sales"
    package.mkdir(parents=True)
    (folder / "firm" / "__init__.py").touch()
    (package / "__init__.py").write_text("from perdure import App\napp = App('sales')\n")
    (package / "flows.py").write_text(
        "from . import app\n@app.workflow\nasync def one() -> int:\n    return 1\n"
    )
    assert cli("run", "firm/sales/flows.py:one").json == 1
    assert cli("run", "firm.sales.flows:one").json == 1


def test_the_app_may_live_in_another_module(cli: Cli, folder) -> None:
    (folder / "entry.py").write_text("from shop import double\n")
    assert cli("run", "entry.py:double").json == 2


def test_a_workflow_that_fails(cli: Cli) -> None:
    ended = cli("run", "shop.py:broken", "--id", "b")
    assert ended.code == 1
    assert ended.stdout == ""
    assert "perdure: broken 'b' failed: ValueError: no stock is left (at " in ended.stderr
    assert "shop.py:" in ended.stderr
    assert "in broken)" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_workflow_that_fails_as_json(cli: Cli) -> None:
    ended = cli("run", "shop.py:broken", "--id", "b", "--json")
    assert ended.code == 1
    assert ended.json["status"] == "failed"
    assert ended.json["failure"]["type"] == "ValueError"


def test_one_that_is_set_aside_does_not_hang(cli: Cli) -> None:
    ended = cli("run", "shop.py:stuck", "--id", "s", "--json")
    assert ended.code == 7
    assert ended.json["reason"] == "stuck"
    assert "is suspended (stuck)" in ended.stderr


def test_the_same_id_goes_on_where_it_was(cli: Cli) -> None:
    late = cli("run", "shop.py:approval", '["o"]', "--id", "a", "--timeout", "0")
    assert late.code == 4
    assert "'a' has not ended within 0 s" in late.stderr
    assert cli("send", "a", "approved", "true").code == 0
    assert cli("run", "shop.py:approval", '["o"]', "--id", "a").json is True
    assert (
        cli("run", "shop.py:approval", '["o"]', "--id", "a").json is True
    )  # it has ended: its result again


@pytest.mark.parametrize(
    ("arguments", "options"),
    [('["other"]', []), ('["o"]', ["--if-exists", "reject"])],
    ids=["other input", "reject"],
)
def test_an_id_that_is_taken(cli: Cli, arguments: str, options: list[str]) -> None:
    cli("run", "shop.py:approval", '["o"]', "--id", "a", "--timeout", "0")
    ended = cli("run", "shop.py:approval", arguments, "--id", "a", *options)
    assert ended.code == 6
    assert "the id 'a' is taken" in ended.stderr
    assert "--if-exists 'replace'" in ended.stderr


def test_replacing_one(cli: Cli) -> None:
    cli("run", "shop.py:approval", '["o"]', "--id", "a", "--timeout", "0")
    assert cli("run", "shop.py:double", "4", "--id", "a", "--if-exists", "replace").json == 8


def test_a_store_in_memory_is_enough_for_a_run(cli: Cli, folder) -> None:
    assert cli("run", "shop.py:double", "--store", "memory://").json == 2
    assert not list(folder.glob("*.db"))


def test_the_store_can_come_from_the_environment(cli: Cli, folder) -> None:
    assert cli("run", "shop.py:double", env={"PERDURE_STORE": "sqlite:///other.db"}).code == 0
    assert (folder / "other.db").exists()
    assert not (folder / "perdure.db").exists()
