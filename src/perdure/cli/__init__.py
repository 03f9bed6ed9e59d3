"""The command line: `perdure run`, `serve`, `ls`, `show` and the rest.

    program.py      the commands by name. Every error becomes one line and an exit code
    outcome.py      exit codes, and the errors that give them
    target.py       `shop.py:checkout` as an app and a workflow
    door.py         the store that `--store` names, opened for reading or posting
    runs.py         run, start, wait
    serving.py      serve
    listings.py     ls
    showing.py      show
    events.py       history
    replaying.py    replay
    explaining.py   explain
    controls.py     send, raise-event, cancel, terminate, pause, resume, retry
    removing.py     delete, prune
    linting.py      lint
    watch.py        an instance until its end, woken by its commits
    progress.py     the live view of that
    timeline.py     a history as steps, and the steps as bars
    layout.py       the columns of a table on a screen of any width
    sheet.py        a table that is printed while its rows are read
    payloads.py     payloads as JSON
    view.py         rows, events and payloads as JSON
    screen.py       text and JSON on stdout and stderr
    streams.py      stdout and stderr themselves, closed or full ones, too

stdout has the answer and nothing else. Progress, notes and errors go to stderr. `import perdure`
imports nothing of this package.
"""

from __future__ import annotations


def main() -> None:
    """The entry point of the `perdure` command. Ends the process with its exit code."""
    # typer and rich take a moment to import, so they are loaded when a command runs.
    from perdure.cli.program import program

    program()
