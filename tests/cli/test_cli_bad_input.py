"""Bad input: one line that names the thing and the remedy, an exit code for scripts, and nothing recorded."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
from invocation import Cli, said_on_stdout

from perdure.cli.outcome import MEANINGS
from perdure.cli.program import NAMES

MODULES = {
    "empty.py": "x = 1\n",
    "two.py": """
from perdure import App
a, b = App("a"), App("b")
@a.workflow
async def one() -> int:
    return 1
@b.workflow
async def two() -> int:
    return 2
both = App("both")
both.include(a)
@both.workflow
async def three() -> int:
    return 3
""",
    "syntax.py": "def f(:\n",
    "crash.py": "import json\n\ndef load():\n    return json.loads('')\n\nload()\n",
    "needs.py": "import not_installed_anywhere\n",
    "logging.py": "",
    "two-words.py": "",
    "stray.py": "from two import one\n\nfrom perdure import App\n\napp = App('stray')\n",
    "lost.py": """
from perdure import App
def make():
    app = App("hidden")
    @app.workflow
    async def gone() -> int:
        return 1
    return gone
gone = make()
""",
}

CASES: list[tuple[str, int, list[str]]] = [
    # targets
    ("run shap.py:checkout", 2, ["there is no file shap.py", "check the path"]),
    ("run .", 2, ["is a folder"]),
    ("run ./", 2, ["is a folder"]),
    ("run two-words.py", 2, ["two-words.py cannot be imported", "letters, digits"]),
    ("run nowhere:checkout", 2, ["there is no module 'nowhere'"]),
    ("run :checkout", 2, ["':checkout' names no code", "shop.py:checkout"]),
    ("run shop.py:", 2, ["'shop.py:' names no code"]),
    ("run shop.py:chekout", 2, ["has no 'chekout'", "did you mean shop.py:checkout?"]),
    ("run shop.py:zzz", 2, ["has no 'zzz'", "shop.py:checkout"]),
    ("run shop.py:charge", 2, ["is the activity 'charge', not a workflow", "shop.py:checkout"]),
    ("run shop.py:app", 2, ["is the app 'shop', not a workflow"]),
    ("run shop.py:NUMBER", 2, ["is an int, not a workflow"]),
    ("run shop.py", 2, ["say which workflow", "shop.py:double"]),
    ("run empty.py", 2, ["say which workflow", "it has none"]),
    ("run lost.py:gone", 2, ["no app in lost.py has the workflow 'gone'"]),
    ("run shop.py:double --app NUMBER", 2, ["shop.py:NUMBER is an int, not an App"]),
    ("run two.py:one --app b", 2, ["two.py:b (app 'b') does not have the workflow 'one'"]),
    ("run two.py:one", 2, ["is in several apps of two.py: a, both", "--app"]),
    ("run syntax.py:x", 2, ["cannot import syntax.py", "syntax.py:1:"]),
    ("run crash.py:x", 2, ["cannot import crash.py: JSONDecodeError", "crash.py:4"]),
    (
        "run needs.py:x",
        2,
        ["cannot import needs.py: ModuleNotFoundError", "not_installed_anywhere", "needs.py:1"],
    ),
    ("run logging.py:x", 2, ["logging.py cannot be imported as 'logging'", "rename the file"]),
    ("serve two.py", 2, ["two.py: say which app", "two.py:a"]),
    ("serve empty.py", 2, ["no App is in it"]),
    (
        "serve shop.py:double",
        2,
        ["is the workflow 'double', and a node needs an App", "shop.py:app"],
    ),
    # arguments
    ("run shop.py:double {", 2, ["arguments of workflow 'double'", "no JSON"]),
    (
        "run shop.py:approval [true]",
        2,
        ["argument 'order' of workflow 'approval'", "Expected `str`, got `bool`"],
    ),
    ("run shop.py:approval", 2, ["argument 'order' of workflow 'approval' is missing"]),
    ('run shop.py:approval {"ordr":1}', 2, ["has no argument 'ordr'", "order, days"]),
    ("run shop.py:double [1,2]", 2, ["argument 'n' of workflow 'double'", "got `array`"]),
    (
        'run shop.py:checkout {"cart":{"card":1}}',
        2,
        ["argument 'cart' of workflow 'checkout' at 'card'"],
    ),
    ("prune d --keep-last -1", 2, ["equal to 0. See: perdure prune --help"]),
    ("sendd d", 2, ["Did you mean 'send'? See: perdure --help"]),
    ("run shop.py:double --id=", 2, ["an id must not be empty"]),
    ("run shop.py:double --version one", 2, ["'one' is not a version", "major.minor.patch"]),
    ("start double {", 2, ["arguments of workflow 'double'", "no JSON"]),
    ("start", 2, ["Missing argument 'TARGET'", "perdure start --help"]),
    ("send a approved yes", 2, ["the message for channel 'approved' is no JSON", "double quotes"]),
    ("raise-event a go {", 2, ["the event 'go' is no JSON"]),
    # options
    ("lz", 2, ["No such command 'lz'", "perdure --help"]),
    ("ls --nope", 2, ["No such option: --nope", "perdure ls --help"]),
    ("ls --status odd", 2, ["--status", "'odd'", "'running'"]),
    ("ls --limit many", 2, ["--limit"]),
    ("ls --limit -1", 2, ["--limit"]),
    ("ls --after zzz", 2, ["'zzz' is no place in this list"]),
    (
        "ls --where customer",
        2,
        ["--where 'customer' is no condition", "NAME OPERATOR VALUE", "customer=c1"],
    ),
    ("ls --where =c1", 2, ["--where '=c1' is no condition"]),
    ("ls --where total==1", 2, ["--where 'total==1' is no condition"]),
    ("ls --where total=null", 2, ["--where 'total=null'", "needs text, a number"]),
    ("ls --where total>[1]", 2, ["--where 'total>[1]'", "got [1]"]),
    ("ls --where a,b=1", 2, ["--where 'a,b=1'", "'a,b' cannot be the name of a search attribute"]),
    ("ls --ended-before soon", 2, ["--ended-before 'soon' is no time", "an age"]),
    ("stats --store sqlite:///none.db", 5, ["there is no store none.db"]),
    ("stats --store sqlite:///shop.py", 5, ["shop.py is not a SQLite database"]),
    ("ls --version one", 2, ["'one' is not a version"]),
    ("wait a --timeout -1", 2, ["--timeout"]),
    ("bench quick", 2, ["'quick'", "'parallel'", "perdure bench --help"]),
    ("bench --seconds 0", 2, ["a run needs some time", "seconds=0"]),
    ("bench --outstanding 0", 2, ["outstanding of parallel must be at least 1, got 0"]),
    (
        "bench steps --delay-ms 5",
        2,
        ["--delay-ms means nothing to the shape steps", "--outstanding, --activities"],
    ),
    ("bench payload --results 6x", 2, ["--results '6x'", "6x10,6x50,8x100"]),
    (
        "bench --compare none.jsonl",
        2,
        ["none.jsonl cannot be read", "perdure bench --keep none.jsonl"],
    ),
    ("bench --compare crash.py", 2, ["crash.py, line 1 is no result", "remove the line"]),
    ("serve shop.py --options none.toml", 2, ["cannot read options from none.toml"]),
    # ids
    ("show nobody", 3, ["no instance has the id 'nobody'", "perdure ls"]),
    ("history nobody", 3, ["no instance has the id 'nobody'"]),
    ("wait nobody", 3, ["no instance has the id 'nobody'"]),
    ("send nobody c 1", 3, ["no instance has the id 'nobody'"]),
    ("raise-event nobody c", 3, ["no instance has the id 'nobody'"]),
    *[
        (f"{verb} nobody", 3, ["no instance has the id 'nobody'"])
        for verb in ("cancel", "terminate", "pause", "resume", "retry")
    ],
    ("history a --execution 7", 3, ["'a' has no execution 7", "kept is 1"]),
    ("send a bad\x07 1", 2, ["channel", "bad"]),
    # stores
    (
        "ls --store shop.db",
        2,
        ["'shop.db' names no store", "did you mean 'sqlite:///shop.db'"],
    ),
    ("ls --store sqlite:///none.db", 5, ["there is no store none.db", "--store"]),
    ("send a c 1 --store sqlite:///none.db", 5, ["there is no store none.db"]),
    (
        "ls --store memory://",
        2,
        ["memory:// lives in the memory of one process", "sqlite:///perdure.db"],
    ),
    ("start double --store memory://", 2, ["memory:// lives in the memory"]),
    ("serve shop.py --store memory://", 2, ["memory:// lives in the memory"]),
    ("run shop.py:double --store sqlite:///none/x.db", 5, ["none/x.db does not exist", "mkdir"]),
    ("ls --store sqlite:///shop.py", 5, ["shop.py is not a SQLite database"]),
    ("bench --store sqlite:///foreign.db", 5, ["no Perdure store", "songs"]),
    ("bench --store sqlite:///none/x.db", 5, ["none/x.db does not exist", "mkdir"]),
    ("bench --store shop.db", 2, ["did you mean 'sqlite:///shop.db'"]),
    ("ls --store sqlite:///foreign.db", 5, ["no Perdure store", "songs"]),
    ("run shop.py:double --store sqlite:///foreign.db", 5, ["no Perdure store", "songs"]),
    ("ls --store sqlite:///perdure.db?shard=2", 2, ["unknown option 'shard'"]),
]


@pytest.fixture
def store(cli: Cli, folder: Path) -> None:
    """A store with one instance, and files that are none."""
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    connection = apsw.Connection("foreign.db")
    connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    assert cli("start", "approval", '["o"]', "--id", "a").code == 0
    cli("run", "shop.py:double", "-q")  # a node begins `a`, too


@pytest.mark.usefixtures("store")
def test_each_bad_input_gives_one_line_and_an_exit_code(cli: Cli, folder: Path) -> None:
    before = cli("ls", "--json").stdout
    wrong: list[str] = []
    for command, code, parts in CASES:
        ended = cli(*command.split(" "))
        lines = [line for line in ended.stderr.splitlines() if line != "the module was imported"]
        missing = [part for part in parts if part not in ended.stderr]
        if (
            ended.code != code
            or missing
            or len(lines) != 1
            or not lines[0].startswith("perdure: ")
            or said_on_stdout(command, ended)
        ):
            wrong.append(
                f"{command}\n  -> {ended.code}, lacks {missing}\n  {ended.stderr}{ended.stdout}"
            )
    assert not wrong, "\n".join(wrong)
    assert cli("ls", "--json").stdout == before
    assert not (folder / "none.db").exists()


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("args", [["--debug", "show", "nobody"], ["show", "nobody", "--debug"]])
def test_debug_shows_where_an_error_comes_from(cli: Cli, args: list[str]) -> None:
    ended = cli(*args)
    assert ended.code == 3
    assert "Traceback" in ended.stderr
    assert "NotFound" in ended.stderr


def test_a_defect_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("perdure.cli.runs.find_workflow", fail)
    ended = cli("run", "shop.py:double")
    assert ended.code == 70
    assert "internal error: KeyError: 'oops'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_names_every_exit_code(cli: Cli) -> None:
    text = cli("--help").stdout
    for code in ("0", "1", "2", "3", "4", "5", "6", "7", "70", "130"):
        assert f" {code}  " in text


def test_help_has_a_line_for_each_exit_code_and_no_type_behind_a_flag(cli: Cli) -> None:
    lines = cli("--help", env={"COLUMNS": "100"}).stdout.rstrip().splitlines()
    codes = lines[lines.index(" Exit codes:") + 1 :]
    assert [line.split()[0] for line in codes if line[:7].strip()] == [
        str(code.value) for code in MEANINGS
    ]
    assert "" not in [line.strip() for line in codes], "no empty line between two codes"
    for command in ("--help", "run --help", "letters --help", "letters ls --help"):
        assert "<bool>" not in cli(*command.split()).stdout


def test_no_command_at_all_shows_the_help(cli: Cli) -> None:
    ended = cli()
    assert ended.code == 2
    assert "Usage: perdure" in ended.stdout


def test_the_page_about_the_command_line_is_complete() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for code, meaning in MEANINGS.items():
        assert f"| {code.value} | {meaning} |" in page
    for name in NAMES:
        assert f"`perdure {name}" in page


def test_help_is_folded_by_the_terminal_and_not_by_the_source(cli: Cli) -> None:
    lines = cli("serve", "--help", env={"COLUMNS": "200"}).stdout.splitlines()
    (line,) = (line.strip() for line in lines if "The node takes up everything" in line)
    assert len(line) > 150
