"""What a command logs on stderr, and in which form."""

from __future__ import annotations

import json
from pathlib import Path

from invocation import Cli

LOUD = """
from perdure import App, activity, workflow

app = App("loud")


@app.activity
async def one() -> int:
    activity.logger.info("in the activity")
    return 1


@app.workflow
async def loud() -> int:
    workflow.logger.info("in the workflow")
    return await one()
"""


def test_records_as_json(cli: Cli, folder: Path) -> None:
    (folder / "loud.py").write_text(LOUD)
    ended = cli(
        "run", "loud.py", "--id", "x", "--quiet", "--log-level", "info", "--log-format", "json"
    )
    assert (ended.code, ended.json) == (0, 1)
    records = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [(r["message"], r["instance"], r.get("activity")) for r in records] == [
        ("in the workflow", "x", None),
        ("in the activity", "x", "one"),
    ]


def test_records_for_people(cli: Cli, folder: Path) -> None:
    (folder / "loud.py").write_text(LOUD)
    ended = cli("run", "loud.py", "--id", "x", "--quiet", "--log-level", "info")
    assert "INFO    perdure.workflow: in the workflow [instance=x execution=1" in ended.stderr
    assert cli("run", "loud.py", "--id", "y", "--quiet").stderr == "", (
        "warnings and above, if nothing else is asked for"
    )


def test_the_environment_raises_one_area(cli: Cli, folder: Path) -> None:
    (folder / "loud.py").write_text(LOUD)
    ended = cli("run", "loud.py", "--quiet", env={"PERDURE_LOG": "perdure.activity=info"})
    assert "in the activity" in ended.stderr
    assert "in the workflow" not in ended.stderr


def test_a_bad_environment_is_named(cli: Cli) -> None:
    ended = cli("run", "shop.py:double", env={"PERDURE_LOG": "perdure.nodes=debug"})
    assert ended.code == 2
    assert (
        "PERDURE_LOG: there is no area 'perdure.nodes'; areas are perdure, perdure.activity"
        in ended.stderr
    )
    assert not Path("perdure.db").exists()


def test_a_bad_format_is_named(cli: Cli) -> None:
    ended = cli("run", "shop.py:double", "--log-format", "xml")
    assert ended.code == 2
    assert "'xml' is not one of 'text', 'json'" in ended.stderr
