"""The command line: `perdure run`, `serve`, `ls`, `show` and the rest.

    program.py      the commands by name; every error becomes one line and an exit code
    outcome.py      exit codes, and which error gives which
    target.py       `shop.py:checkout` as an app and a workflow
    door.py         the store that `--store` names, opened for reading or posting
    runs.py         run, start, wait
    serving.py      serve
    listings.py     ls, show, history
    replaying.py    replay
    explaining.py   explain
    controls.py     send, raise-event, cancel, terminate, pause, resume, retry
    linting.py      lint
    watch.py        an instance until its end, woken by its commits
    progress.py     what a person sees of that
    timeline.py     a history as steps, and the steps as bars
    view.py         rows, events and payloads as JSON
    screen.py       what goes to stdout and what to stderr

stdout has the answer and nothing else; progress, notes and errors go to stderr. Nothing here is imported by
`import perdure`.
"""

from __future__ import annotations


def main() -> None:
    """The entry point of the `perdure` command; ends the process with its exit code."""
    from perdure.cli.program import (
        program,
    )  # typer and rich are loaded when a command runs, not before

    program()
