"""`explain`: each error and each reason, by any name under which a person meets it, without a store or a network."""

from __future__ import annotations

import pytest
from invocation import Cli

from perdure.cli.explaining import REASONS, error_classes


@pytest.mark.parametrize("name", [*error_classes(), *REASONS])
def test_everything_has_an_explanation(cli: Cli, name: str) -> None:
    ended = cli("explain", name)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"{name}\n\n")
    assert "\n- Why: " in ended.stdout
    assert "\n- Do: " in ended.stdout


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("perdure.errors.StoreLocked:", "StoreLocked"),  # as in a traceback
        ("storelocked", "StoreLocked"),
        ("NondeterminismError", "nondeterminism"),  # the type of the failure
        ("UndecodableJournal", "undecodable"),
        ("POISON", "poison"),
    ],
)
def test_a_name_may_be_copied_from_where_it_was_seen(cli: Cli, asked: str, found: str) -> None:
    assert cli("explain", asked).stdout.startswith(f"{found}\n")


def test_a_name_that_nobody_knows_gets_the_nearest(cli: Cli) -> None:
    ended = cli("explain", "StoreLock")
    assert ended.code == 2
    assert "nothing is called 'StoreLock': did you mean StoreLocked?" in ended.stderr
    assert "`perdure explain` lists all" in cli("explain", "xyzzy").stderr
    assert cli("explain", "").code == 2


def test_the_list_has_one_line_for_each(cli: Cli) -> None:
    lines = cli("explain").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*error_classes(), *REASONS]


def test_json(cli: Cli) -> None:
    assert cli("explain", "--json").json == {
        "errors": list(error_classes()),
        "reasons": list(REASONS),
    }
    told = cli("explain", "stuck", "--json").json
    assert told == {"name": "stuck", "text": REASONS["stuck"].strip()}


def test_an_error_names_the_command_that_explains_it(cli: Cli) -> None:
    ended = cli("show", "nobody")
    assert ended.code == 5
    assert ended.stderr.rstrip().endswith("(more: perdure explain StoreUnavailable)")
    assert (
        "more:" not in cli("explain", "xyzzy").stderr
    )  # a wrong call has nothing to add to its message
    # An error of a link has no page of its own. That of all errors would not help.
    unreachable = cli("ls", "--store", "perdure://127.0.0.1:1")
    assert unreachable.code == 5
    assert "no node answers at 127.0.0.1:1" in unreachable.stderr
    assert "more:" not in unreachable.stderr
    aside = cli("run", "shop.py:stuck")
    assert aside.code == 7
    assert "or cancel the instance. (more: perdure explain stuck)\n" in aside.stderr
