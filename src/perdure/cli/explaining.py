"""`explain`: what an error or a reason means, why it happens and what to do, without a network.

The texts of errors are the docstrings of their classes. docs/errors.md is `page()`; a test compares
them.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Annotated, TypeGuard

import typer

from perdure import errors
from perdure.cli import screen
from perdure.cli.options import AsJson
from perdure.cli.outcome import Exit
from perdure.errors import Failed, PerdureError, StoreError, UsageError
from perdure.kernel.unit.held import REASONS as REASON_OF_FAILURE

REASONS = {
    "paused": """The instance was paused. It is `suspended`, and its messages are kept.

- Why: `pause()` was called, or `perdure pause`.
- Do: `perdure resume ID`, or `handle.resume()`. The instance goes on with the messages that came
  meanwhile, and with the timers that came due.
""",
    "not_registered": """This node's app lacks the workflow, its version, or an activity.

- Why: a deploy went out without a module, a definition was renamed without `name=`, an old version
  was removed while instances of it were running, or another program opened the store.
- Do: deploy the code that has it. The instance goes on by itself when such a node starts, or when
  the definition is added to the app of a running one.
""",
    "nondeterminism": """The code did something else than its journal says.

- Why: the code was changed under a running instance, or it depends on something that differs from
  one run to the next: a clock, a random number, a global variable, the order of a set.
- Do: deploy code that does the same up to the line that the failure names. Put the change behind
  `workflow.patched("id")`, give the new code a version of its own beside the old one, or put the
  old code back. The instance goes on by itself, and nothing was lost.
""",
    "undecodable": """The journal of the instance, or a message in its inbox, cannot be read.

- Why: a newer release wrote it, or the file is damaged. The unreadable data is kept as it is.
- Do: run the newer release, or restore the store from a backup. Then `perdure retry ID`, or
  `perdure terminate ID`.
""",
    "stuck": """The code waits for something that nothing can bring. The failure has the line.

- Why: no activity, timer, message or child is pending, and yet the code waits: for an
  `asyncio.Event` that no task sets, a queue that no task fills, a lock that is never released.
- Do: mend the code and deploy it (the instance goes on by itself), or cancel the instance.
""",
    "poison": """Its turns failed several times in a row, or the process died with it at work.

- Why: the code between two waits takes longer than `turn_limit_ms` (an endless loop, a heavy
  computation), an interceptor fails in its turns, or its code ends the process. The instance is
  suspended so that the node can live.
- Do: mend the cause, and move computations into activities. Then `perdure retry ID`.
""",
}
"""Why an instance is `suspended`: the reasons that rows, lists and `perdure ls` show."""

HEAD = """# Errors and reasons

What went wrong, why, and what to do. `perdure explain NAME` prints each section without a network.
NAME may be copied from a traceback, from a list, or from a message. This page is made from the
docstrings of `perdure.errors`.

Every class derives from `PerdureError`, as [the tree](api/errors.md) shows. An instance that ended
without a result has a `Failure`, which is data: `perdure show ID` prints it.
"""

REASONS_HEAD = """## Why an instance is suspended

`suspended` means that nothing is lost, and that nothing happens until a person acts.
`perdure ls --status suspended` shows the instances and their reasons.
"""

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]", help="An error or a reason. Without a name: a list.", show_default=False
    ),
]


def explain(name: Name = None, as_json: AsJson = False) -> int:
    """Say what an error, or the reason of a suspended instance, means and what to do."""
    if name is None:
        _list(as_json=as_json)
        return Exit.OK
    topic = find(name)
    if as_json:
        screen.json({"name": topic, "text": text_of(topic)})
    else:
        screen.say(f"{topic}\n\n{_plain(text_of(topic))}")
    return Exit.OK


def _list(*, as_json: bool) -> None:
    if as_json:
        screen.json({"errors": list(error_classes()), "reasons": list(REASONS)})
        return
    width = max(map(len, (*error_classes(), *REASONS)))
    for topic in (*error_classes(), *REASONS):
        first, _, _ = text_of(topic).partition("\n\n")
        screen.say(f"{topic:{width}}  {' '.join(first.split())}")


def find(name: str) -> str:
    """The topic that a name means: a class, a reason, or the type of a failure.

    A class may be named with or without its module.

    Raises:
        UsageError: there is none. The message names similar topics.
    """
    # A name may be copied from a traceback, where it has a module before it and a colon behind it.
    short = name.strip().rstrip(":").rpartition(".")[2].lower()
    by_lower = {topic.lower(): topic for topic in (*error_classes(), *REASONS)}
    for kind, reason in REASON_OF_FAILURE.items():
        by_lower[kind.lower()] = reason
    if short in by_lower:
        return by_lower[short]
    hint = "`perdure explain` lists all"
    near = difflib.get_close_matches(short, by_lower, 2, 0.75)
    if near:
        # Two spellings may stand for one topic, which is named once.
        topics = dict.fromkeys(by_lower[match] for match in near)
        hint = f"did you mean {' or '.join(topics)}?"
    msg = f"nothing is called {name!r}: {hint}"
    raise UsageError(msg)


_GENERAL = {PerdureError, UsageError, StoreError, Failed}


def error_classes() -> dict[str, type[PerdureError]]:
    """The public errors, in the order of their module."""
    return {name: thing for name, thing in vars(errors).items() if _is_error(thing)}


def _is_error(thing: object) -> TypeGuard[type[PerdureError]]:
    return inspect.isclass(thing) and issubclass(thing, PerdureError)


def text_of(topic: str) -> str:
    """The explanation of an error or a reason, as Markdown."""
    kind = error_classes().get(topic)
    if kind is None:
        return REASONS[topic].strip()
    # Every class has a docstring, except under `python -OO`, which removes them.
    return (inspect.getdoc(kind) or "").strip()


def _plain(text: str) -> str:
    """Markdown as a terminal shows it: the names of the parts stand out as they are."""
    return text.replace("``", "")


def more(error: PerdureError) -> str | None:
    """The command that explains an error. None where the message says all there is."""
    name = error.page.partition("#")[2]
    for kind, thing in error_classes().items():
        # The pages of the general classes tell nothing about the error at hand. An error that has
        # no page of its own, such as one of a link, has that of one of them.
        if kind.lower() == name and thing not in _GENERAL:
            return f"perdure explain {kind}"
    return None


def page() -> str:
    """docs/errors.md."""
    of_errors = map(_section, error_classes())
    of_reasons = map(_section, REASONS)
    return "\n".join([HEAD, "## Errors\n", *of_errors, REASONS_HEAD, *of_reasons])


def _section(topic: str) -> str:
    return f"### {topic}\n\n{text_of(topic)}\n"


if __name__ == "__main__":  # python -m perdure.cli.explaining > docs/errors.md
    screen.say(page().rstrip())
